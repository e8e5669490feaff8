from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig

from tests.support.base_models import store_model
from tests.support.preparation import make_plan
from tests.support.teachers import store_classifier
from trainyard_api.errors import ConfigurationError
from trainyard_api.spec_model import Architecture
from trainyard_api.spec_objectives import FineTuning
from trainyard_trainer.models.build import build_config, build_model
from trainyard_trainer.models.config_size import size_of
from trainyard_trainer.models.presets import PRESETS
from trainyard_trainer.models.size import estimate
from trainyard_trainer.plan_text import size_lines

CLASSIFIER = FineTuning(task="SequenceClassification")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier of two layers and 128 features."""
    folder = tmp_path_factory.mktemp("teacher")
    return store_classifier(store_model(folder / "base" / "model"), folder / "spam", CLASSIFIER, ["a", "b"])


def plan_of(folder: Path, teacher: Path, model: dict[str, Any], **changes: Any) -> Any:
    return make_plan(
        folder,
        pretraining=None,
        fineTuning={"task": "SequenceClassification"},
        model=model,
        tokenizer=None,
        distillation={"teacher": {"pretrained": {"uri": teacher.as_uri()}}},
        **changes,
    )


@pytest.mark.parametrize("preset", ["bert-tiny", "modernbert-tiny", "llama-tiny", "gpt2-tiny"])
def test_the_size_of_a_stored_model_is_that_of_its_architecture(preset: str, tmp_path: Path) -> None:
    objective = PRESETS[preset].objective
    config = build_config(
        Architecture(preset=preset), vocabulary_size=400, pad_token_id=0, objective=objective
    )
    sizes = []
    for probability in (0.25, 0.5):
        masking = {"masking": {"probability": probability}} if objective == "MaskedLM" else {}
        plan = make_plan(
            tmp_path,
            pretraining={"objective": objective, **masking},
            model={"architecture": {"preset": preset}},
        )
        sizes.append(estimate(plan, vocabulary_size=400))
    found = size_of(config, objective, sequence_length=plan.spec.data.sequence_length)
    assert found.parameters == sizes[0].parameters.total
    # Projections grow with the fraction of predicted tokens, which are all where a model is used.
    half, quarter = sizes[1].flops_per_token, sizes[0].flops_per_token
    whole = 3 * half - 2 * quarter if objective == "MaskedLM" else half
    assert found.forward_flops == pytest.approx(whole / 3, rel=1e-6)


def test_a_plan_tells_the_sizes_of_both_and_the_speed_up_to_expect(teacher: Path, tmp_path: Path) -> None:
    student = {"fromTeacher": {"everyNthLayer": 2, "width": {"hiddenSize": 64}}}
    lines = list(size_lines(plan_of(tmp_path, teacher, student)))
    config = AutoConfig.from_pretrained(teacher)
    large = build_model(config, "SequenceClassification", seed=1).num_parameters()
    config.num_hidden_layers, config.hidden_size, config.num_attention_heads = 1, 64, 1
    config.intermediate_size = 256
    small = build_model(config, "SequenceClassification", seed=1).num_parameters()
    fewer = 100 * (1 - small / large)
    assert lines[1].startswith(f"teacher {large:,} parameters, ")
    assert lines[2].startswith(f"student {small:,} parameters ({fewer:.0f} % fewer), ")
    flops = [int(line.split(", ")[1].split(" FLOP")[0].replace(",", "")) for line in lines[1:3]]
    assert lines[3].startswith(f"expected speed-up {flops[0] / flops[1]:.1f}, by FLOP per token alone")
    assert flops[0] / flops[1] > 4


def test_a_student_from_random_weights_has_as_many_rows_as_its_teacher(teacher: Path, tmp_path: Path) -> None:
    lines = list(size_lines(plan_of(tmp_path, teacher, {"architecture": {"preset": "bert-tiny"}})))
    sizes = [line.split(" ")[1] for line in lines[1:3]]
    assert sizes[0] == sizes[1]
    assert "vocabulary assumed" not in "".join(lines)


def test_a_teacher_that_does_not_exist_yet_has_no_size(tmp_path: Path) -> None:
    lines = list(size_lines(plan_of(tmp_path, tmp_path / "later", {"fromTeacher": {"everyNthLayer": 2}})))
    assert lines[1] == "starts from layers of it, so that it decides parameters and memory"


def test_layers_that_the_teacher_lacks_are_refused_by_the_plan(teacher: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="it names layer 3, and the teacher has 2"):
        list(size_lines(plan_of(tmp_path, teacher, {"fromTeacher": {"layers": [1, 3]}})))
