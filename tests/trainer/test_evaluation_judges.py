"""From logits to metrics: what judges observe of a batch, and what they say of all observations."""

import json
import math
from types import SimpleNamespace

import pytest
import torch

from tests.support.gang import run_gang
from trainyard_api.errors import ConfigurationError
from trainyard_api.spec import TrainingRunSpec
from trainyard_trainer.distributed import Ranks
from trainyard_trainer.evaluation.evaluator import Examination, build_evaluator
from trainyard_trainer.evaluation.selection import Selection
from trainyard_trainer.task_result import TaskResult, read_task_result

ALONE = Ranks(rank=0, local_rank=0, world_size=1, device=torch.device("cpu"))


def evaluator_of(labels=(), **fine_tuning):
    spec = TrainingRunSpec.model_validate(
        {
            "fineTuning": fine_tuning,
            "model": {"pretrained": {"uri": "file:///m"}},
            "data": {"sources": [{"name": "a", "uri": "file:///a", "format": "JsonLines"}]},
            "training": {
                "budget": {"steps": 1},
                "globalBatchSize": 1,
                "microBatchSize": 1,
                "optimizer": {"learningRate": 1e-3},
                "seed": 4,
            },
        }
    )
    return build_evaluator(spec, tuple(labels))


def batch(logits, labels, ids):
    """A batch that carries the logits which the model gives for it."""
    num_labels = 0 if not ids or max(ids) < 0 else len(ids)
    return SimpleNamespace(
        logits=torch.tensor(logits), labels=labels, example_ids=torch.tensor(ids), num_labels=num_labels
    )


PREDICTOR = SimpleNamespace(predict=lambda batch: batch.logits, forward=lambda batch: batch.loss)


def examined(evaluator, folder, *batches, is_stopped=False):
    """What an evaluation after step 7 finds."""
    examination = Examination(PREDICTOR, ALONE, 7, lambda: is_stopped)
    return evaluator.evaluate(examination, batches, Selection(), folder)


@pytest.fixture
def measured(tmp_path):
    """The metrics of an evaluation, and what it left in the run folder."""

    def measure(evaluator, *batches):
        found = examined(evaluator, tmp_path, *batches)
        return found.metrics, read_task_result(tmp_path)

    return measure


def test_single_labels_are_judged_by_the_likeliest_class(measured):
    evaluator = evaluator_of(["ham", "spam"], task="SequenceClassification")
    logits = [[2.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 3.0]]
    metrics, result = measured(
        evaluator,
        batch(logits[:3], torch.tensor([0, 1, 1]), [0, 1, 2]),
        batch(logits[3:], torch.tensor([0]), [3]),
    )
    losses = [math.log(1 + math.exp(-margin)) for margin in (2.0, 1.0, -1.0, -3.0)]
    assert metrics["Loss"] == pytest.approx(sum(losses) / 4)
    assert metrics["Accuracy"] == metrics["MicroF1"] == 0.5
    assert metrics["AUROC"] == 0.5
    assert result.confusion == ((1, 1), (1, 1))
    assert [(c.name, c.actual, c.predicted, c.recall) for c in result.classes] == [
        ("ham", 2, 2, 0.5),
        ("spam", 2, 2, 0.5),
    ]
    assert (result.step, result.metric, result.examples) == (7, "MacroF1", 4)


def test_many_labels_are_decided_one_by_one(measured):
    evaluator = evaluator_of(["a", "b"], task="SequenceClassification", problem="MultiLabel")
    labels = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    metrics, result = measured(evaluator, batch([[1.0, -1.0], [2.0, -1.0]], labels, [0, 1]))
    right, wrong = math.log(1 + math.exp(-1.0)), math.log(1 + math.exp(1.0))
    assert metrics["Loss"] == pytest.approx((right + right + math.log(1 + math.exp(-2.0)) + wrong) / 4)
    assert metrics["Accuracy"] == 0.5
    assert metrics["MicroF1"] == pytest.approx(2 * 2 / (2 + 3))
    assert metrics["AUROC"] == 0.5, "of class b alone, since nothing lacks class a"
    assert [(c.actual, c.predicted) for c in result.classes] == [(2, 2), (1, 0)]


def test_numbers_are_judged_by_error_and_correlation(measured):
    evaluator = evaluator_of(task="SequenceClassification", problem="Regression")
    labels = torch.tensor([[1.0], [2.0], [3.0]])
    metrics, _ = measured(evaluator, batch([[1.5], [2.0], [2.5]], labels, [0, 1, 2]))
    assert metrics["MeanSquaredError"] == metrics["Loss"] == pytest.approx(0.5 / 3)
    assert metrics["Pearson"] == pytest.approx(1.0)


def test_a_correlation_that_is_not_defined_is_left_out(measured):
    evaluator = evaluator_of(task="SequenceClassification", problem="Regression")
    metrics, result = measured(evaluator, batch([[2.0], [2.0]], torch.tensor([[1.0], [2.0]]), [0, 1]))
    assert set(metrics) == {"Loss", "MeanSquaredError"}
    assert set(result.intervals) == {"Loss", "MeanSquaredError"}


