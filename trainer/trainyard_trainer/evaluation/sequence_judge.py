"""Judges sequence classification: one class, any number of classes, or a number."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch.nn import functional

from trainyard_api.task_metrics import (
    ACCURACY,
    AUROC,
    LOSS,
    MACRO_F1,
    MATTHEWS,
    MEAN_SQUARED_ERROR,
    MICRO_F1,
    PEARSON,
)
from trainyard_trainer.evaluation.classification import (
    Counts,
    Numbers,
    accuracy,
    confusion_matrix,
    counts_of_classes,
    counts_of_decisions,
    matthews,
)
from trainyard_trainer.evaluation.gather import Gathered, Observations
from trainyard_trainer.evaluation.judge import Judgement, LabelledBatch, Predictor, class_results
from trainyard_trainer.evaluation.metric_choice import MAXIMUM_RANKED_CLASSES
from trainyard_trainer.evaluation.ranking import RankedScores, mean_area
from trainyard_trainer.evaluation.regression import mean_squared_error, pearson
from trainyard_trainer.task_result import MAXIMUM_CONFUSION_CLASSES


def kept_rows(batch: LabelledBatch) -> torch.Tensor:
    """The rows of a batch that hold an example of its own, bool [rows]."""
    return (batch.example_ids >= 0) & (batch.num_labels > 0)


@dataclass(frozen=True)
class SingleLabelJudge:
    """Judges examples that have one class each.

    Attributes:
        names: label of each class number.
    """

    names: tuple[str, ...]
    num_keys: ClassVar[int] = 1

    def observe(self, predictor: Predictor, batch: LabelledBatch, number: int) -> Observations:
        """Class, predicted class, cross-entropy in nats, and log-probabilities for AUROC."""
        del number
        keep = kept_rows(batch)
        log_probabilities = predictor.predict(batch).float().cpu().log_softmax(-1)[keep]
        labels = batch.labels[keep].long()
        losses = functional.nll_loss(log_probabilities, labels, reduction="none")
        scores = log_probabilities if self.is_ranked else log_probabilities[:, :0]
        predictions = log_probabilities.argmax(-1)
        return Observations(
            torch.stack([batch.example_ids[keep], labels, predictions], dim=1),
            torch.cat([losses[:, None], scores], dim=1),
        )

    @property
    def is_ranked(self) -> bool:
        """Whether there are few enough classes for AUROC."""
        return len(self.names) <= MAXIMUM_RANKED_CLASSES

    def judge(self, gathered: Gathered) -> Judgement:
        """Metrics of classes."""
        _, labels, predictions = gathered.integers.T
        losses, scores = gathered.numbers[:, 0].astype(np.float64), gathered.numbers[:, 1:]
        num_classes = len(self.names)
        rankings = rank_classes(labels, scores) if self.is_ranked else []

        def measure(weights: Counts | None) -> Mapping[str, float]:
            counts = counts_of_classes(labels, predictions, num_classes, weights)
            return {
                LOSS: float(np.average(losses, weights=weights)),
                ACCURACY: accuracy(counts),
                MACRO_F1: counts.macro_f1,
                MICRO_F1: counts.micro_f1,
                MATTHEWS: matthews(counts),
                AUROC: mean_area(rankings, weights),
            }

        return Judgement(
            measure=measure,
            num_examples=len(labels),
            classes=class_results(counts_of_classes(labels, predictions, num_classes), self.names),
            confusion=whole_confusion(labels, predictions, num_classes),
        )


def rank_classes(labels: Numbers, log_probabilities: Numbers) -> list[RankedScores]:
    """Each class against the others; of two classes one is enough, since their areas are equal.

    Args:
        labels: class numbers, [n].
        log_probabilities: [n, k].
    """
    num_classes = log_probabilities.shape[1]
    if num_classes == 2:
        return [RankedScores.of(labels == 1, log_probabilities[:, 1] - log_probabilities[:, 0])]
    return [RankedScores.of(labels == number, log_probabilities[:, number]) for number in range(num_classes)]


def whole_confusion(
    labels: Numbers, predictions: Numbers, num_classes: int
) -> tuple[tuple[int, ...], ...] | None:
    """The confusion matrix as whole numbers, or None where it would be too large."""
    if num_classes > MAXIMUM_CONFUSION_CLASSES:
        return None
    matrix = confusion_matrix(labels, predictions, num_classes)
    return tuple(tuple(int(count) for count in row) for row in matrix)


@dataclass(frozen=True)
class MultiLabelJudge:
    """Judges examples that have any number of classes.

    Attributes:
        names: label of each class number.
    """

    names: tuple[str, ...]
    num_keys: ClassVar[int] = 1

    def observe(self, predictor: Predictor, batch: LabelledBatch, number: int) -> Observations:
        """Labels and logits of every class; a class is predicted from a probability of 0.5 on."""
        del number
        keep = kept_rows(batch)
        logits = predictor.predict(batch).float().cpu()[keep]
        return Observations(
            batch.example_ids[keep][:, None], torch.cat([batch.labels[keep].float(), logits], dim=1)
        )

    def judge(self, gathered: Gathered) -> Judgement:
        """Metrics of classes that are decided one by one; the loss is the mean over all decisions."""
        labels, logits = np.split(gathered.numbers.astype(np.float64), 2, axis=1)
        predictions = (logits >= 0.0).astype(np.float64)
        losses = (np.logaddexp(0.0, logits) - labels * logits).mean(axis=1)
        is_exact = (predictions == labels).all(axis=1).astype(np.float64)
        num_classes = len(self.names)
        rankings = (
            [RankedScores.of(labels[:, number], logits[:, number]) for number in range(num_classes)]
            if num_classes <= MAXIMUM_RANKED_CLASSES
            else []
        )

        def measure(weights: Counts | None) -> Mapping[str, float]:
            counts = counts_of_decisions(labels, predictions, weights)
            return {
                LOSS: float(np.average(losses, weights=weights)),
                ACCURACY: float(np.average(is_exact, weights=weights)),
                MACRO_F1: counts.macro_f1,
                MICRO_F1: counts.micro_f1,
                AUROC: mean_area(rankings, weights),
            }

        return Judgement(
            measure=measure,
            num_examples=len(labels),
            classes=class_results(counts_of_decisions(labels, predictions), self.names),
        )


@dataclass(frozen=True)
class RegressionJudge:
    """Judges examples that have a number each."""

    num_keys: ClassVar[int] = 1

    def observe(self, predictor: Predictor, batch: LabelledBatch, number: int) -> Observations:
        """Label and prediction."""
        del number
        keep = kept_rows(batch)
        predictions = predictor.predict(batch).float().cpu()[keep]
        return Observations(
            batch.example_ids[keep][:, None], torch.cat([batch.labels[keep].float(), predictions], dim=1)
        )

    def judge(self, gathered: Gathered) -> Judgement:
        """Metrics of numbers; the loss is the mean squared error."""
        labels, predictions = gathered.numbers.astype(np.float64).T

        def measure(weights: Counts | None) -> Mapping[str, float]:
            error = mean_squared_error(labels, predictions, weights)
            return {
                LOSS: error,
                MEAN_SQUARED_ERROR: error,
                PEARSON: pearson(labels, predictions, weights),
            }

        return Judgement(measure=measure, num_examples=len(labels))
