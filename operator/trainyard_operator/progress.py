"""What pods may tell about their run: two protocols, both turned into a ProgressReport. No I/O here.

Trainyard's trainer posts a ProgressReport. Stock Transformers posts by the protocol of Kubeflow Trainer:
whole percent, seconds left, and metrics by name as text, which are mapped onto the same fields. Unknown
fields are passed over, so that a newer trainer may report to an older operator; everything known is checked,
because it ends up in the status of a resource and in metrics.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Annotated

from pydantic import BaseModel, Field, ValidationError

from trainyard_api.model import ApiModel
from trainyard_api.names import Stage
from trainyard_api.progress import ProgressReport
from trainyard_api.status import Progress
from trainyard_api.timestamps import format_timestamp, parse_timestamp

MAXIMUM_TEXT = 2048
"""Characters of any text in a report."""
MAXIMUM_METRICS = 32
"""Metrics of a task in a report."""
MAXIMUM_METRIC_NAME = 64
"""Characters of the name of one."""
MAXIMUM_NUMBER = 2**53
"""Above it JSON readers lose digits."""

KUBEFLOW_NAMES: Mapping[str, tuple[str, ...]] = {
    "loss": ("loss", "train_loss", "training_loss"),
    "evaluation_loss": ("eval_loss", "evaluation_loss", "validation_loss"),
    "learning_rate": ("learning_rate", "lr"),
    "gradient_norm": ("grad_norm", "gradient_norm"),
    "tokens_per_second": ("tokens_per_second", "train_tokens_per_second"),
}
"""Fields of Progress that are fractions, and the names that Transformers and others give them, best first."""
KUBEFLOW_WHOLE_NAMES: Mapping[str, tuple[str, ...]] = {
    "step": ("current_step", "global_step", "step"),
    "total_steps": ("total_steps", "max_steps"),
    "tokens": ("num_input_tokens_seen", "tokens", "total_tokens"),
}
"""The same for whole numbers."""


class InvalidReportError(Exception):
    """A body that is no report; the message names the field and the rule, never what was sent."""


class KubeflowMetric(ApiModel):
    """A measured value."""

    name: Annotated[str, Field(min_length=1, max_length=64)]
    """Name that the training code gave it."""
    value: Annotated[str, Field(max_length=64)]
    """The value as text."""


class KubeflowTrainerStatus(ApiModel):
    """The status of Kubeflow Trainer's protocol."""

    progress_percentage: Annotated[int, Field(ge=0, le=100)] | None = None
    """Part of the training that is done."""
    estimated_remaining_seconds: Annotated[int, Field(ge=0, le=MAXIMUM_NUMBER)] | None = None
    """Seconds left."""
    metrics: Annotated[list[KubeflowMetric], Field(max_length=256)] = []
    """Measured values."""
    last_updated_time: Annotated[str, Field(max_length=64)]
    """When it was measured; required by the protocol, and the operator's own clock is used."""


class KubeflowUpdate(ApiModel):
    """The body of Kubeflow Trainer's protocol."""

    trainer_status: KubeflowTrainerStatus
    """Its only field."""


def parse_report(body: bytes, *, attempt: int) -> ProgressReport:
    """The report in a body.

    Args:
        body: what was posted.
        attempt: attempt of the pod that posted; it may tell of no other.

    Raises:
        InvalidReportError: it is no JSON, misses a field, or a value has the wrong type or size.
    """
    try:
        report = ProgressReport.model_validate_json(body, strict=True, extra="ignore")
    except ValidationError as error:
        raise InvalidReportError(_first_problem(error)) from None
    if report.attempt != attempt:
        raise InvalidReportError(f"attempt: must be {attempt}, the pod's")
    _check_progress(report.progress)
    _check_values("checkpoint", report.checkpoint)
    if report.checkpoint is not None:
        _check_time("checkpoint.committedAt", report.checkpoint.committed_at)
    return report


