"""What the report and the model card of a fine-tuned model tell."""

import re

import pytest

from tests.trainer.test_report_page import HOSTILE, Page
from trainyard_api.names import File
from trainyard_api.plan import Rendezvous, plan_run
from trainyard_api.progress import HistoryRecord
from trainyard_api.spec import TrainingRun
from trainyard_trainer.model_card import render_model_card
from trainyard_trainer.progress import append_record, write_json_atomically
from trainyard_trainer.report import write_report
from trainyard_trainer.report_confusion import (
    MAXIMUM_CLASSES,
    OTHERS,
    confusion_chart,
    drawn_classes,
    short_count,
)
from trainyard_trainer.report_evaluation import adaptation_words, balance_words
from trainyard_trainer.task_result import ClassResult, MetricInterval, TaskResult, write_task_result
from trainyard_trainer.training_record import RecordedBase, RecordedCheckpoint, TrainingRecord

SPAM = {"task": "SequenceClassification", "evaluation": {"metric": "MacroF1"}}


def run_of(fine_tuning):
    spec = {
        "fineTuning": fine_tuning,
        "model": {"pretrained": {"uri": "file:///models/minilm"}},
        "data": {"sources": [{"name": "mail", "uri": "file:///data/*.jsonl", "format": "JsonLines"}]},
        "training": {
            "budget": {"steps": 40},
            "globalBatchSize": 16,
            "microBatchSize": 16,
            "optimizer": {"learningRate": 5e-5},
            "evaluation": {"everySteps": 10},
        },
    }
    return TrainingRun.model_validate({"metadata": {"name": "spam"}, "spec": spec})


def result_of(**changes):
    values = {
        "step": 30,
        "task": "SequenceClassification",
        "metric": "MacroF1",
        "metrics": {"Loss": 0.11, "Accuracy": 0.96, "MacroF1": 0.953, "AUROC": 0.99},
        "confidence": 0.95,
        "intervals": {"MacroF1": MetricInterval(low=0.94, high=0.966)},
        "examples": 1000,
        "classes": (
            ClassResult(name="ham", precision=0.97, recall=0.974, f1=0.972, actual=690, predicted=693),
            ClassResult(name="spam", precision=0.94, recall=0.93, f1=0.935, actual=310, predicted=307),
        ),
        "confusion": ((672, 18), (22, 288)),
    }
    return TaskResult(**(values | changes))


@pytest.fixture
def run_folder(tmp_path):
    """A fine-tuning run with four evaluations, of which the third was the best."""
    folder = tmp_path / "spam"
    folder.mkdir()
    plan = plan_run(run_of(SPAM), storage_root=str(tmp_path), rendezvous=Rendezvous(address="127.0.0.1"))
    write_json_atomically(folder / File.PLAN, plan)
    for step in range(1, 41):
        append_record(folder / File.HISTORY, HistoryRecord(step=step, time=step, loss=1 / step))
        if step % 10 == 0:
            metrics = {"Loss": 1 / step, "MacroF1": 0.953 if step == 30 else 0.9}
            record = HistoryRecord(step=step, time=step, evaluation_loss=1 / step, metrics=metrics)
            append_record(folder / File.HISTORY, record)
    write_task_result(folder, result_of())
    return folder


def page_of(folder):
    html = write_report(folder).read_text(encoding="utf-8")
    return html, Page(html)


def test_the_report_of_a_task_tells_its_metrics_with_intervals_and_its_classes(run_folder):
    html, page = page_of(run_folder)
    for expected in (
        "SequenceClassification (SingleLabel) fine-tuning of the model file:///models/minilm on 1 source",
        "On 1,000 held-out examples the macro F1 is 0.953 (95 % interval 0.94 to 0.966).",
        "Always naming the most frequent class, ham, would give an accuracy of 0.69; the model's is 0.96.",
        "macro F1 0.953 95 % interval 0.94 to 0.966",
        "AUROC 0.99",
        "spam 0.940 0.930 0.935 310 307",
        "1,000 held-out examples, step 30",
        "adaptation all weights",
        "exported checkpoint the best",
        "Macro F1 on held-out examples",
    ):
        assert expected in page.words
    assert "token frequencies" not in page.words
    assert page.words.index("Confusion matrix") < page.words.index("mean over predictions")
    assert "ham taken for spam: 18 of 690 (2.6 %)" in html
    assert html.count('class="cell"') == 4


def test_labels_from_users_are_shown_and_not_run(run_folder):
    hostile = ClassResult(name=HOSTILE, precision=1, recall=1, f1=1, actual=690, predicted=690)
    write_task_result(run_folder, result_of(classes=(hostile, result_of().classes[1])))
    html, page = page_of(run_folder)
    assert page.tags.isdisjoint({"script", "img"})
    assert page.handlers == []
    assert not re.search(r"https?:", html)


def test_a_task_that_was_not_evaluated_yet_has_no_result(run_folder):
    (run_folder / File.EVALUATION).unlink()
    (run_folder / File.HISTORY).unlink()
    _, page = page_of(run_folder)
    assert "The model has not been evaluated yet." in page.words
    assert "Confusion" not in page.words


