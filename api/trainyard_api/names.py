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

FIELD_MANAGER = "trainyard"
"""Who the API server records as the writer of everything the operator applies."""
TRAINER_CONTAINER = "trainer"
"""The container of a worker pod whose end is the end of the pod."""


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

    READ = "Read"
    """Reads the sources in shards; only where `data.preparation.shards` is above 1."""
    PREPARE = "Prepare"
    CACHE = "Cache"
    """Writes the teacher's predictions; only with `distillation.teacherCache`."""
    TRAIN = "Train"
    EXPORT = "Export"


GANG_STAGES = frozenset({Stage.CACHE, Stage.TRAIN})
"""The stages whose processes are ranks of one gang, and compute on accelerators where there are any."""

FIRST_SHARD = "shard 1 of "
"""How the progress of the first shard begins, which alone tells the operator how far it is."""


class Label(StrEnum):
    """Labels of every object that the operator makes."""

    MANAGED_BY = "app.kubernetes.io/managed-by"
    """Always `trainyard`."""
    RUN = "trainyard.dev/run"
    """Name of the run."""
    RUN_UID = "trainyard.dev/run-uid"
    """UID of the run: a run of the same name that was deleted and made again is another one."""
    STAGE = "trainyard.dev/stage"
    """read, prepare, cache, train or export; absent on what serves all stages."""
    ATTEMPT = "trainyard.dev/attempt"
    """Number of the attempt, from 0."""
    NODE_INDEX = "trainyard.dev/node-index"
    """Number of the pod in its gang."""
    INCARNATION = "trainyard.dev/incarnation"
    """Number of the pod among those that had this place in this attempt, normally 0."""


class KueueName(StrEnum):
    """Labels and annotations by which Kueue admits pods and Jobs."""

    QUEUE = "kueue.x-k8s.io/queue-name"
    """Label: the LocalQueue."""
    PRIORITY_CLASS = "kueue.x-k8s.io/priority-class"
    """Label: a WorkloadPriorityClass."""
    POD_GROUP = "kueue.x-k8s.io/pod-group-name"
    """Label: the group that is admitted as a whole."""
    POD_GROUP_TOTAL = "kueue.x-k8s.io/pod-group-total-count"
    """Annotation: pods of the group."""
    RETRIABLE_IN_GROUP = "kueue.x-k8s.io/retriable-in-group"
    """Annotation: "false" when nobody will replace a failed pod of the group."""


class PodPath(StrEnum):
    """Places in a worker pod."""

    PLAN_FOLDER = "/etc/trainyard"
    PLAN = "/etc/trainyard/plan.json"
    DATA = "/data"
    """Root of the storage claim."""
    STORAGE_ROOT = "/data/runs"
    HOME = "/home/trainyard"
    TEMPORARY = "/tmp"  # noqa: S108 - a volume of the pod's own
    SHARED_MEMORY = "/dev/shm"  # noqa: S108 - a volume of the pod's own
    TERMINATION_MESSAGE = "/dev/termination-log"
    PROGRESS_FOLDER = "/var/run/secrets/trainyard"
    PROGRESS_TOKEN = "/var/run/secrets/trainyard/token"  # noqa: S105 - a path
    PROGRESS_CA = "/var/run/secrets/trainyard/ca.crt"


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
    ADMITTED = "Admitted"
    WAITING_FOR_QUOTA = "WaitingForQuota"
    QUOTA_EXCEEDED = "QuotaExceeded"
    ADMISSION_REFUSED = "AdmissionRefused"
    WAITING_FOR_RUN = "WaitingForRun"
    UPSTREAM_FAILED = "UpstreamFailed"
    UPSTREAM_MISSING = "UpstreamMissing"
    UPSTREAM_CYCLE = "UpstreamCycle"
    CLAIM_MISSING = "ClaimMissing"
    PODS_PENDING = "PodsPending"
    PODS_SCHEDULED = "PodsScheduled"
    UNSCHEDULABLE = "Unschedulable"
    POD_DELETED = "PodDeleted"
    EVICTED = "Evicted"
    NODE_LOST = "NodeLost"
    NODES_CHANGED = "NodesChanged"
    SUSPENDING = "Suspending"
    RESUMED = "Resumed"
    STEPS_REPORTED = "StepsReported"
    STALLED = "Stalled"
    QUEUE_DEADLINE_EXCEEDED = "QueueDeadlineExceeded"
    STARTUP_DEADLINE_EXCEEDED = "StartupDeadlineExceeded"
    IMAGE_PULL_BACK_OFF = "ImagePullBackOff"
    IMAGE_PULL_ERROR = "ErrImagePull"
    IMAGE_NEVER_PULL = "ErrImageNeverPull"
    IMAGE_INSPECT_ERROR = "ImageInspectError"
    INVALID_IMAGE_NAME = "InvalidImageName"
    REGISTRY_UNAVAILABLE = "RegistryUnavailable"
    SIGNATURE_INVALID = "SignatureValidationFailed"
    RUN_CONTAINER_ERROR = "RunContainerError"
    CONTAINER_CONFIG_ERROR = "CreateContainerConfigError"
    CONTAINER_ERROR = "CreateContainerError"


class Environment(StrEnum):
    """Environment variables that a plan sets; torchrun's agent reads the `PET_` ones."""

    NODES = "PET_NNODES"
    NODE_RANK = "PET_NODE_RANK"
    PROCESSES_PER_NODE = "PET_NPROC_PER_NODE"
    MASTER_ADDRESS = "PET_MASTER_ADDR"
    MASTER_PORT = "PET_MASTER_PORT"
    MAX_RESTARTS = "PET_MAX_RESTARTS"
    SHARD_INDEX = "JOB_COMPLETION_INDEX"
    """Number of the shard that a process reads; in a pod the Job controller sets it."""


