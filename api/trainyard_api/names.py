"""Every name that crosses a process boundary: exit codes, reasons, conditions, variables, metrics, files."""

from enum import IntEnum, StrEnum

GROUP = "trainyard.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
KIND = "TrainingRun"
PLURAL = "trainingruns"
SINGULAR = "trainingrun"
SHORT_NAMES = ("trun",)
CATEGORIES = ("training",)

DEFAULT_RENDEZVOUS_PORT = 29500


class ExitCode(IntEnum):
    """What a Trainyard process tells its parent; the numbers follow sysexits.h where one fits."""

    SUCCEEDED = 0
    """The stage is done."""
    INTERNAL_ERROR = 1
    """An error that Trainyard did not foresee; retried within `restartPolicy`."""
    INVALID_CONFIGURATION = 64
    """The TrainingRun cannot work as written; a retry cannot help."""
    INVALID_DATA = 65
    """A source, tokenizer or model file is missing or broken; a retry cannot help."""
    UNAVAILABLE = 69
    """A port, a lock or a folder is in use by another process; nothing was started."""
    RUN_FOLDER_CONFLICT = 73
    """The run folder belongs to another spec; nothing was changed."""
    STORAGE_FULL = 74
    """No space is left for data or checkpoints; a retry helps only once there is."""
    RETRYABLE = 75
    """A fault outside the run's control (a lost peer, a killed process); a retry may help."""
    DIVERGED = 76
    """The loss became infinite or not a number; a retry would repeat it."""
    PREEMPTED = 80
    """Told to stop, saved a checkpoint and left; start again to resume."""
    DEADLINE_EXCEEDED = 81
    """`activeDeadlineSeconds` is over; the last checkpoint stays."""


PERMANENT_EXIT_CODES = frozenset(
    {
        ExitCode.INVALID_CONFIGURATION,
        ExitCode.INVALID_DATA,
        ExitCode.UNAVAILABLE,
        ExitCode.RUN_FOLDER_CONFLICT,
        ExitCode.STORAGE_FULL,
        ExitCode.DIVERGED,
        ExitCode.DEADLINE_EXCEEDED,
    },
)
"""Codes after which a restart cannot help; every other non-zero code but PREEMPTED is retried."""


class Stage(StrEnum):
    """The stages of a run, in their order."""

    PREPARE = "Prepare"
    TRAIN = "Train"
    EXPORT = "Export"


class Phase(StrEnum):
    """A one-word summary of the conditions, for people."""

    PENDING = "Pending"
    RUNNING = "Running"
    RESTARTING = "Restarting"
    SUSPENDED = "Suspended"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"


class ConditionType(StrEnum):
    """The conditions of `status.conditions`."""

    VALIDATED = "Validated"
    ADMITTED = "Admitted"
    PODS_SCHEDULED = "PodsScheduled"
    RUNNING = "Running"
    PROGRESSING = "Progressing"
    SUSPENDED = "Suspended"
    COMPLETE = "Complete"
    FAILED = "Failed"


class Reason(StrEnum):
    """Machine-readable reasons of conditions, failures and events."""

    SPEC_VALID = "SpecValid"
    SPEC_INVALID = "SpecInvalid"
    STAGE_STARTED = "StageStarted"
    STAGE_FINISHED = "StageFinished"
    STAGE_REUSED = "StageReused"
    RUN_SUCCEEDED = "RunSucceeded"
    RUN_SUSPENDED = "RunSuspended"
    STOPPED_BY_USER = "StoppedByUser"
    RESTARTING = "Restarting"
    RESTARTS_EXHAUSTED = "RestartsExhausted"
    PERMANENT_FAILURE = "PermanentFailure"
    DEADLINE_EXCEEDED = "DeadlineExceeded"
    PROCESS_KILLED = "ProcessKilled"
    PROCESS_FAILED = "ProcessFailed"
    OUT_OF_MEMORY = "OOMKilled"
    STORAGE_FULL = "StorageFull"
    DIVERGED = "Diverged"
    INVALID_DATA = "InvalidData"
    INVALID_CONFIGURATION = "InvalidConfiguration"
    PREEMPTED = "Preempted"


class Environment(StrEnum):
    """Environment variables that a plan sets; torchrun's agent reads the `PET_` ones."""

    NODES = "PET_NNODES"
    NODE_RANK = "PET_NODE_RANK"
    PROCESSES_PER_NODE = "PET_NPROC_PER_NODE"
    MASTER_ADDRESS = "PET_MASTER_ADDR"
    MASTER_PORT = "PET_MASTER_PORT"
    MAX_RESTARTS = "PET_MAX_RESTARTS"


class File(StrEnum):
    """Files and folders inside a run folder."""

    LOCK = "run.lock"
    RUN = "run.yaml"
    PLAN = "plan.json"
    STATUS = "status.json"
    PROGRESS = "progress.json"
    HISTORY = "history.jsonl"
    EVENTS = "events.jsonl"
    DATA = "data.json"
    REPORT = "report.html"
    CHECKPOINTS = "checkpoints"
    MODEL = "model"
    LOGS = "logs"
    PREPARED = "prepared"


class Metric(StrEnum):
    """Prometheus metrics of one run."""

    INFO = "trainyard_run_info"
    PHASE = "trainyard_run_phase"
    STEP = "trainyard_run_step"
    TOTAL_STEPS = "trainyard_run_total_steps"
    LOSS = "trainyard_run_loss"
    EVALUATION_LOSS = "trainyard_run_evaluation_loss"
    LEARNING_RATE = "trainyard_run_learning_rate"
    GRADIENT_NORM = "trainyard_run_gradient_norm"
    TOKENS = "trainyard_run_tokens_total"
    TOKENS_PER_SECOND = "trainyard_run_tokens_per_second"
    SECONDS_LEFT = "trainyard_run_seconds_left"
    RESTARTS = "trainyard_run_restarts_total"
    CHECKPOINT_AGE = "trainyard_run_last_checkpoint_age_seconds"
    PACKING_EFFICIENCY = "trainyard_run_packing_efficiency_ratio"
