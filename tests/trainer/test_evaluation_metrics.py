"""Metrics against their definitions, spelt out."""

import itertools
import math

import numpy as np
import pytest

from trainyard_trainer.evaluation.classification import (
    accuracy,
    confusion_matrix,
    counts_of_classes,
    counts_of_decisions,
    matthews,
)
from trainyard_trainer.evaluation.entities import count_spans, spans_of
from trainyard_trainer.evaluation.ranking import RankedScores, mean_area
from trainyard_trainer.evaluation.regression import mean_squared_error, pearson

LABELS = np.array([0, 0, 0, 0, 1, 1, 1, 2, 2, 2])
PREDICTIONS = np.array([0, 0, 1, 2, 1, 1, 0, 2, 2, 1])


def counted(labels=LABELS, predictions=PREDICTIONS, num_classes=4, weights=None):
    return counts_of_classes(np.array(labels), np.array(predictions), num_classes, weights)


def test_the_confusion_matrix_has_labels_as_rows_and_predictions_as_columns():
    matrix = confusion_matrix(LABELS, PREDICTIONS, 3)
    assert matrix.tolist() == [[2, 1, 1], [1, 2, 0], [0, 1, 2]]


def test_metrics_of_classes_are_those_of_their_definitions():
    counts = counted()
    assert accuracy(counts) == counts.micro_f1 == 0.6
    assert counts.precision.tolist() == pytest.approx([2 / 3, 1 / 2, 2 / 3, 0])
    assert counts.recall.tolist() == pytest.approx([2 / 4, 2 / 3, 2 / 3, 0])
    assert counts.f1.tolist() == pytest.approx([4 / 7, 4 / 7, 4 / 6, 0])


def test_a_class_that_nobody_has_or_predicts_does_not_lower_the_macro_f1():
    assert counted().macro_f1 == pytest.approx((4 / 7 + 4 / 7 + 4 / 6) / 3)
    assert counted([0, 0], [0, 3]).macro_f1 == pytest.approx((2 / 3 + 0) / 2)


def test_matthews_of_two_classes_is_the_classical_formula():
    labels, predictions = [1, 1, 1, 0, 0, 0, 0, 1], [1, 0, 1, 0, 0, 1, 0, 1]
    true_positives, true_negatives, false_positives, false_negatives = 3, 3, 1, 1
    expected = (true_positives * true_negatives - false_positives * false_negatives) / math.sqrt(
        (true_positives + false_positives)
        * (true_positives + false_negatives)
        * (true_negatives + false_positives)
        * (true_negatives + false_negatives)
    )
    assert matthews(counted(labels, predictions, 2)) == pytest.approx(expected)


def test_matthews_of_several_classes_is_the_correlation_of_indicators():
    counts = counted()
    of_labels, of_predictions = np.eye(3)[LABELS], np.eye(3)[PREDICTIONS]
    from_labels = of_labels - of_labels.mean(axis=0)
    from_predictions = of_predictions - of_predictions.mean(axis=0)
    covariance = (from_labels * from_predictions).sum()
    expected = covariance / math.sqrt((from_labels**2).sum() * (from_predictions**2).sum())
    assert matthews(counts) == pytest.approx(expected)


@pytest.mark.parametrize(("labels", "predictions"), [([0, 0, 0], [0, 1, 0]), ([0, 1, 0], [1, 1, 1])])
def test_matthews_without_variety_is_zero(labels, predictions):
    assert matthews(counted(labels, predictions, 2)) == 0.0


def test_no_examples_give_zeros_and_no_division_by_zero():
    counts = counted(np.zeros(0, int), np.zeros(0, int))
    assert (accuracy(counts), counts.macro_f1, counts.micro_f1, matthews(counts)) == (0, 0, 0, 0)


def test_decisions_about_many_labels_are_counted_class_by_class():
    labels = np.array([[1, 0, 1], [0, 1, 0], [1, 1, 0]])
    predictions = np.array([[1, 1, 0], [0, 1, 0], [0, 1, 0]])
    counts = counts_of_decisions(labels, predictions)
    assert (counts.correct.tolist(), counts.predicted.tolist()) == ([1, 2, 0], [1, 3, 0])
    assert counts.micro_f1 == pytest.approx(2 * 3 / (4 + 5))
    assert counts.macro_f1 == pytest.approx((2 / 3 + 4 / 5 + 0) / 3)


