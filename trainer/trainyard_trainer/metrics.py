"""Prometheus metrics of a local run, on loopback, for as long as the runner works."""

from types import TracebackType
from typing import Self

from prometheus_client import CollectorRegistry, Gauge, start_http_server

from trainyard_api.errors import UnavailableError
from trainyard_api.names import Metric, Phase
from trainyard_api.spec import TrainingRun
from trainyard_api.status import TrainingRunStatus
from trainyard_api.timestamps import parse_timestamp

LABELS = ("namespace", "name")


class MetricsServer:
    """Serves /metrics while it is open.

    Args:
        run: the run, whose name and namespace label every series.
        port: port on loopback; 0 lets the system choose.

    Raises:
        UnavailableError: the port is in use.
    """

    def __init__(self, run: TrainingRun, port: int) -> None:
        self._registry = CollectorRegistry()
        self._labels = {"namespace": run.metadata.namespace, "name": run.metadata.name}
        try:
            self._server, self._thread = start_http_server(port, addr="127.0.0.1", registry=self._registry)
        except OSError as error:
            raise UnavailableError(
                "--metrics-port",
                f"port {port} is in use ({error.strerror})",
                "Choose another, or 0 to let the system choose",
            ) from error
        self.url = f"http://127.0.0.1:{self._server.server_port}/metrics"
        self._gauges: dict[Metric, Gauge] = {}
        info = Gauge(
            Metric.INFO,
            "Always 1; labels tell what the run is",
            (*LABELS, "objective"),
            registry=self._registry,
        )
        objective = run.spec.pretraining.objective if run.spec.pretraining else ""
        info.labels(**self._labels, objective=objective).set(1)
        self._phase = Gauge(
            Metric.PHASE, "1 for the current phase", (*LABELS, "phase"), registry=self._registry
        )

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

    def update(self, status: TrainingRunStatus, now: float) -> None:
        """Set every series from a status; one that has no value yet is not there."""
        for phase in Phase:
            self._phase.labels(**self._labels, phase=phase.value).set(float(phase == status.phase))
        for metric, (help_text, value) in values(status, now).items():
            if value is not None:
                self._gauge(metric, help_text).labels(**self._labels).set(value)

    def _gauge(self, metric: Metric, help_text: str) -> Gauge:
        if metric not in self._gauges:
            self._gauges[metric] = Gauge(metric, help_text, LABELS, registry=self._registry)
        return self._gauges[metric]


def values(status: TrainingRunStatus, now: float) -> dict[Metric, tuple[str, float | None]]:
    """Help text and value of every metric of a status; None where there is no value yet."""
    progress, checkpoint = status.progress, status.checkpoint
    age = None if checkpoint is None else now - parse_timestamp(checkpoint.committed_at)
    figures: dict[Metric, tuple[str, float | None]] = {
        Metric.RESTARTS: ("Restarts after faults", status.restarts),
        Metric.CHECKPOINT_AGE: ("Seconds since the newest checkpoint was committed", age),
    }
    if progress is None:
        return figures
    return figures | {
        Metric.STEP: ("Optimizer steps done", progress.step),
        Metric.TOTAL_STEPS: ("Optimizer steps of the whole run", progress.total_steps),
        Metric.LOSS: ("Training loss, in nats per predicted token", progress.loss),
        Metric.EVALUATION_LOSS: ("Loss on held-out documents, in nats per token", progress.evaluation_loss),
        Metric.LEARNING_RATE: ("Learning rate", progress.learning_rate),
        Metric.GRADIENT_NORM: ("L2 norm of the gradient before clipping", progress.gradient_norm),
        Metric.TOKENS: ("Tokens processed, padding not counted", progress.tokens),
        Metric.TOKENS_PER_SECOND: ("Tokens per second, padding not counted", progress.tokens_per_second),
        Metric.SECONDS_LEFT: ("Seconds left of the stage, estimated", progress.eta_seconds),
        Metric.PACKING_EFFICIENCY: ("Positions that hold tokens, 0 to 1", progress.packing_efficiency),
    }
