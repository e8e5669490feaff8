"""What Prepare refuses of a student and its teacher, by their configurations: no gang starts for it."""

from typing import Any

import pytest

from tests.support.base_models import store_model
from tests.support.preparation import make_plan, run, write_lines
from trainyard_api.errors import ConfigurationError
from trainyard_api.plan import RunPlan
from trainyard_api.spec import TrainingRunSpec
from trainyard_trainer.single_stages import check_training

ONE_LAYER = {"architecture": {"preset": "bert-tiny", "overrides": {"num_hidden_layers": 1}}}
LAYERS = {"hiddenStates": {}}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> RunPlan:
    """A student of a teacher with two layers, its data prepared."""
    folder = tmp_path_factory.mktemp("prepared")
    write_lines(folder / "texts.jsonl")
    teacher = store_model(folder / "teacher" / "model")
    distillation = {"teacher": {"pretrained": {"uri": teacher.as_uri()}}}
    plan = make_plan(folder, model=ONE_LAYER, tokenizer=None, distillation=distillation)
    run(plan)
    # None of what follows reads the weights.
    (teacher / "model.safetensors").unlink()
    return plan


def changed(plan: RunPlan, model: dict[str, Any], **distillation: Any) -> RunPlan:
    """The plan with another student, or other terms; neither decides what is prepared."""
    document = plan.spec.model_dump(by_alias=True, exclude_unset=True)
    document["model"] = model
    document["distillation"] |= distillation
    return plan.model_copy(update={"spec": TrainingRunSpec.model_validate(document)})


@pytest.mark.parametrize(
    ("model", "distillation", "where", "problem"),
    [
        (
            ONE_LAYER,
            {"losses": LAYERS, "layerMap": [{"student": 1, "teacher": 3}]},
            "spec.distillation.layerMap[0].teacher",
            "there is no layer 3; the teacher has 2",
        ),
        (
            {"fromTeacher": {"everyNthLayer": 2}},
            {"losses": LAYERS, "layerMap": [{"student": 0, "teacher": 0}, {"student": 2, "teacher": 2}]},
            "spec.distillation.layerMap[1].student",
            "there is no layer 2; the student has 1",
        ),
        (
            ONE_LAYER,
            {"losses": {"relations": {"teacherLayer": 3}}},
            "spec.distillation.losses.relations.teacherLayer",
            "there is no layer 3; the teacher has 2",
        ),
        (
            ONE_LAYER,
            {"losses": {"relations": {"numHeads": 3}}},
            "spec.distillation.losses.relations.numHeads",
            "the 128 features of the student's heads cannot be split into 3 parts",
        ),
        (
            {"fromTeacher": {"layers": [1, 3]}},
            {},
            "spec.model.fromTeacher.layers",
            "it names layer 3, and the teacher has 2",
        ),
        (
            {"fromTeacher": {"everyNthLayer": 3}},
            {},
            "spec.model.fromTeacher.everyNthLayer",
            "it is 3, and the teacher has 2 layers",
        ),
        (
            {"fromTeacher": {"width": {"hiddenSize": 4096}}},
            {},
            "spec.model.fromTeacher.width.hiddenSize",
            "128",
        ),
    ],
)
def test_what_teacher_or_student_lack_is_refused(
    prepared: RunPlan, model: dict[str, Any], distillation: dict[str, Any], where: str, problem: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        check_training(changed(prepared, model, **distillation))
    assert caught.value.where == where
    assert problem in caught.value.problem
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("model", "distillation"),
    [
        (ONE_LAYER, {"losses": LAYERS, "layerMap": [{"student": 1, "teacher": 2}]}),
        ({"fromTeacher": {"layers": [1, 2]}}, {"losses": {"relations": {"studentLayer": 2}}}),
    ],
)
def test_layers_that_both_have_are_compared(
    prepared: RunPlan, model: dict[str, Any], distillation: dict[str, Any]
) -> None:
    check_training(changed(prepared, model, **distillation))
