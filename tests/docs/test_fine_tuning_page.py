"""docs/fine-tuning.md and the README's section say what the API has."""

import re
from pathlib import Path

import pytest
import yaml

from tests.support.readme import blocks, section
from trainyard_api.spec_objectives import (
    Adaptation,
    Adapter,
    ClassBalance,
    EarlyStopping,
    FineTuning,
    TaskEvaluation,
)
from trainyard_api.task_metrics import (
    LANGUAGE_MODELING_METRICS,
    SEQUENCE_METRICS,
    TOKEN_METRICS,
    selection_metric,
)
from trainyard_api.validation import validate_document

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "fine-tuning.md").read_text(encoding="utf-8")
SAMPLE = yaml.safe_load((ROOT / "manifests" / "samples" / "classify-spam.yaml").read_text(encoding="utf-8"))
FRAGMENTS = blocks("yaml", PAGE)


def test_the_page_has_fragments():
    assert len(FRAGMENTS) >= 5


@pytest.mark.parametrize("fragment", FRAGMENTS)
def test_a_fragment_of_the_page_belongs_below_fine_tuning(fragment):
    validate_document({**SAMPLE, "spec": {**SAMPLE["spec"], "fineTuning": yaml.safe_load(fragment)}})


def test_the_readmes_fragment_completes_a_run():
    [fragment] = blocks("yaml", section("Fine-tune"))
    validate_document({**SAMPLE, "spec": {**SAMPLE["spec"], **yaml.safe_load(fragment)["spec"]}})


SEQUENCE = "SequenceClassification"
MANY, NUMBER = "MultiLabel", "Regression"
WORDS = "TokenClassification"
ROWS = {
    "one class": (SEQUENCE_METRICS["SingleLabel"], {"task": SEQUENCE}, ""),
    "any number of classes": (
        SEQUENCE_METRICS["MultiLabel"],
        {"task": SEQUENCE, "problem": "MultiLabel"},
        "",
    ),
    "a number": (SEQUENCE_METRICS["Regression"], {"task": SEQUENCE, "problem": "Regression"}, ""),
    "words": (TOKEN_METRICS, {"task": WORDS}, " where labels mark spans (B-, I-, O), else Accuracy"),
    "text": (LANGUAGE_MODELING_METRICS, {"task": "InstructionTuning"}, ""),
}


@pytest.mark.parametrize("name", ROWS)
def test_the_page_names_the_metrics_of_a_task_and_the_usual_one(name):
    metrics, task, condition = ROWS[name]
    usual = selection_metric(FineTuning.model_validate(task), ["B-PER", "I-PER", "O"])
    row = f"| {name} | {', '.join(metrics)} | {usual}{condition} |"
    assert row in PAGE.splitlines()


def test_the_page_names_every_field_of_what_it_explains():
    parts = (Adaptation, Adapter, ClassBalance, EarlyStopping, TaskEvaluation)
    names = {field.alias for part in parts for field in part.model_fields.values()}
    explained = {*re.findall(r"\w+", PAGE), "effectiveNumberBeta", "confidence"}
    assert names - explained == set()