class PodEnvironment(StrEnum):
    """Environment variables that only pods have: who they are and where progress goes."""

    POD_NAME = "TRAINYARD_POD_NAME"
    """Name of the pod; its presence tells the trainer that it runs in one."""
    PROGRESS_URL = "TRAINYARD_PROGRESS_URL"
    """Whole address that a ProgressReport is POSTed to."""
    PROGRESS_TOKEN_FILE = "TRAINYARD_PROGRESS_TOKEN_FILE"  # noqa: S105 - a variable's name
    """Projected service account token; it is replaced before it expires, so it is read each time."""
    PROGRESS_CA_FILE = "TRAINYARD_PROGRESS_CA_FILE"
    """Certificates that the operator's one is verified with."""
    TERMINATION_LOG = "TRAINYARD_TERMINATION_LOG"
    """File of the termination message, where it is not /dev/termination-log."""
    KUBEFLOW_URL = "KUBEFLOW_TRAINER_SERVER_URL"
    """Whole address that stock Transformers reports to, by the protocol of Kubeflow Trainer."""
    KUBEFLOW_CA_FILE = "KUBEFLOW_TRAINER_SERVER_CA_CERT"
    """The same certificates, under the name that Transformers reads."""
    KUBEFLOW_TOKEN_FILE = "KUBEFLOW_TRAINER_SERVER_TOKEN"  # noqa: S105 - a variable's name
    """The same token, under the name that Transformers reads."""


PROGRESS_AUDIENCE = "trainyard.dev/progress"
"""Audience of the tokens that the progress endpoint takes; they open nothing else."""


def progress_path(namespace: str, name: str) -> str:
    """Path of the progress endpoint for a run."""
    return f"/{VERSION}/namespaces/{namespace}/{PLURAL}/{name}/progress"


def kubeflow_status_path(namespace: str, name: str) -> str:
    """Path of the same run in the protocol of Kubeflow Trainer."""
    return f"/apis/trainer.kubeflow.org/v1alpha1/namespaces/{namespace}/trainjobs/{name}/status"


class File(StrEnum):
    """Files and folders inside a run folder; ADAPTER lies in MODEL."""

    LOCK = "run.lock"
    RUN = "run.yaml"
    PLAN = "plan.json"
    STATUS = "status.json"
    PROGRESS = "progress.json"
    HISTORY = "history.jsonl"
    WORK = "work.json"
    EVENTS = "events.jsonl"
    DATA = "data.json"
    START = "start.json"
    EVALUATION = "evaluation.json"
    REPORT = "report.html"
    CHECKPOINTS = "checkpoints"
    MODEL = "model"
    ADAPTER = "adapter"
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
    TASK_METRIC = "trainyard_run_task_metric"
    LEARNING_RATE = "trainyard_run_learning_rate"
    GRADIENT_NORM = "trainyard_run_gradient_norm"
    TOKENS = "trainyard_run_tokens_total"
    TOKENS_PER_SECOND = "trainyard_run_tokens_per_second"
    SECONDS_LEFT = "trainyard_run_seconds_left"
    RESTARTS = "trainyard_run_restarts_total"
    CHECKPOINT_AGE = "trainyard_run_last_checkpoint_age_seconds"
    PACKING_EFFICIENCY = "trainyard_run_packing_efficiency_ratio"
    PROGRESS_AGE = "trainyard_run_progress_age_seconds"
    TIME = "trainyard_run_time_seconds"


class OperatorMetric(StrEnum):
    """Prometheus metrics of the operator itself; `metrics.py` describes them."""

    BUILD_INFO = "trainyard_operator_build_info"
    LEADER = "trainyard_operator_leader"
    RUNS = "trainyard_operator_runs"
    RECONCILES = "trainyard_operator_reconciles_total"
    RECONCILE_SECONDS = "trainyard_operator_reconcile_seconds"
    ACTIVE_WORKERS = "trainyard_operator_active_workers"
    MAXIMUM_WORKERS = "trainyard_operator_maximum_workers"
    QUEUE_DEPTH = "trainyard_operator_queue_depth"
    QUEUE_SECONDS = "trainyard_operator_queue_seconds"
    API_REQUESTS = "trainyard_operator_api_requests_total"
    API_REQUEST_SECONDS = "trainyard_operator_api_request_seconds"
    WATCH_AGE = "trainyard_operator_watch_age_seconds"
    PROGRESS_POSTS = "trainyard_operator_progress_posts_total"
    PROGRESS_POST_SECONDS = "trainyard_operator_progress_post_seconds"
    TOKEN_REVIEWS = "trainyard_operator_token_reviews_total"  # noqa: S105 - a metric  # noqa: S105 - a name, no secret
    CERTIFICATE_EXPIRY = "trainyard_operator_certificate_expiry_timestamp_seconds"


class ProgressOutcome(StrEnum):
    """What became of a POST to the progress endpoint."""

    ACCEPTED = "accepted"
    STALE = "stale"
    UNAUTHENTICATED = "unauthenticated"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not_found"
    TOO_LARGE = "too_large"
    INVALID = "invalid"
    RATE_LIMITED = "rate_limited"
    TIMED_OUT = "timed_out"
    NOT_LEADER = "not_leader"
    UNAVAILABLE = "unavailable"
