"""The Prometheus metrics of Trainyard: one table, and the samples of a run as a pure function of its status.

The local runner and the operator expose the same series for a run; `docs/metrics.md` is generated from the
table. A run has at most MAXIMUM_SERIES_PER_RUN series and they are computed from what is known now, so that
they vanish with the run: nothing is remembered per label value.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from trainyard_api.names import Metric, OperatorMetric, Phase, Stage
from trainyard_api.spec import TrainingRun
from trainyard_api.status import Accounting, Progress, TrainingRunStatus
from trainyard_api.task_metrics import LOSS, NAMES
from trainyard_api.timestamps import parse_timestamp

MAXIMUM_SERIES_PER_RUN = 30
RUN_LABELS = ("namespace", "name")


class MetricKind(StrEnum):
    """What Prometheus calls the type of a metric."""

    GAUGE = "gauge"
    COUNTER = "counter"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class MetricDefinition:
    """What a metric is."""

    name: Metric | OperatorMetric
    """Name of the series; a histogram's get _bucket, _sum and _count behind it."""
    kind: MetricKind
    """Its type."""
    help: str
    """What it tells, and its unit."""
    labels: tuple[str, ...] = ()
    """Names of its labels."""
    buckets: tuple[float, ...] = ()
    """Upper bounds of a histogram."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One series of a run with its value."""

    metric: Metric
    """Which metric."""
    value: float
    """Its value."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """Labels beyond RUN_LABELS."""


def _gauge(name: Metric | OperatorMetric, text: str, *labels: str) -> MetricDefinition:
    return MetricDefinition(name, MetricKind.GAUGE, text, labels)


def _counter(name: Metric | OperatorMetric, text: str, *labels: str) -> MetricDefinition:
    return MetricDefinition(name, MetricKind.COUNTER, text, labels)


def _histogram(name: OperatorMetric, text: str, buckets: tuple[float, ...], *labels: str) -> MetricDefinition:
    return MetricDefinition(name, MetricKind.HISTOGRAM, text, labels, buckets)


RUN_METRICS: tuple[MetricDefinition, ...] = tuple(
    MetricDefinition(definition.name, definition.kind, definition.help, (*RUN_LABELS, *definition.labels))
    for definition in (
        _gauge(Metric.INFO, "Always 1; labels tell what the run is", "objective", "nodes", "accelerator"),
        _gauge(Metric.PHASE, "1 for the phase that the run is in; other phases have no series", "phase"),
        _gauge(Metric.STEP, "Optimizer steps done"),
        _gauge(Metric.TOTAL_STEPS, "Optimizer steps of the whole run"),
        _gauge(
            Metric.LOSS,
            "Training loss of the last step, a mean over predictions: nats for tokens and classes, "
            "squared error for numbers",
        ),
        _gauge(Metric.EVALUATION_LOSS, "Loss on the held-out examples, in the unit of the training loss"),
        _gauge(
            Metric.TASK_METRIC,
            "Metric of a fine-tuning task on held-out examples, such as MacroF1, at the last evaluation",
            "metric",
        ),
        _gauge(Metric.LEARNING_RATE, "Learning rate of the last step"),
        _gauge(Metric.GRADIENT_NORM, "L2 norm of the gradient before clipping"),
        _counter(Metric.TOKENS, "Tokens processed, padding not counted; falls back when steps are redone"),
        _gauge(Metric.TOKENS_PER_SECOND, "Tokens per second over all processes, padding not counted"),
        _gauge(Metric.PACKING_EFFICIENCY, "Positions of a batch that hold tokens, 0 to 1"),
        _gauge(Metric.SECONDS_LEFT, "Seconds left of the stage, estimated"),
        _counter(Metric.RESTARTS, "Restarts after faults"),
        _gauge(Metric.CHECKPOINT_AGE, "Seconds since the newest checkpoint was committed"),
        _gauge(Metric.PROGRESS_AGE, "Seconds since the processes of a running run last told their progress"),
        _gauge(
            Metric.TIME,
            "Seconds by what they went into: Productive, or a cause of lost time "
            "(Queue, Startup, Restart, Recompute, Stall)",
            "cause",
        ),
    )
)
"""The metrics of a run."""

_PASS_BUCKETS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_WAIT_BUCKETS = (0.001, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0)

OPERATOR_METRICS: tuple[MetricDefinition, ...] = (
    _gauge(OperatorMetric.BUILD_INFO, "Always 1; labels tell what runs", "version", "python"),
    _gauge(OperatorMetric.LEADER, "1 while this replica holds the Lease"),
    _gauge(OperatorMetric.RUNS, "Runs by phase", "phase"),
    _counter(OperatorMetric.RECONCILES, "Passes by result (success, requeued, error or other)", "result"),
    _histogram(OperatorMetric.RECONCILE_SECONDS, "Seconds that a pass took", _PASS_BUCKETS),
    _gauge(OperatorMetric.ACTIVE_WORKERS, "Passes at work now"),
    _gauge(OperatorMetric.MAXIMUM_WORKERS, "Passes that may be at work at once"),
    _gauge(OperatorMetric.QUEUE_DEPTH, "Runs that wait for a pass"),
    _histogram(OperatorMetric.QUEUE_SECONDS, "Seconds that a run waited for its pass", _WAIT_BUCKETS),
    _counter(
        OperatorMetric.API_REQUESTS,
        "Requests to the API server; the code is an HTTP status, or `error` where there was no answer",
        "verb",
        "resource",
        "code",
    ),
    _histogram(
        OperatorMetric.API_REQUEST_SECONDS, "Seconds until the API server answered", _PASS_BUCKETS, "verb"
    ),
    _gauge(OperatorMetric.WATCH_AGE, "Seconds since a watch last told anything or was opened", "resource"),
    _counter(
        OperatorMetric.PROGRESS_POSTS,
        "Progress POSTs by protocol (trainyard or kubeflow) and what became of them",
        "protocol",
        "outcome",
    ),
    _histogram(
        OperatorMetric.PROGRESS_POST_SECONDS, "Seconds until a progress POST was answered", _PASS_BUCKETS
    ),
    _counter(
        OperatorMetric.TOKEN_REVIEWS,
        "TokenReviews asked of the API server by result (authenticated, refused or error)",
        "result",
    ),
    _gauge(OperatorMetric.CERTIFICATE_EXPIRY, "Unix time at which the progress endpoint's certificate ends"),
)
"""The metrics of the operator itself."""


def run_samples(
    info: Mapping[str, str],
    status: TrainingRunStatus,
    now: float,
    *,
    progress_received_at: float | None = None,
) -> list[Sample]:
    """The series of a run; what has no value yet has no series.

    Args:
        info: what `info_labels` says of the run.
        status: its status, with the newest progress.
        now: Unix time in seconds.
        progress_received_at: when the progress arrived by this machine's clock; None takes the sender's word.
    """
    samples = [
        Sample(Metric.INFO, 1.0, info),
        Sample(Metric.PHASE, 1.0, {"phase": status.phase.value}),
        Sample(Metric.RESTARTS, float(status.restarts)),
        *_time_samples(status.accounting),
    ]
    if status.checkpoint is not None:
        age = max(0.0, now - parse_timestamp(status.checkpoint.committed_at))
        samples.append(Sample(Metric.CHECKPOINT_AGE, age))
    if status.progress is not None:
        samples += [*_progress_samples(status.progress), *_task_samples(status.progress)]
        # Pods that read a shard report nothing, so the age of the last report would tell of no trouble.
        is_reading = bool(status.attempts) and status.attempts[-1].stage == Stage.READ
        if status.phase is Phase.RUNNING and not is_reading:
            told_at = progress_received_at or parse_timestamp(status.progress.updated_at)
            samples.append(Sample(Metric.PROGRESS_AGE, max(0.0, now - told_at)))
    return samples


def info_labels(run: TrainingRun) -> dict[str, str]:
    """The labels that tell what a run is: all that metrics need of its spec."""
    pretraining, tuning, workers = run.spec.language_modeling, run.spec.fine_tuning, run.spec.workers
    task = tuning.task if tuning is not None else ""
    return {
        "objective": pretraining.objective if pretraining is not None else task,
        "nodes": str(workers.nodes),
        "accelerator": workers.accelerator.resource_name if workers.accelerator.count else "",
    }


def _progress_samples(progress: Progress) -> Iterator[Sample]:
    values: dict[Metric, float | None] = {
        Metric.STEP: progress.step,
        Metric.TOTAL_STEPS: progress.total_steps,
        Metric.LOSS: progress.loss,
        Metric.EVALUATION_LOSS: progress.evaluation_loss,
        Metric.LEARNING_RATE: progress.learning_rate,
        Metric.GRADIENT_NORM: progress.gradient_norm,
        Metric.TOKENS: progress.tokens,
        Metric.TOKENS_PER_SECOND: progress.tokens_per_second,
        Metric.PACKING_EFFICIENCY: progress.packing_efficiency,
        Metric.SECONDS_LEFT: progress.eta_seconds,
    }
    return (Sample(metric, float(value)) for metric, value in values.items() if value is not None)


def _task_samples(progress: Progress) -> Iterator[Sample]:
    """The metrics of a task; pods tell their names, so that only known ones become labels."""
    for name, value in (progress.metrics or {}).items():
        if name in NAMES and name != LOSS:  # the loss is a metric of its own
            yield Sample(Metric.TASK_METRIC, value, {"metric": name})


def _time_samples(accounting: Accounting) -> Iterator[Sample]:
    lost = accounting.lost_seconds.model_dump(by_alias=True)
    seconds = {"Productive": accounting.productive_seconds, **lost}
    return (Sample(Metric.TIME, float(value), {"cause": cause}) for cause, value in seconds.items())