def test_words_are_judged_where_something_is_predicted_and_spans_where_labels_mark_them(measured):
    evaluator = evaluator_of(["O", "B-X", "I-X"], task="TokenClassification")
    logits = torch.nn.functional.one_hot(torch.tensor([[0, 1, 2, 0], [1, 0, 0, 0]]), 3).float()
    labels = torch.tensor([[-100, 1, 2, -100], [1, -100, 1, -100]])
    metrics, result = measured(evaluator, batch(logits.tolist(), labels, [0, 1]))
    assert metrics["Accuracy"] == 0.75
    assert metrics["SeqevalF1"] == pytest.approx(2 * 2 / (2 + 3))
    assert (result.unit, result.examples) == ("words", 2)
    assert [(c.name, c.actual, c.predicted) for c in result.span_classes] == [("X", 3, 2)]
    assert result.confusion == ((0, 0, 0), (1, 2, 0), (0, 0, 1))


def test_language_models_are_judged_by_the_mean_loss_over_all_predictions(measured):
    evaluator = evaluator_of(task="InstructionTuning")
    batches = [
        SimpleNamespace(loss=torch.tensor(8.0), num_labels=4),
        SimpleNamespace(loss=torch.tensor(10.0), num_labels=2),
        SimpleNamespace(loss=torch.tensor(0.0), num_labels=0),
    ]
    metrics, result = measured(evaluator, *batches)
    assert metrics == {"Loss": 3.0, "Perplexity": pytest.approx(math.exp(3.0))}
    low, high = result.intervals["Loss"].low, result.intervals["Loss"].high
    assert (low, high) == (2.0, 5.0)


def test_examples_that_come_twice_and_batches_that_only_keep_step_count_once_and_not_at_all(measured):
    evaluator = evaluator_of(["a", "b"], task="SequenceClassification")
    right, wrong = [3.0, 0.0], [0.0, 3.0]
    metrics, result = measured(
        evaluator,
        batch([right, wrong], torch.tensor([0, 0]), [0, 1]),
        batch([right, wrong], torch.tensor([0, 0]), [0, 1]),
        batch([wrong], torch.tensor([0]), [-1]),
        batch([right], torch.tensor([0]), [2]),
    )
    assert result.examples == 3
    assert metrics["Accuracy"] == pytest.approx(2 / 3)


def test_the_result_has_intervals_around_its_metrics_and_survives_a_file(measured):
    evaluator = evaluator_of(["a", "b"], task="SequenceClassification")
    logits = [[1.0, 0.0]] * 30 + [[0.0, 1.0]] * 10
    _, result = measured(evaluator, batch(logits, torch.tensor([0] * 20 + [1] * 20), list(range(40))))
    for name in ("Accuracy", "MacroF1", "AUROC"):
        assert result.intervals[name].low < result.metrics[name] < result.intervals[name].high
    assert result.confidence == 0.95
    assert TaskResult.model_validate_json(result.model_dump_json()) == result


def test_no_resamples_give_a_result_without_intervals(measured):
    evaluator = evaluator_of(task="InstructionTuning", evaluation={"bootstrapSamples": 0})
    _, result = measured(evaluator, SimpleNamespace(loss=torch.tensor(8.0), num_labels=4))
    assert (result.intervals, result.confidence) == ({}, None)


def test_a_stop_gives_up_the_evaluation(tmp_path):
    evaluator = evaluator_of(task="InstructionTuning")
    batches = [SimpleNamespace(loss=torch.tensor(8.0), num_labels=4)]
    assert examined(evaluator, tmp_path, *batches, is_stopped=True) is None
    assert read_task_result(tmp_path) is None


def test_weights_that_are_no_numbers_have_no_loss(measured):
    evaluator = evaluator_of(["a", "b"], task="SequenceClassification")
    metrics, result = measured(evaluator, batch([[math.nan, 0.0]], torch.tensor([0]), [0]))
    assert "Loss" not in metrics
    assert result is None


@pytest.mark.parametrize(
    ("labels", "task", "metric", "problem"),
    [
        (["NN", "VB"], "TokenClassification", "SeqevalF1", "labels are not O, B-kind and I-kind: NN, VB"),
        ([str(n) for n in range(101)], "SequenceClassification", "AUROC", "for 100 classes at most"),
    ],
)
def test_a_metric_that_does_not_fit_the_labels_is_refused_before_training(labels, task, metric, problem):
    with pytest.raises(ConfigurationError, match=problem):
        evaluator_of(labels, task=task, evaluation={"metric": metric})


@pytest.mark.slow
def test_rows_of_all_ranks_arrive_once_each_and_in_the_order_of_their_keys(tmp_path):
    for world_size in (1, 3):
        run_gang("gather.py", world_size, str(tmp_path / f"{world_size}.json"))
    one, three = (json.loads((tmp_path / f"{size}.json").read_text()) for size in (1, 3))
    assert one == three
    assert one["integers"] == [[number, 10 * number] for number in range(23)]
    assert one["numbers"] == [[number / 2] for number in range(23)]


@pytest.mark.parametrize(("keep_best", "step"), [(True, 7), (False, 9)])
def test_the_result_that_stays_is_that_of_the_weights_that_are_exported(keep_best, step, tmp_path):
    evaluator = evaluator_of(["a", "b"], task="SequenceClassification", evaluation={"keepBest": keep_best})
    better = batch([[3.0, 0.0], [0.0, 3.0]], torch.tensor([0, 1]), [0, 1])
    worse = batch([[3.0, 0.0], [3.0, 0.0]], torch.tensor([0, 1]), [0, 1])
    first = examined(evaluator, tmp_path, better)
    later = Examination(PREDICTOR, ALONE, 9, lambda: False)
    second = evaluator.evaluate(later, [worse], first.selection, tmp_path)
    assert (second.selection.best_step, second.selection.stale_evaluations) == (7, 1)
    assert read_task_result(tmp_path).step == step
