"""TrainingRun v1alpha1, the observed state: `.status` on a cluster, `status.json` on a laptop."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from trainyard_api.model import ApiModel
from trainyard_api.names import Phase

Timestamp = Annotated[str, Field(json_schema_extra={"format": "date-time"})]
"""RFC 3339 in UTC, such as 2026-11-23T08:00:00Z."""

Nats = Annotated[float, AfterValidator(lambda loss: round(loss, 4))]
"""A loss for people, to 4 decimals: printer columns show what the status holds. Histories keep all digits."""


class Condition(ApiModel):
    """One aspect of the run's state, by the Kubernetes convention."""

    type: str
    """Which aspect."""
    status: Literal["True", "False", "Unknown"]
    """Whether it holds."""
    reason: str
    """Why, in one CamelCase word."""
    message: str = ""
    """Why, for people."""
    last_transition_time: Timestamp
    """When status last changed."""
    observed_generation: int | None = None
    """Generation of the spec it was derived from."""


class Progress(ApiModel):
    """How far the current stage is."""

    stage: str
    """Read, Prepare, Cache, Train or Export."""
    detail: str = ""
    """What the stage is doing, such as tokenize."""
    step: int = 0
    """Optimizer steps done."""
    total_steps: int | None = None
    """Optimizer steps of the whole run; an estimate under a token or wall-clock budget."""
    tokens: int = 0
    """Tokens processed, padding not counted."""
    percent: float = 0.0
    """Part of the stage that is done, 0 to 100."""
    loss: Nats | None = None
    """Training loss of the last step, a mean over predictions: nats for tokens and classes, squared error for
    numbers."""
    evaluation_loss: Nats | None = None
    """Loss on the held-out examples, in the unit of the training loss."""
    metrics: dict[str, float] | None = None
    """Metrics of the task on the held-out examples, by name."""
    learning_rate: float | None = None
    """Learning rate of the last step."""
    gradient_norm: float | None = None
    """L2 norm of the gradient before clipping."""
    tokens_per_second: float | None = None
    """Tokens per second over all processes, padding not counted."""
    packing_efficiency: float | None = None
    """Fraction of the positions of a batch that hold tokens, 0 to 1."""
    eta_seconds: int | None = None
    """Seconds left of the stage, estimated."""
    last_step_at: Timestamp | None = None
    """When the operator first heard of the newest optimizer step. Not used on a laptop."""
    updated_at: Timestamp
    """When this was written."""


class CheckpointStatus(ApiModel):
    """The newest committed checkpoint."""

    step: int
    """Optimizer steps it holds."""
    uri: str
    """Where it lies."""
    committed_at: Timestamp
    """When it became valid."""


class MeasuredModel(ApiModel):
    """How large, how fast and how good a model is, on the CPU that exported the student."""

    parameters: int
    """Number of parameters, tied ones counted once."""
    size_bytes: int
    """Size of the files of its weights."""
    latency_p50_seconds: float
    """Median time of a forward pass of one row."""
    latency_p95_seconds: float
    """Time within which 95 of 100 such passes were done."""
    tokens_per_second: float
    """Tokens per second of forward passes of several rows."""
    quality: float | None = None
    """The metric of the comparison; not set where it is not defined."""


class TeacherComparison(ApiModel):
    """A student beside its teacher, measured in turn on one machine."""

    student: MeasuredModel
    """The exported model."""
    teacher: MeasuredModel
    """The model that it imitates."""
    metric: str
    """What quality is, such as MacroF1 or Loss."""
    examples: int
    """Held-out rows on which both were judged."""
    row_tokens: int
    """Tokens of the rows that were timed."""
    repeats: int
    """Forward passes of one row that each latency is taken from."""
    threads: int
    """Threads of the CPU that computed."""
    speed_up: float
    """The teacher's median latency by the student's."""
    retention_percent: float | None = None
    """The student's quality in per cent of the teacher's; for a loss, the teacher's in per cent of its."""


class ModelStatus(ApiModel):
    """The exported model."""

    uri: str
    """Where it lies."""
    format: str = "safetensors"
    """Format of the weights."""
    parameters: int
    """Number of parameters, tied ones counted once."""
    evaluation_loss: Nats | None = None
    """Loss on the held-out examples, in the unit of the training loss."""
    metrics: dict[str, float] | None = None
    """Metrics of the task on the held-out examples, by name."""
    comparison: TeacherComparison | None = None
    """The model beside its teacher; not set where it has none."""