def parse_kubeflow_update(
    body: bytes, *, attempt: int, previous: ProgressReport | None, now: float
) -> ProgressReport:
    """The report that a body of Kubeflow Trainer's protocol stands for.

    Args:
        body: what was posted.
        attempt: attempt of the pod that posted; the protocol does not tell it.
        previous: the newest report; values that this one leaves out are kept from it within an attempt.
        now: Unix time in seconds.

    Raises:
        InvalidReportError: it is no JSON, misses a field, or a value has the wrong type or size.
    """
    try:
        told = KubeflowUpdate.model_validate_json(body, strict=True, extra="ignore").trainer_status
    except ValidationError as error:
        raise InvalidReportError(_first_problem(error)) from None
    _check_time("trainerStatus.lastUpdatedTime", told.last_updated_time)
    is_same_attempt = previous is not None and previous.attempt == attempt
    base = previous.progress if previous is not None and is_same_attempt else _blank(now)
    values: dict[str, object] = {
        "stage": Stage.TRAIN.value,
        "detail": "",
        "updated_at": format_timestamp(now),
    }
    if told.progress_percentage is not None:
        values["percent"] = float(told.progress_percentage)
    if told.estimated_remaining_seconds is not None:
        values["eta_seconds"] = told.estimated_remaining_seconds
    values.update(_mapped({metric.name: metric.value for metric in told.metrics}))
    return ProgressReport(
        attempt=attempt,
        progress=base.model_copy(update=values),
        checkpoint=previous.checkpoint if previous is not None and is_same_attempt else None,
    )


def _blank(now: float) -> Progress:
    return Progress(stage=Stage.TRAIN, updated_at=format_timestamp(now))


def _mapped(metrics: Mapping[str, str]) -> Iterator[tuple[str, float | int]]:
    """The fields that the metrics stand for; text that is no finite number stands for nothing."""
    for field, names in KUBEFLOW_NAMES.items():
        number = _first_number(metrics, names)
        if number is not None:
            yield field, number
    for field, names in KUBEFLOW_WHOLE_NAMES.items():
        number = _first_number(metrics, names)
        if number is not None and 0 <= number <= MAXIMUM_NUMBER:
            yield field, int(number)


def _first_number(metrics: Mapping[str, str], names: tuple[str, ...]) -> float | None:
    for name in names:
        try:
            number = float(metrics.get(name, ""))
        except ValueError:
            continue
        if math.isfinite(number):
            return number
    return None


def _first_problem(error: ValidationError) -> str:
    """Field and rule of the first problem; pydantic's own text would repeat the input."""
    problem = error.errors(include_url=False, include_context=False, include_input=False)[0]
    return f"{'.'.join(map(str, problem['loc'])) or 'body'}: {problem['type']}"


def _check_progress(progress: Progress) -> None:
    if progress.stage not in set(Stage):
        raise InvalidReportError(f"progress.stage: must be one of {', '.join(Stage)}")
    if not 0 <= progress.percent <= 100:  # also refuses what is not a number
        raise InvalidReportError("progress.percent: must be from 0 to 100")
    _check_values("progress", progress)
    _check_metrics(progress.metrics or {})
    _check_time("progress.updatedAt", progress.updated_at)


def _check_metrics(metrics: Mapping[str, float]) -> None:
    """Refuse more metrics than tasks have, and values that are no numbers."""
    where = "progress.metrics"
    if len(metrics) > MAXIMUM_METRICS:
        raise InvalidReportError(f"{where}: must have at most {MAXIMUM_METRICS} names")
    if any(len(name) > MAXIMUM_METRIC_NAME for name in metrics):
        raise InvalidReportError(f"{where}: names must have at most {MAXIMUM_METRIC_NAME} characters")
    if not all(map(math.isfinite, metrics.values())):
        raise InvalidReportError(f"{where}: must be finite numbers")


def _check_values(where: str, model: BaseModel | None) -> None:
    """Refuse texts without end, numbers that are none, and counts below 0."""
    for name, value in model or ():
        if isinstance(value, str) and len(value) > MAXIMUM_TEXT:
            raise InvalidReportError(f"{where}.{name}: must have at most {MAXIMUM_TEXT} characters")
        if isinstance(value, int) and not 0 <= value <= MAXIMUM_NUMBER:
            raise InvalidReportError(f"{where}.{name}: must be a whole number from 0")
        if isinstance(value, float) and not math.isfinite(value):
            raise InvalidReportError(f"{where}.{name}: must be a finite number")


def _check_time(where: str, text: str) -> None:
    try:
        parse_timestamp(text)
    except (ValueError, OverflowError):
        raise InvalidReportError(f"{where}: must be an RFC 3339 time") from None
