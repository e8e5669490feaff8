"""Prometheus metrics of the operator and of its runs, in a registry of its own.

Names, types and help come from `trainyard_api.metrics`. The series of runs are made when they are asked for,
from a snapshot that forgets a run with one call: nothing is kept per label value, as gauges of the client
library would.
"""

import platform
import threading
import time
from collections import Counter as Tally
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from trainyard_api.metrics import (
    OPERATOR_METRICS,
    RUN_LABELS,
    RUN_METRICS,
    MetricDefinition,
    MetricKind,
    info_labels,
    run_samples,
)
from trainyard_api.names import OperatorMetric, Phase, ProgressOutcome
from trainyard_api.spec import TrainingRun
from trainyard_api.status import TrainingRunStatus
from trainyard_operator.keys import RunKey
from trainyard_operator.progress_store import ProgressStore, ReceivedReport

VERBS = frozenset(
    {"GET", "LIST", "WATCH", "POST", "PUT", "PATCH", "APPLY", "DELETE", "DELETECOLLECTION"},
)
RESOURCES = frozenset(
    {
        "configmaps",
        "endpointslices",
        "events",
        "jobs",
        "leases",
        "persistentvolumeclaims",
        "pods",
        "services",
        "tokenreviews",
        "trainingruns",
    }
)
RESULTS = frozenset({"success", "requeued", "error"})
OTHER = "other"

Family = GaugeMetricFamily | CounterMetricFamily


@dataclass(frozen=True, slots=True)
class _KnownRun:
    info: Mapping[str, str]
    status: TrainingRunStatus


