"""What Prepare refuses of a fine-tuning, as the stage's own process: no gang starts for it."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.base_models import store_model
from tests.support.labelled import labelled_texts, prepare_labelled, task_plan
from tests.support.preparation import TEXTS
from tests.support.runs import write_plan
from trainyard_api.errors import ConfigurationError
from trainyard_api.names import ExitCode, Stage
from trainyard_api.plan import RunPlan
from trainyard_trainer.exit_records import read_exit_record, stage_exit_record_path
from trainyard_trainer.single_stages import check_training, names_parts_of_model


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return store_model(tmp_path_factory.mktemp("base") / "model")


def plan_of(base: Path, folder: Path, adaptation: dict[str, Any], **changes: Any) -> RunPlan:
    records = labelled_texts(["ham", "spam"])
    task = {"task": "SequenceClassification", "adaptation": adaptation}
    return task_plan(base, folder, records, task, data__validationFraction=0.2, **changes)


@pytest.mark.parametrize(
    ("adaptation", "rules", "where"),
    [
        (
            {"adapter": {"targetModules": ["query", "q_proj"]}},
            [],
            "spec.fineTuning.adaptation.adapter.targetModules[1]",
        ),
        ({"frozenLayers": 3}, [], "spec.fineTuning.adaptation.frozenLayers"),
        (
            {},
            [{"parameters": "*.q_proj.*"}],
            "spec.training.optimizer.parameterGroups[0].parameters",
        ),
        ({"adapter": {"method": "DoRA"}}, [{"parameters": "classifier.*"}], None),
        ({"adapter": {"targetModules": ["query", "attention.self.value"]}}, [], None),
        ({"frozenLayers": 2}, [], None),
        ({"unfreezeEverySteps": 1, "frozenLayers": 1}, [], "spec.fineTuning.adaptation.unfreezeEverySteps"),
        ({"unfreezeEverySteps": 1, "frozenLayers": 2}, [], None),
    ],
)
def test_what_names_parts_of_a_model_is_held_against_its_configuration(
    adaptation: dict[str, Any], rules: list[Any], where: str | None, base: Path, tmp_path: Path
) -> None:
    plan = plan_of(base, tmp_path, adaptation, training__optimizer__parameterGroups=rules)
    prepare_labelled(plan)
    (base / "model.safetensors").rename(base / "not-needed")
    try:
        if where is None:
            check_training(plan)
            return
        with pytest.raises(ConfigurationError) as caught:
            check_training(plan)
    finally:
        (base / "not-needed").rename(base / "model.safetensors")
    assert caught.value.where == where


def test_a_metric_that_does_not_fit_the_labels_is_refused(base: Path, tmp_path: Path) -> None:
    records = [{"words": text.split(), "tags": ["VERB", "NOUN"] * 99} for text in TEXTS[:200]]
    records = [{**each, "tags": each["tags"][: len(each["words"])]} for each in records]
    task = {"task": "TokenClassification", "evaluation": {"metric": "SeqevalF1"}}
    plan = task_plan(base, tmp_path, records, task, data__validationFraction=0.2)
    prepare_labelled(plan)
    with pytest.raises(ConfigurationError) as caught:
        check_training(plan)
    assert caught.value.where == "spec.fineTuning.evaluation.metric"
    assert "NOUN, VERB" in caught.value.problem


def test_the_stage_itself_ends_with_the_field_and_no_retry(base: Path, tmp_path: Path) -> None:
    plan = plan_of(base, tmp_path, {"adapter": {"targetModules": ["q_proj"]}})
    file = write_plan(plan, tmp_path / "plan.json")
    done = subprocess.run(
        [sys.executable, "-m", "trainyard_trainer", "prepare", "--plan", str(file), "--cores", "1"],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == ExitCode.INVALID_CONFIGURATION, done.stderr
    record = read_exit_record(stage_exit_record_path(Path(plan.paths.logs), Stage.PREPARE))
    assert record is not None
    assert record.message.startswith(
        "spec.fineTuning.adaptation.adapter.targetModules[0]: no linear layer of the body ends with 'q_proj'"
    )


@pytest.mark.parametrize(
    ("adaptation", "rules", "expected"),
    [
        ({}, [], False),
        ({"layerLearningRateDecay": 0.9}, [], False),
        ({"unfreezeEverySteps": 10}, [], True),
        ({"frozenLayers": 1}, [], True),
        ({"adapter": {}}, [], True),
        ({}, [{"parameters": "*.bias"}], True),
    ],
)
def test_only_what_names_parts_of_a_model_costs_the_import_of_a_framework(
    adaptation: dict[str, Any], rules: list[Any], expected: bool, base: Path, tmp_path: Path
) -> None:
    plan = plan_of(base, tmp_path, adaptation, training__optimizer__parameterGroups=rules)
    assert names_parts_of_model(plan.spec) is expected
