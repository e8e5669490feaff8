"""What the trainer's rank 0 tells its parent: files in the run folder, POSTs to the operator on a cluster.

`progress.json` (ProgressReport) is replaced atomically and read by whoever shows or publishes it.
`history.jsonl` gets one HistoryRecord per optimizer step or evaluation; after a resume, a later line for the
same step wins. `events.jsonl` gets one EventRecord per thing that happens once. The ExitRecord in
`exit-rank-N.json` of the attempt's log folder tells why a process left.
"""

from pydantic import Field

from trainyard_api.model import ApiModel
from trainyard_api.status import CheckpointStatus, Progress, Timestamp


class WorkSeconds(ApiModel):
    """Where the seconds of all optimizer steps of a run went, over all attempts."""

    productive: float
    """Seconds of steps that were done for the first time."""
    recompute: float
    """Seconds of steps that had to be done again."""


class WorkRecord(ApiModel):
    """What the beginning of the history adds up to, so that a start need not read it again."""

    history_bytes: int = Field(ge=0)
    """How much of `history.jsonl` is added up."""
    newest_step: int = Field(ge=0)
    """The largest step in it."""
    productive: float
    """See WorkSeconds."""
    recompute: float
    """See WorkSeconds."""


class ProgressReport(ApiModel):
    """The newest state of the training processes."""

    attempt: int
    """Attempt that wrote it."""
    progress: Progress
    """How far the stage is."""
    checkpoint: CheckpointStatus | None = None
    """The newest committed checkpoint."""
    work: WorkSeconds | None = None
    """Where the time of the steps went; not set before the first."""


class HistoryRecord(ApiModel):
    """One optimizer step, or one evaluation when evaluationLoss is set."""

    step: int
    """Optimizer steps done when it was written."""
    time: float
    """Unix time, in seconds."""
    loss: float | None = None
    """Training loss, a mean over predictions: nats for tokens and classes, squared error for numbers."""
    loss_terms: dict[str, float] | None = None
    """Mean of each term of the loss before its weight, by name; not set where there is only one."""
    evaluation_loss: float | None = None
    """Loss on the held-out examples, in the unit of the training loss."""
    metrics: dict[str, float] | None = None
    """Metrics of the task on the held-out examples, by name."""
    learning_rate: float | None = None
    """Learning rate of the step."""
    gradient_norm: float | None = None
    """L2 norm of the gradient before clipping."""
    tokens: int | None = None
    """Tokens of this step over all processes, padding not counted."""
    positions: int | None = None
    """Positions of this step over all processes, padding counted."""
    step_seconds: float | None = None
    """Seconds the step took."""
    data_seconds: float | None = None
    """Seconds of it that rank 0 waited for data."""


class EventRecord(ApiModel):
    """Something that happened once: a stage began or ended, a checkpoint was committed, an attempt failed."""

    time: float
    """Unix time, in seconds."""
    type: str
    """StageStarted, StageFinished, StageReused, CheckpointCommitted, Startup, AttemptFailed, ..."""
    stage: str = ""
    """Read, Prepare, Cache, Train or Export."""
    attempt: int = 0
    """Attempt it belongs to."""
    message: str = ""
    """For people."""
    seconds: float | None = None
    """How long it took."""
    values: dict[str, float] = {}
    """Further figures by name, such as the parts of the start-up in seconds."""


class ExitRecord(ApiModel):
    """Why a process left."""

    rank: int
    """Global rank."""
    exit_code: int = Field(ge=0)
    """One of names.ExitCode."""
    reason: str
    """One of names.Reason."""
    message: str = ""
    """What was wrong and the remedy."""
    log_tail: str = ""
    """The last lines of its log, with secrets blacked out; only in the termination message of a pod."""
    step: int | None = None
    """Optimizer steps done."""
    time: Timestamp
    """When it left."""