class RunCollector(Collector):
    """The series of all runs, at the moment they are asked for.

    Args:
        progress: where the newest progress is; it is newer than the status.
        clock: Unix time in seconds.
    """

    def __init__(self, progress: ProgressStore, clock: Callable[[], float]) -> None:
        self._progress = progress
        self._clock = clock
        self._runs: dict[RunKey, _KnownRun] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Number of runs."""
        return len(self._runs)

    def set_run(self, key: RunKey, run: TrainingRun, status: TrainingRunStatus) -> None:
        """Show a run as it is now."""
        with self._lock:
            self._runs[key] = _KnownRun(info_labels(run), status)

    def forget_run(self, key: RunKey) -> None:
        """Show a run no longer."""
        with self._lock:
            self._runs.pop(key, None)

    def describe(self) -> Iterable[Family]:
        """Nothing: registering must not read runs."""
        return ()

    def collect(self) -> Iterator[Family]:
        """Every series that has a value; made in the thread that asks, from a snapshot."""
        with self._lock:
            runs = list(self._runs.items())
        families = {definition.name: _family(definition) for definition in RUN_METRICS}
        own_labels = {definition.name: definition.labels[len(RUN_LABELS) :] for definition in RUN_METRICS}
        now = self._clock()
        for key, known in runs:
            received = self._progress.newest(key)
            samples = run_samples(
                known.info,
                newest_status(known.status, received),
                now,
                progress_received_at=received.received_at if received is not None else None,
            )
            for sample in samples:
                labels = [key.namespace, key.name, *map(sample.labels.__getitem__, own_labels[sample.metric])]
                families[sample.metric].add_metric(labels, sample.value)
        yield from (family for family in families.values() if family.samples)
        phases = Tally(known.status.phase for _, known in runs)
        by_phase = _family(_DEFINITIONS[OperatorMetric.RUNS])
        for phase in Phase:
            by_phase.add_metric([phase.value], float(phases[phase]))
        yield by_phase


def newest_status(status: TrainingRunStatus, received: ReceivedReport | None) -> TrainingRunStatus:
    """The status with the progress that came after it was written."""
    if received is None or received.report.attempt != status.attempt:
        return status
    report = received.report
    return status.model_copy(
        update={"progress": report.progress, "checkpoint": report.checkpoint or status.checkpoint}
    )


def _family(definition: MetricDefinition) -> Family:
    kind = CounterMetricFamily if definition.kind is MetricKind.COUNTER else GaugeMetricFamily
    return kind(definition.name.value, definition.help, labels=definition.labels)


_DEFINITIONS = {definition.name: definition for definition in OPERATOR_METRICS}


class OperatorMetrics:
    """Everything that the operator measures about itself, and the runs.

    Label values come from fixed sets; what is in none of them counts as `other`.

    Args:
        progress: the newest progress of runs.
        clock: Unix time in seconds.
    """

    def __init__(self, progress: ProgressStore, clock: Callable[[], float] = time.time) -> None:
        self.registry = CollectorRegistry()
        self.runs = RunCollector(progress, clock)
        self.registry.register(self.runs)
        ProcessCollector(registry=self.registry)
        self._clock = clock
        self._watches: dict[str, float] = {}
        build_info = self._gauge(OperatorMetric.BUILD_INFO)
        build_info.labels(version=version("trainyard"), python=platform.python_version()).set(1)
        self._leader = self._gauge(OperatorMetric.LEADER)
        self._reconciles = self._counter(OperatorMetric.RECONCILES)
        self._reconcile_seconds = self._histogram(OperatorMetric.RECONCILE_SECONDS)
        self._active_workers = self._gauge(OperatorMetric.ACTIVE_WORKERS)
        self._maximum_workers = self._gauge(OperatorMetric.MAXIMUM_WORKERS)
        self._queue_depth = self._gauge(OperatorMetric.QUEUE_DEPTH)
        self._queue_seconds = self._histogram(OperatorMetric.QUEUE_SECONDS)
        self._api_requests = self._counter(OperatorMetric.API_REQUESTS)
        self._api_request_seconds = self._histogram(OperatorMetric.API_REQUEST_SECONDS)
        self._watch_age = self._gauge(OperatorMetric.WATCH_AGE)
        self._progress_posts = self._counter(OperatorMetric.PROGRESS_POSTS)
        self._progress_post_seconds = self._histogram(OperatorMetric.PROGRESS_POST_SECONDS)
        self._token_reviews = self._counter(OperatorMetric.TOKEN_REVIEWS)
        self._certificate_expiry: Gauge | None = None

    def _gauge(self, name: OperatorMetric) -> Gauge:
        definition = _DEFINITIONS[name]
        return Gauge(name.value, definition.help, definition.labels, registry=self.registry)

    def _counter(self, name: OperatorMetric) -> Counter:
        definition = _DEFINITIONS[name]
        return Counter(name.value, definition.help, definition.labels, registry=self.registry)

    def _histogram(self, name: OperatorMetric) -> Histogram:
        definition = _DEFINITIONS[name]
        return Histogram(
            name.value,
            definition.help,
            definition.labels,
            buckets=definition.buckets,
            registry=self.registry,
        )

    def set_run(self, key: RunKey, run: TrainingRun, status: TrainingRunStatus) -> None:
        """Show a run as it is now."""
        self.runs.set_run(key, run, status)

    def forget_run(self, key: RunKey) -> None:
        """Show a run no longer; its series are gone from the next scrape on."""
        self.runs.forget_run(key)

    def observe_reconcile(self, result: str, seconds: float) -> None:
        """Count a pass: success, requeued or error."""
        self._reconciles.labels(result=result if result in RESULTS else OTHER).inc()
        self._reconcile_seconds.observe(seconds)

    def set_workers(self, active: int, maximum: int) -> None:
        """Tell how many passes are at work, and how many may be."""
        self._active_workers.set(active)
        self._maximum_workers.set(maximum)

    def set_queue_depth(self, depth: int) -> None:
        """Tell how many runs wait for a pass."""
        self._queue_depth.set(depth)

    def observe_queue_wait(self, seconds: float) -> None:
        """Tell how long a run waited for its pass."""
        self._queue_seconds.observe(seconds)

    def observe_api_request(self, verb: str, resource: str, code: int, seconds: float) -> None:
        """Count a request to the API server; code 0 stands for no answer."""
        self._api_requests.labels(
            verb=verb if verb in VERBS else OTHER,
            resource=resource if resource in RESOURCES else OTHER,
            code=str(code) if 100 <= code < 600 else "error",
        ).inc()
        self._api_request_seconds.labels(verb=verb if verb in VERBS else OTHER).observe(seconds)

    def set_leader(self, *, is_leader: bool) -> None:
        """Tell whether this replica leads."""
        self._leader.set(float(is_leader))

    def watch_told(self, resource: str) -> None:
        """Tell that a watch is alive: an event came, or it was opened anew."""
        name = resource if resource in RESOURCES else OTHER
        if name not in self._watches:
            self._watch_age.labels(resource=name).set_function(lambda: self._clock() - self._watches[name])
        self._watches[name] = self._clock()

    def oldest_watch_age(self) -> float:
        """Seconds since the most silent watch told anything; 0 before there is a watch."""
        return max((self._clock() - told_at for told_at in self._watches.values()), default=0.0)

    def observe_progress_post(self, protocol: str, outcome: ProgressOutcome, seconds: float) -> None:
        """Count a progress POST."""
        self._progress_posts.labels(protocol=protocol, outcome=outcome.value).inc()
        self._progress_post_seconds.observe(seconds)

    def observe_token_review(self, result: str) -> None:
        """Count a TokenReview: authenticated, refused or error."""
        self._token_reviews.labels(result=result).inc()

    def set_certificate_expiry(self, expires_at: float) -> None:
        """Tell when the certificate of the progress endpoint ends, in Unix time."""
        if self._certificate_expiry is None:
            # Made late: a gauge that was never set shows 0, which here would mean long past.
            self._certificate_expiry = self._gauge(OperatorMetric.CERTIFICATE_EXPIRY)
        self._certificate_expiry.set(expires_at)
