"""What every judge of a task offers: from a batch to observations, from all observations to metrics."""

from dataclasses import dataclass
from typing import Any, Protocol

import torch

from trainyard_trainer.evaluation.bootstrap import Measure
from trainyard_trainer.evaluation.classification import ClassCounts
from trainyard_trainer.evaluation.gather import Gathered, Observations
from trainyard_trainer.task_result import ClassResult


class LabelledBatch(Protocol):
    """What a judge reads of a batch.

    Attributes:
        labels: int64 [rows] (one class), float32 [rows, k] (any classes), float32 [rows, 1] (a number), or
            int64 [rows, length] with -100 where nothing is predicted.
        example_ids: number of each example among the held-out ones, int64 [rows].
        num_labels: predictions to make; 0 marks a batch that only keeps the ranks in step.
    """

    @property
    def labels(self) -> torch.Tensor: ...  # noqa: D102 - see the class
    @property
    def example_ids(self) -> torch.Tensor: ...  # noqa: D102
    @property
    def num_labels(self) -> int: ...  # noqa: D102


class Predictor(Protocol):
    """What a judge asks of an engine."""

    def forward(self, batch: Any) -> torch.Tensor:
        """The summed loss of a batch."""

    def predict(self, batch: Any) -> torch.Tensor:
        """The logits of a batch."""


@dataclass(frozen=True)
class Judgement:
    """What all observations say.

    Attributes:
        measure: the metrics, with a weight for each example.
        num_examples: what is resampled for intervals.
        unit: what `classes` and `confusion` count.
        classes: each class.
        span_classes: each kind of span.
        confusion: how often each class (row) was taken for each other (column).
    """

    measure: Measure
    num_examples: int
    unit: str = "examples"
    classes: tuple[ClassResult, ...] = ()
    span_classes: tuple[ClassResult, ...] = ()
    confusion: tuple[tuple[int, ...], ...] | None = None


class Judge(Protocol):
    """Judges one kind of task.

    Attributes:
        num_keys: leading integers of an observation that tell it apart.
    """

    @property
    def num_keys(self) -> int: ...  # noqa: D102 - see the class

    def observe(self, predictor: Predictor, batch: Any, number: int) -> Observations:
        """What a model makes of a batch; called on every rank equally often.

        Args:
            predictor: the model.
            batch: the batch.
            number: of the batch among those of all ranks.
        """

    def judge(self, gathered: Gathered) -> Judgement:
        """What the observations of all ranks say."""


def class_results(counts: ClassCounts, names: tuple[str, ...]) -> tuple[ClassResult, ...]:
    """The counts of each class by its name."""
    columns = (counts.precision, counts.recall, counts.f1, counts.actual, counts.predicted)
    return tuple(
        ClassResult(name=name, precision=precision, recall=recall, f1=f1, actual=actual, predicted=predicted)
        for name, precision, recall, f1, actual, predicted in zip(
            names, *(column.tolist() for column in columns), strict=True
        )
    )