def test_a_result_without_a_defined_metric_says_so(run_folder):
    write_task_result(run_folder, result_of(metrics={"Loss": 0.5}, confusion=None))
    _, page = page_of(run_folder)
    assert "The macro F1 of the held-out examples is not defined." in page.words


def test_rare_classes_are_drawn_together_and_nothing_is_lost():
    names = [f"class-{number}" for number in range(MAXIMUM_CLASSES + 8)]
    matrix = [[(row + 1) * (row == column) for column in range(len(names))] for row in range(len(names))]
    matrix[0][3] = 5
    shown, sums = drawn_classes(names, matrix)
    assert len(shown) == MAXIMUM_CLASSES
    assert (shown[0], shown[-1]) == (names[-1], OTHERS)
    assert sum(map(sum, sums)) == sum(map(sum, matrix))
    assert sums[-1][-1] == 5 + sum(range(1, 10))


def test_a_class_that_nobody_has_or_predicts_is_not_drawn():
    assert drawn_classes(["a", "b", "c"], [[3, 1, 0], [0, 0, 0], [0, 0, 0]])[0] == ["a", "b"]
    assert confusion_chart(["a"], [[0]]) is None


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0"),
        (999, "999"),
        (1000, "1.0k"),
        (9949, "9.9k"),
        (9950, "10k"),
        (999_499, "999k"),
        (999_500, "1.0M"),
        (12_000_000, "12M"),
    ],
)
def test_a_count_fits_into_a_narrow_cell(count, text):
    assert short_count(count) == text


def test_a_cell_is_as_dark_as_its_share_of_the_row():
    drawing = str(confusion_chart(["a", "b"], [[3, 1], [0, 0]]))
    assert re.findall(r'fill-opacity="([0-9.]+)"', drawing) == ["0.75", "0.25", "0.0", "0.0"]
    assert 'class="dark"' in drawing


@pytest.mark.parametrize(
    ("adaptation", "words"),
    [
        ({}, "all weights"),
        ({"adapter": {"method": "DoRA", "rank": 4}}, "DoRA of rank 4"),
        ({"frozenLayers": 3}, "the lowest 3 layers and the embeddings frozen"),
        (
            {"unfreezeEverySteps": 50, "layerLearningRateDecay": 0.9},
            "a further layer unfrozen every 50 steps, learning rate x 0.9 with each layer down",
        ),
    ],
)
def test_adaptation_in_words(adaptation, words):
    fine_tuning = run_of({**SPAM, "adaptation": adaptation}).spec.fine_tuning
    assert adaptation_words(fine_tuning.adaptation) == words


def test_class_balance_in_words_tells_only_what_is_done():
    balance = {"classWeights": "InverseFrequency", "labelSmoothing": 0.1}
    assert balance_words(run_of({**SPAM, "classBalance": balance}).spec.fine_tuning.class_balance) == (
        "class weights: InverseFrequency, label smoothing 0.1"
    )
    assert balance_words(run_of(SPAM).spec.fine_tuning.class_balance) == ""


def record_of(run, evaluation):
    return TrainingRecord(
        key="k",
        run="spam",
        objective=run.spec.fine_tuning.task,
        parameters=22_700_000,
        steps=30,
        tokens=480_000,
        training_seconds=20.0,
        seed=0,
        evaluation_loss=0.11,
        evaluation=evaluation,
        data_hash="ab" * 32,
        data={},
        base=RecordedBase(
            uri="file:///models/minilm", hash="cd" * 32, model_type="bert", initialised=("classifier.weight",)
        ),
        spec=run.spec,
        checkpoint=RecordedCheckpoint(step=30, committed_at="2026-11-25T08:00:00Z", manifest_sha256="e" * 64),
        versions={"python": "3.11.9"},
        created_at="2026-11-25T08:00:01Z",
    )


def test_the_card_of_a_classifier_tells_metrics_classes_and_limits():
    card = render_model_card(record_of(run_of(SPAM), result_of()), weights_bytes=90_000_000)
    for expected in (
        "pipeline_tag: text-classification",
        "A classifier of texts with 22,700,000 parameters",
        "from the model `file:///models/minilm`.",
        "Measured on 1,000 held-out examples after 30 optimizer steps; intervals are 95 %, by resampling",
        "| macro F1 | 0.953 | 95 % interval 0.94 to 0.966 |",
        "| `spam` | 0.940 | 0.930 | 0.935 | 310 | 307 |",
        "Always naming the most frequent class, `ham`, would give an accuracy of 0.69.",
        "These held-out examples also chose the checkpoint (the best macro F1)",
        "It lacked these weights, which were drawn from the seed: `classifier.weight`.",
        "AutoModelForSequenceClassification.from_pretrained",
        "| adaptation | all weights |",
    ):
        assert expected in card


def test_the_card_of_a_model_that_was_not_evaluated_says_so():
    record = record_of(run_of(SPAM), None).model_copy(update={"evaluation_loss": None})
    assert "It was not evaluated." in render_model_card(record, weights_bytes=1)
