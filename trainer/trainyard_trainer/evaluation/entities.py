"""Spans of labelled words (IOB2) and their F1, as seqeval counts them by default; NumPy only.

A span begins at B-kind; an I-kind that follows another kind, O or nothing begins one too. A predicted span is
right when its kind, its first and its last word are those of a true span.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainyard_trainer.evaluation.classification import ClassCounts, Counts

Span = tuple[str, int, int]
"""Kind, first word, word after the last."""


def spans_of(labels: Sequence[str]) -> set[Span]:
    """The spans of one sequence of words.

    Args:
        labels: O, B-kind or I-kind for each word.
    """
    spans = set()
    kind, start = "", 0
    for place, label in enumerate([*labels, "O"]):
        prefix, _, own = label.partition("-")
        own = "" if prefix == "O" else own
        if kind and (prefix == "B" or own != kind):
            spans.add((kind, start, place))
            kind = ""
        if own and not kind:
            kind, start = own, place
    return spans


@dataclass(frozen=True)
class SpanCounts:
    """Spans of each kind in each sequence.

    Attributes:
        kinds: names of the kinds, ascending.
        correct: spans predicted and true, [sequences, kinds].
        predicted: spans predicted, [sequences, kinds].
        actual: true spans, [sequences, kinds].
    """

    kinds: tuple[str, ...]
    correct: Counts
    predicted: Counts
    actual: Counts

    def totals(self, weights: Counts | None = None) -> ClassCounts:
        """Spans of each kind, [kinds].

        Args:
            weights: how often each sequence counts, [sequences]; once when None.
        """
        each = np.ones(len(self.actual)) if weights is None else weights
        return ClassCounts(each @ self.correct, each @ self.predicted, each @ self.actual)


def count_spans(
    labels: NDArray[np.int64], predictions: NDArray[np.int64], starts: NDArray[np.int64], names: Sequence[str]
) -> SpanCounts:
    """The spans of sequences that stand one after the other.

    Args:
        labels: class number of each word, [words].
        predictions: class number of each word, [words].
        starts: first word of each sequence, ascending from 0, [sequences].
        names: label of each class number.
    """
    kinds = tuple(sorted({name.partition("-")[2] for name in names if name != "O"}))
    number_of = {kind: number for number, kind in enumerate(kinds)}
    counts = np.zeros((3, len(starts), len(kinds)))
    ends = [*starts[1:].tolist(), len(labels)]
    for sequence, (start, end) in enumerate(zip(starts.tolist(), ends, strict=True)):
        actual = spans_of([names[number] for number in labels[start:end]])
        predicted = spans_of([names[number] for number in predictions[start:end]])
        for row, spans in zip(counts, (actual & predicted, predicted, actual), strict=True):
            for kind, _, _ in spans:
                row[sequence, number_of[kind]] += 1.0
    return SpanCounts(kinds, counts[0], counts[1], counts[2])
