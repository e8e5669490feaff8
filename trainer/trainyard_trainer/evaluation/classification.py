"""Metrics of classes, all from how often each was predicted, true, and both; NumPy only.

Formulas and conventions are those of scikit-learn: what has no denominator is 0, and means over classes take
those that occur among the labels or the predictions.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.float64]
Numbers = NDArray[Any]


def confusion_matrix(
    labels: Numbers, predictions: Numbers, num_classes: int, weights: Counts | None = None
) -> Counts:
    """How often each class was taken for each other, [k, k]: rows are labels, columns are predictions.

    Args:
        labels: class numbers, [n].
        predictions: class numbers, [n].
        num_classes: k.
        weights: how often each counts, [n]; once when None.
    """
    cells = labels.astype(np.int64) * num_classes + predictions
    counted = np.bincount(cells, weights=weights, minlength=num_classes * num_classes)
    return counted.astype(np.float64).reshape(num_classes, num_classes)


def ratio(numerator: Counts, denominator: Counts) -> Counts:
    """Element-wise quotients, 0 where the denominator is 0."""
    quotients: Counts = np.divide(
        numerator, denominator, out=np.zeros_like(numerator, dtype=np.float64), where=denominator != 0
    )
    return quotients


@dataclass(frozen=True)
class ClassCounts:
    """What became of each class.

    Attributes:
        correct: predicted and true, [k].
        predicted: predicted, [k].
        actual: true, [k].
    """

    correct: Counts
    predicted: Counts
    actual: Counts

    @property
    def precision(self) -> Counts:
        """Fraction of the predictions of each class that are right, [k]."""
        return ratio(self.correct, self.predicted)

    @property
    def recall(self) -> Counts:
        """Fraction of the examples of each class that are found, [k]."""
        return ratio(self.correct, self.actual)

    @property
    def f1(self) -> Counts:
        """Harmonic mean of precision and recall, [k]: 2 correct / (predicted + actual)."""
        return ratio(2.0 * self.correct, self.predicted + self.actual)

    @property
    def micro_f1(self) -> float:
        """F1 of all decisions together."""
        total = float(self.predicted.sum() + self.actual.sum())
        return 2.0 * float(self.correct.sum()) / total if total else 0.0

    @property
    def macro_f1(self) -> float:
        """Mean F1 of the classes that occur among labels or predictions."""
        occurs = self.predicted + self.actual > 0
        return float(self.f1[occurs].mean()) if occurs.any() else 0.0


def counts_of_classes(
    labels: Numbers, predictions: Numbers, num_classes: int, weights: Counts | None = None
) -> ClassCounts:
    """The counts of each class where every example has one. Arguments as of `confusion_matrix`."""
    each = np.ones(len(labels)) if weights is None else weights
    is_correct = labels == predictions
    return ClassCounts(
        _count(labels[is_correct], each[is_correct], num_classes),
        _count(predictions, each, num_classes),
        _count(labels, each, num_classes),
    )


def _count(numbers: Numbers, weights: Counts, num_classes: int) -> Counts:
    """How often each class number occurs, [k]."""
    return np.bincount(numbers, weights, num_classes).astype(np.float64)


def counts_of_decisions(labels: Numbers, predictions: Numbers, weights: Counts | None = None) -> ClassCounts:
    """The counts of each class where each of them is decided for itself (multi-label).

    Args:
        labels: 0 or 1, [n, k].
        predictions: 0 or 1, [n, k].
        weights: how often each example counts, [n]; once when None.
    """
    each = np.ones(len(labels)) if weights is None else weights
    return ClassCounts(
        each @ (labels * predictions), each @ predictions.astype(np.float64), each @ labels.astype(np.float64)
    )


def accuracy(counts: ClassCounts) -> float:
    """Fraction of the examples whose class is right, where every example has one."""
    return float(ratio(counts.correct.sum(keepdims=True), counts.actual.sum(keepdims=True))[0])


def matthews(counts: ClassCounts) -> float:
    """Matthews correlation for any number of classes (Gorodkin 2004, R_K), -1 to 1.

    0 where all labels or all predictions are of one class.
    """
    total = float(counts.actual.sum())
    covariance = float(counts.correct.sum()) * total - float(counts.predicted @ counts.actual)
    of_predictions = total**2 - float(counts.predicted @ counts.predicted)
    of_labels = total**2 - float(counts.actual @ counts.actual)
    denominator = (of_predictions * of_labels) ** 0.5
    return covariance / denominator if denominator else 0.0
