"""Which evaluation is the best and when training ends early: tables of values over evaluations."""

import pytest

from trainyard_api.spec_objectives import EarlyStopping, FineTuning
from trainyard_api.task_metrics import is_better, marks_spans, metrics_of, selection_metric
from trainyard_trainer.evaluation.selection import Selection, after_evaluation, has_stopped_improving


def follow(values, metric="Accuracy", early_stopping=None):
    """The selections after each evaluation, at steps 10, 20, ..."""
    selection, course = Selection(), []
    for number, value in enumerate(values, start=1):
        selection = after_evaluation(
            selection, step=10 * number, metric=metric, value=value, early_stopping=early_stopping
        )
        course.append(selection)
    return course


@pytest.mark.parametrize(
    ("metric", "values", "best"),
    [
        ("Accuracy", [0.5, 0.7, 0.6], (20, 0.7)),
        ("Loss", [0.5, 0.7, 0.6], (10, 0.5)),
        ("Perplexity", [9.0, 8.0, 7.0], (30, 7.0)),
        ("MeanSquaredError", [2.0, 1.0, 1.5], (20, 1.0)),
        ("Pearson", [-0.2, 0.1], (20, 0.1)),
        ("Accuracy", [0.7, 0.7, 0.7], (10, 0.7)),
        ("Pearson", [None, 0.1, None], (20, 0.1)),
        ("Pearson", [None], (None, None)),
        ("Accuracy", [0.0], (10, 0.0)),
    ],
)
def test_the_best_evaluation_is_the_first_with_the_best_value(metric, values, best):
    last = follow(values, metric)[-1]
    assert (last.best_step, last.best_value) == best


@pytest.mark.parametrize(
    ("values", "stopping", "stops_after"),
    [
        ([0.5, 0.6, 0.6, 0.6], EarlyStopping(patience=2), 4),
        ([0.5, 0.4, 0.6, 0.5, 0.5], EarlyStopping(patience=2), 5),
        ([0.5, 0.4], EarlyStopping(patience=1), 2),
        ([0.5, 0.6, 0.7, 0.8], EarlyStopping(patience=1), None),
        ([0.50, 0.52, 0.54], EarlyStopping(patience=2, minimum_improvement=0.1), 3),
        ([0.50, 0.58, 0.66, 0.70], EarlyStopping(patience=2, minimum_improvement=0.1), None),
        ([None, None], EarlyStopping(patience=2), 2),
        ([0.5, 0.5, 0.5, 0.5], None, None),
    ],
)
def test_training_ends_after_as_many_evaluations_without_an_improvement(values, stopping, stops_after):
    course = follow(values, early_stopping=stopping)
    stopped = [number for number, s in enumerate(course, 1) if has_stopped_improving(s, stopping)]
    assert (stopped[0] if stopped else None) == stops_after


def test_an_improvement_too_small_to_count_still_chooses_the_checkpoint():
    stopping = EarlyStopping(patience=5, minimum_improvement=0.1)
    last = follow([0.5, 0.55], early_stopping=stopping)[-1]
    assert (last.best_step, last.reference_value, last.stale_evaluations) == (20, 0.5, 1)


def test_a_selection_survives_a_checkpoint():
    last = follow([0.5, 0.1 + 0.2, 0.7])[-1]
    assert Selection.model_validate_json(last.model_dump_json()) == last


@pytest.mark.parametrize(
    ("labels", "spans"),
    [
        (["O", "B-PER", "I-PER"], True),
        (["NN", "VB"], False),
        (["O"], False),
        (["B-X", "S-X"], False),
        ([], False),
    ],
)
def test_labels_mark_spans_when_all_of_them_are_of_that_scheme(labels, spans):
    assert marks_spans(labels) is spans


@pytest.mark.parametrize(
    ("task", "labels", "metric"),
    [
        ({"task": "SequenceClassification"}, ["ham", "spam"], "MacroF1"),
        ({"task": "SequenceClassification", "problem": "MultiLabel"}, ["a", "b"], "MicroF1"),
        ({"task": "SequenceClassification", "problem": "Regression"}, [], "MeanSquaredError"),
        ({"task": "TokenClassification"}, ["NN", "VB"], "Accuracy"),
        ({"task": "TokenClassification"}, ["O", "B-PER"], "SeqevalF1"),
        ({"task": "InstructionTuning"}, [], "Loss"),
        ({"task": "ContinuedPretraining", "objective": "CausalLM"}, [], "Loss"),
        ({"task": "SequenceClassification", "evaluation": {"metric": "AUROC"}}, ["a", "b"], "AUROC"),
    ],
)
def test_a_task_has_a_usual_metric_which_is_one_of_its_own(task, labels, metric):
    fine_tuning = FineTuning.model_validate(task)
    assert selection_metric(fine_tuning, labels) == metric
    assert metric in metrics_of(fine_tuning)


def test_better_means_lower_for_losses_and_errors_and_higher_for_the_rest():
    assert is_better("Loss", 1.0, 2.0)
    assert not is_better("Loss", 2.0, 1.0)
    assert is_better("Accuracy", 0.6, 0.5)
    assert not is_better("Accuracy", 0.5, 0.5)
    assert not is_better("Accuracy", 0.6, 0.5, minimum_improvement=0.2)
