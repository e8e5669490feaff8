"""Prometheus metrics of a local run, on loopback, for as long as the runner works."""

import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Self

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from trainyard_api.errors import UnavailableError
from trainyard_api.metrics import RUN_LABELS, RUN_METRICS, MetricKind, info_labels, run_samples
from trainyard_api.spec import TrainingRun
from trainyard_api.status import TrainingRunStatus


class RunCollector(Collector):
    """The series of one run, from the newest status at the moment they are asked for."""

    def __init__(self, run: TrainingRun, clock: Callable[[], float]) -> None:
        self.status: TrainingRunStatus | None = None
        self._owner = [run.metadata.namespace, run.metadata.name]
        self._info = info_labels(run)
        self._clock = clock

    def describe(self) -> list[GaugeMetricFamily]:
        """Nothing: registering must not read a status that is not there yet."""
        return []

    def collect(self) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
        """Every series that has a value."""
        status = self.status
        if status is None:
            return
        samples = run_samples(self._info, status, self._clock())
        for definition in RUN_METRICS:
            family_type = CounterMetricFamily if definition.kind is MetricKind.COUNTER else GaugeMetricFamily
            family = family_type(definition.name, definition.help, labels=definition.labels)
            own_labels = definition.labels[len(RUN_LABELS) :]
            for sample in samples:
                if sample.metric is definition.name:
                    family.add_metric(
                        [*self._owner, *(sample.labels[label] for label in own_labels)], sample.value
                    )
            if family.samples:
                yield family


class MetricsServer:
    """Serves /metrics while it is open.

    Args:
        run: the run, whose name and namespace label every series.
        port: port on loopback; 0 lets the system choose.
        clock: Unix time in seconds.

    Raises:
        UnavailableError: the port is in use, or not ours to use.
    """

    def __init__(self, run: TrainingRun, port: int, clock: Callable[[], float] = time.time) -> None:
        registry = CollectorRegistry()
        self._collector = RunCollector(run, clock)
        registry.register(self._collector)
        try:
            self._server, self._thread = start_http_server(port, addr="127.0.0.1", registry=registry)
        except OSError as error:
            raise UnavailableError(
                "--metrics-port",
                f"port {port} cannot be listened on ({error.strerror})",
                "Choose another, or 0 to let the system choose",
            ) from error
        self.url = f"http://127.0.0.1:{self._server.server_port}/metrics"

    def __enter__(self) -> Self:
        """The server already listens."""
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop listening; the series are gone with the server."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def update(self, status: TrainingRunStatus) -> None:
        """Serve this status from now on."""
        self._collector.status = status
