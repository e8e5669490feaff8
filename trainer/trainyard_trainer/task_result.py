"""What an evaluation of a task found, as `evaluation.json` of a run folder; reports and cards read it."""

from pathlib import Path

from trainyard_api.model import ApiModel
from trainyard_api.names import File
from trainyard_trainer.progress import write_json_atomically

MAXIMUM_CONFUSION_CLASSES = 100
"""Classes up to which the confusion matrix is kept; more would make a file that nobody looks at."""


class MetricInterval(ApiModel):
    """An interval of a metric from resampled examples."""

    low: float
    """Lower end."""
    high: float
    """Upper end."""


class ClassResult(ApiModel):
    """How one class, or one kind of span, was recognised."""

    name: str
    """Its label."""
    precision: float
    """Fraction of its predictions that are right, 0 to 1."""
    recall: float
    """Fraction of its examples that are found, 0 to 1."""
    f1: float
    """Harmonic mean of the two."""
    actual: int
    """Examples of it."""
    predicted: int
    """Predictions of it."""


class TaskResult(ApiModel):
    """One evaluation on the held-out examples."""

    step: int
    """Optimizer steps of the weights that were judged."""
    task: str
    """What the model does."""
    metric: str
    """The metric that chooses the best checkpoint."""
    metrics: dict[str, float]
    """Every metric that is defined, by name."""
    confidence: float | None = None
    """Coverage of the intervals, 0 to 1; not set where there are none."""
    intervals: dict[str, MetricInterval] = {}
    """Intervals of the metrics, by name."""
    examples: int
    """Held-out examples that were judged (the unit that is resampled)."""
    unit: str = "examples"
    """What is counted in classes and confusion: examples, words or spans."""
    classes: tuple[ClassResult, ...] = ()
    """Each class, in the order of their numbers."""
    span_classes: tuple[ClassResult, ...] = ()
    """Each kind of span, where labels mark spans."""
    confusion: tuple[tuple[int, ...], ...] | None = None
    """How often each class (row) was taken for each other (column)."""


def write_task_result(run_folder: Path, result: TaskResult) -> None:
    """Replace the result of a run folder."""
    write_json_atomically(run_folder / File.EVALUATION, result)


def read_task_result(run_folder: Path) -> TaskResult | None:
    """The result of a run folder, or None where no task was evaluated."""
    path = run_folder / File.EVALUATION
    return TaskResult.model_validate_json(path.read_bytes()) if path.is_file() else None
