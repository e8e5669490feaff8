"""Judges token classification: words one by one, and the spans that they form where labels mark spans."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch.nn import functional

from trainyard_api.task_metrics import ACCURACY, LOSS, MACRO_F1, MATTHEWS, MICRO_F1, SEQEVAL_F1, marks_spans
from trainyard_trainer.evaluation.classification import Counts, accuracy, counts_of_classes, matthews
from trainyard_trainer.evaluation.entities import count_spans
from trainyard_trainer.evaluation.gather import Gathered, Observations
from trainyard_trainer.evaluation.judge import Judgement, LabelledBatch, Predictor, class_results
from trainyard_trainer.evaluation.sequence_judge import kept_rows, whole_confusion

NOT_PREDICTED = -100
"""Label of places where nothing is predicted."""


@dataclass(frozen=True)
class TokenJudge:
    """Judges words that have one class each.

    Attributes:
        names: label of each class number.
    """

    names: tuple[str, ...]
    num_keys: ClassVar[int] = 2

    def observe(self, predictor: Predictor, batch: LabelledBatch, number: int) -> Observations:
        """Sequence and place, class, predicted class and cross-entropy in nats of each word."""
        del number
        logits = predictor.predict(batch).float().cpu()
        rows, places = torch.where((batch.labels != NOT_PREDICTED) & kept_rows(batch)[:, None])
        log_probabilities = logits[rows, places].log_softmax(-1)
        labels = batch.labels[rows, places].long()
        losses = functional.nll_loss(log_probabilities, labels, reduction="none")
        predictions = log_probabilities.argmax(-1)
        return Observations(
            torch.stack([batch.example_ids[rows], places, labels, predictions], dim=1), losses[:, None]
        )

    def judge(self, gathered: Gathered) -> Judgement:
        """Metrics of words and, where the labels mark them, of spans; whole sequences are resampled."""
        sequences, _, labels, predictions = gathered.integers.T
        losses = gathered.numbers[:, 0].astype(np.float64)
        _, starts, sequence_of = np.unique(sequences, return_index=True, return_inverse=True)
        num_classes = len(self.names)
        spans = count_spans(labels, predictions, starts, self.names) if marks_spans(self.names) else None

        def measure(weights: Counts | None) -> Mapping[str, float]:
            of_words = None if weights is None else weights[sequence_of]
            counts = counts_of_classes(labels, predictions, num_classes, of_words)
            metrics = {
                LOSS: float(np.average(losses, weights=of_words)),
                ACCURACY: accuracy(counts),
                MACRO_F1: counts.macro_f1,
                MICRO_F1: counts.micro_f1,
                MATTHEWS: matthews(counts),
            }
            if spans is not None:
                metrics[SEQEVAL_F1] = spans.totals(weights).micro_f1
            return metrics

        return Judgement(
            measure=measure,
            num_examples=len(starts),
            unit="words",
            classes=class_results(counts_of_classes(labels, predictions, num_classes), self.names),
            span_classes=() if spans is None else class_results(spans.totals(), spans.kinds),
            confusion=whole_confusion(labels, predictions, num_classes),
        )