class Failure(ApiModel):
    """The process that failed first, and the evidence."""

    pod: str = ""
    """Pod (on a laptop: the node's name)."""
    node: str = ""
    """Node it ran on."""
    rank: int | None = None
    """Global rank of the process."""
    exit_code: int
    """Exit code; 128 + n for death by signal n."""
    reason: str
    """Why, in one CamelCase word."""
    message: str = ""
    """Why, for people."""
    log_tail: str = ""
    """The last lines of its log."""


class Attempt(ApiModel):
    """One start of the gang."""

    number: int
    """Counted from 0."""
    started_at: Timestamp
    """When its first process was started."""
    finished_at: Timestamp | None = None
    """When its last process ended."""
    stage: str = "Train"
    """Stage it is in, or ended in: Read, Prepare, Cache, Train or Export. On a laptop always Train."""
    nodes: int | None = None
    """Worker pods it was planned for."""
    shards: int | None = None
    """Pods that share the reading of the sources; not set where the preparation reads them alone."""
    teacher_cache: bool | None = None
    """Whether a stage of its own writes the teacher's predictions; not set where there is none."""
    start_checkpoint_step: int | None = None
    """Step of the newest committed checkpoint when it started."""
    stage_started_at: Timestamp | None = None
    """When its stage was started."""
    pods_created_at: Timestamp | None = None
    """When all pods of its stage existed."""
    pods_scheduled_at: Timestamp | None = None
    """When all pods of its stage had nodes."""
    pods_running_at: Timestamp | None = None
    """When all pods of its stage were running: from then on it is active."""
    first_step_at: Timestamp | None = None
    """When the operator first heard of an optimizer step of it. Not used on a laptop."""
    exit_code: int | None = None
    """0, or the exit code of the process that failed first."""
    outcome: Literal["Running", "Succeeded", "Failed", "Preempted"] = "Running"
    """How it ended."""
    failure: Failure | None = None
    """What failed first."""


class LostSeconds(ApiModel):
    """Time that did not go into lasting optimizer steps, by cause."""

    queue: float = Field(default=0.0, alias="Queue")
    """Waiting for admission or nodes."""
    startup: float = Field(default=0.0, alias="Startup")
    """Starts that follow no fault: from when a stage had its machines to its first sign of work (in Train the
    first optimizer step, in other stages that all pods run), or to its end without one."""
    restart: float = Field(default=0.0, alias="Restart")
    """Ways back: from a fault to the first sign of work in the stage that had failed, or to the end of an
    attempt without one. Waiting that counts as Queue is left out."""
    recompute: float = Field(default=0.0, alias="Recompute")
    """Steps that had to be done again."""
    stall: float = Field(default=0.0, alias="Stall")
    """Steps that hung."""


class Accounting(ApiModel):
    """Where the time went."""

    active_seconds: float = 0.0
    """Seconds in which there were processes, over the stages (on a laptop the attempts) that have ended."""
    accelerator_seconds: float = 0.0
    """Accelerators held times seconds held, over the stages that ended; only Cache and Train hold any."""
    productive_seconds: float = 0.0
    """Seconds of optimizer steps that lasted."""
    lost_seconds: LostSeconds = LostSeconds()
    """Time that did not go into lasting steps."""


class TrainingRunStatus(ApiModel):
    """The observed state of a TrainingRun."""

    observed_generation: int | None = None
    """Generation of the spec this was derived from."""
    phase: Phase = Phase.PENDING
    """A one-word summary of the conditions."""
    conditions: list[Condition] = []
    """Validated, Admitted, PodsScheduled, Running, Progressing, Suspended, Complete, Failed."""
    attempt: int = 0
    """Number of the current attempt, counted from 0."""
    restarts: int = 0
    """Restarts after faults so far."""
    faults_since_checkpoint: int = 0
    """Faults since the newest checkpoint was committed; the run fails when they exceed maxRestarts."""
    prepared_at: Timestamp | None = None
    """When the data was prepared; that is done once."""
    progress: Progress | None = None
    """How far the current stage is."""
    checkpoint: CheckpointStatus | None = None
    """The newest committed checkpoint."""
    model: ModelStatus | None = None
    """The exported model."""
    attempts: list[Attempt] = []
    """The newest attempts, oldest first."""
    accounting: Accounting = Accounting()
    """Where the time went."""
