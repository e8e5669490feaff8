import pytest

from tests.api.test_rules import run_document
from trainyard_api.errors import ConfigurationError
from trainyard_api.spec import TrainingRun
from trainyard_api.spec_distillation import RelationsLoss
from trainyard_trainer.models.rules import student_layer_problems
from trainyard_trainer.models.student_layers import related_layers, relation_heads


def problems_of(distillation, preset="gpt2-tiny", objective="CausalLM", **overrides):
    document = run_document(
        pretraining={"objective": objective},
        model={"architecture": {"preset": preset, "overrides": overrides}},
        distillation={"teacher": {"fromRun": {"name": "large"}}, **distillation},
    )
    return list(student_layer_problems(TrainingRun.model_validate(document)))


def layer_map(*layers):
    return {
        "losses": {"hiddenStates": {}},
        "layerMap": [{"student": layer, "teacher": 2 * layer} for layer in layers],
    }


def test_layers_that_the_students_architecture_lacks_are_refused_before_any_model_is_built():
    (problem,) = problems_of(layer_map(0, 1, 4), n_layer=3)
    assert problem.path == "spec.distillation.layerMap[2].student"
    assert problem.problem == "there is no layer 4; gpt2-tiny has 3 here"
    assert "spec.model.architecture.overrides.n_layer" in problem.remedy
    assert problems_of(layer_map(0, 1, 3), n_layer=3) == []


def test_a_layer_of_relations_is_one_of_the_students():
    (problem,) = problems_of({"losses": {"relations": {"studentLayer": 4}}}, n_layer=3)
    assert problem.path == "spec.distillation.losses.relations.studentLayer"
    assert problems_of({"losses": {"relations": {}}}, n_layer=3) == []


def test_an_architecture_that_is_wrong_by_itself_is_told_elsewhere():
    assert problems_of(layer_map(9), preset="gpt2-tini") == []


@pytest.mark.parametrize(
    ("fields", "layers"),
    [({}, (3, 12)), ({"student_layer": 2}, (2, 12)), ({"student_layer": 3, "teacher_layer": 10}, (3, 10))],
)
def test_relations_are_those_of_the_last_layers_unless_others_are_named(fields, layers):
    assert related_layers(RelationsLoss(**fields), 3, 12) == layers


@pytest.mark.parametrize(("field", "layer", "top"), [("student_layer", 4, 3), ("teacher_layer", 13, 12)])
def test_relations_of_a_layer_that_does_not_exist_are_refused(field, layer, top):
    with pytest.raises(ConfigurationError, match=f"there is no layer {layer}.* has {top}"):
        related_layers(RelationsLoss(**{field: layer}), 3, 12)


@pytest.mark.parametrize(("fields", "num_heads"), [({}, 4), ({"num_heads": 8}, 8)])
def test_relation_heads_are_the_students_unless_others_are_named(fields, num_heads):
    assert relation_heads(RelationsLoss(**fields), 4, (256, 768)) == num_heads


@pytest.mark.parametrize(
    ("widths", "problem"),
    [
        ((256, 768), r"numHeads: the 256 features of the student's heads cannot be split into 12 parts"),
        ((768, 250), r"numHeads: the 250 features of the teacher's heads cannot be split into 12 parts"),
    ],
)
def test_relation_heads_that_do_not_divide_both_models_are_refused(widths, problem):
    with pytest.raises(ConfigurationError, match=problem) as raised:
        relation_heads(RelationsLoss(), 12, widths)
    assert raised.value.remedy in {"Write a divisor of 256", "Write a divisor of 2"}