def test_the_area_is_the_fraction_of_pairs_in_the_right_order_with_ties_as_halves():
    is_positive = np.array([1, 0, 1, 0, 1, 0, 0])
    scores = np.array([0.9, 0.9, 0.4, 0.1, 0.2, 0.2, 0.8])
    pairs = [
        (scores[p] > scores[n]) + 0.5 * (scores[p] == scores[n])
        for p, n in itertools.product(np.flatnonzero(is_positive), np.flatnonzero(is_positive == 0))
    ]
    assert RankedScores.of(is_positive, scores).area() == pytest.approx(np.mean(pairs))


def test_the_area_without_positives_or_negatives_is_not_defined_and_left_out_of_the_mean():
    nothing = RankedScores.of(np.array([1, 1]), np.array([0.1, 0.2]))
    perfect = RankedScores.of(np.array([0, 1]), np.array([0.1, 0.2]))
    assert math.isnan(nothing.area())
    assert mean_area([nothing, perfect]) == 1.0
    assert math.isnan(mean_area([nothing]))


def test_numbers_are_judged_by_squared_error_and_correlation():
    labels, predictions = np.array([1.0, 2.0, 4.0]), np.array([1.5, 2.0, 3.0])
    assert mean_squared_error(labels, predictions) == pytest.approx((0.25 + 1.0) / 3)
    assert pearson(labels, predictions) == pytest.approx(np.corrcoef(labels, predictions)[0, 1])
    assert math.isnan(pearson(labels, np.full(3, 2.0)))


@pytest.mark.parametrize(
    ("labels", "spans"),
    [
        (["B-PER", "I-PER", "O", "B-LOC"], {("PER", 0, 2), ("LOC", 3, 4)}),
        (["B-PER", "B-PER"], {("PER", 0, 1), ("PER", 1, 2)}),
        (["B-PER", "I-LOC"], {("PER", 0, 1), ("LOC", 1, 2)}),
        (["O", "I-LOC", "I-LOC", "O"], {("LOC", 1, 3)}),
        (["I-LOC", "B-LOC", "I-LOC"], {("LOC", 0, 1), ("LOC", 1, 3)}),
        (["B-new-kind", "I-new-kind"], {("new-kind", 0, 2)}),
        (["O", "O"], set()),
        ([], set()),
    ],
)
def test_spans_begin_where_seqeval_begins_them(labels, spans):
    assert spans_of(labels) == spans


def test_a_span_is_right_only_when_kind_and_both_ends_are():
    names = ("O", "B-PER", "I-PER", "B-LOC")
    labels = np.array([1, 2, 0, 3, 1, 0, 0])
    predictions = np.array([1, 2, 0, 1, 1, 2, 0])
    spans = count_spans(labels, predictions, np.array([0, 4]), names)
    assert spans.kinds == ("LOC", "PER")
    assert spans.correct.tolist() == [[0, 1], [0, 0]]
    assert spans.predicted.tolist() == [[0, 2], [0, 1]]
    assert spans.actual.tolist() == [[1, 1], [0, 1]]
    assert spans.totals().micro_f1 == pytest.approx(2 * 1 / (3 + 3))
    assert spans.totals(np.array([2.0, 0.0])).micro_f1 == pytest.approx(2 * 2 / (4 + 4))


@pytest.mark.parametrize("seed", range(3))
def test_weights_count_examples_as_if_they_were_repeated(seed):
    generator = np.random.default_rng(seed)
    labels, predictions = generator.integers(0, 4, (2, 60))
    weights = generator.integers(0, 4, 60)
    weighted = counted(labels, predictions, weights=weights.astype(float))
    repeated = counted(np.repeat(labels, weights), np.repeat(predictions, weights))
    assert accuracy(weighted) == accuracy(repeated)
    assert weighted.macro_f1 == repeated.macro_f1
    assert matthews(weighted) == pytest.approx(matthews(repeated))

    scores = generator.integers(0, 9, 60) / 9.0
    ranked = RankedScores.of(labels == 1, scores)
    again = RankedScores.of(np.repeat(labels == 1, weights), np.repeat(scores, weights))
    assert ranked.area(weights.astype(float)) == pytest.approx(again.area())
    assert pearson(labels * 1.0, scores, weights * 1.0) == pytest.approx(
        pearson(np.repeat(labels, weights) * 1.0, np.repeat(scores, weights))
    )
