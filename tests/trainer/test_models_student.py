import copy

import pytest
import torch

from tests.support.task_examples import tiny_classifier
from trainyard_api.errors import ConfigurationError
from trainyard_api.spec_distillation import LayerPair
from trainyard_api.spec_model import Architecture, StudentOfTeacher, StudentWidth
from trainyard_trainer.models.build import build_config, build_model
from trainyard_trainer.models.layers import body_layer_prefixes
from trainyard_trainer.models.narrowing import hidden_basis, sizes_of
from trainyard_trainer.models.student import student_of
from trainyard_trainer.models.student_layers import chosen_layers, compared_layers, evenly_spread
from trainyard_trainer.models.weight_axes import axes_of

FAMILIES = {
    "bert-tiny": ("MaskedLM", "num_hidden_layers"),
    "modernbert-tiny": ("MaskedLM", "num_hidden_layers"),
    "llama-tiny": ("CausalLM", "num_hidden_layers"),
    "gpt2-tiny": ("CausalLM", "n_layer"),
}


def make_teacher(preset, num_layers=5, **overrides):
    objective, layers_field = FAMILIES[preset]
    config = build_config(
        Architecture(preset=preset, overrides={layers_field: num_layers, **overrides}),
        vocabulary_size=100,
        pad_token_id=0,
        objective=objective,
    )
    model = build_model(config, objective, seed=3)
    with torch.no_grad():  # norms and biases start at ones and zeros, which would hide a mix-up
        for number, parameter in enumerate(model.parameters()):
            parameter.add_(
                0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
            )
    return model.eval()


@pytest.fixture(scope="module", params=FAMILIES)
def teacher(request):
    return make_teacher(request.param)


def logits_of(model):
    with torch.no_grad():
        return model.eval()(input_ids=torch.arange(5, 45).view(2, 20)).logits


@pytest.mark.parametrize(
    ("student", "num_layers", "origins"),
    [
        ({"everyNthLayer": 2}, 12, (2, 4, 6, 8, 10, 12)),
        ({"everyNthLayer": 2}, 5, (1, 3, 5)),
        ({"everyNthLayer": 3}, 4, (1, 4)),
        ({"everyNthLayer": 4}, 4, (4,)),
        ({"layers": [1, 2, 6]}, 6, (1, 2, 6)),
        ({}, 3, (1, 2, 3)),
    ],
)
def test_a_student_gets_the_layers_that_were_chosen_and_every_nth_from_the_top(student, num_layers, origins):
    assert chosen_layers(StudentOfTeacher.model_validate(student), num_layers) == origins


@pytest.mark.parametrize(
    ("student", "field"), [({"everyNthLayer": 7}, "everyNthLayer"), ({"layers": [1, 7]}, "layers")]
)
def test_layers_that_the_teacher_lacks_are_refused(student, field):
    with pytest.raises(ConfigurationError, match=r"7.*the teacher has 6") as raised:
        chosen_layers(StudentOfTeacher.model_validate(student), 6)
    assert raised.value.where == f"spec.model.fromTeacher.{field}"


@pytest.mark.parametrize(
    ("num_student", "num_teacher", "origins"),
    [(4, 12, (3, 6, 9, 12)), (3, 4, (1, 3, 4)), (2, 2, (1, 2)), (4, 2, (1, 1, 2, 2)), (1, 6, (6,))],
)
def test_a_student_that_copies_no_layers_is_compared_with_evenly_spread_ones(
    num_student, num_teacher, origins
):
    assert evenly_spread(num_student, num_teacher) == origins


def test_the_layers_to_compare_are_the_given_ones_or_those_that_were_copied():
    given = [LayerPair(student=0, teacher=0), LayerPair(student=2, teacher=6)]
    assert compared_layers(given, (3, 6), 6) == tuple(given)
    assert [(pair.student, pair.teacher) for pair in compared_layers([], (3, 6), 6)] == [(1, 3), (2, 6)]


@pytest.mark.parametrize(("pair", "field", "top"), [((3, 6), "student", 2), ((2, 7), "teacher", 6)])
def test_a_layer_map_out_of_range_is_refused(pair, field, top):
    given = [LayerPair(student=1, teacher=1), LayerPair(student=pair[0], teacher=pair[1])]
    with pytest.raises(ConfigurationError, match=f"the {field} has {top}") as raised:
        compared_layers(given, (3, 6), 6)
    assert raised.value.where == f"spec.distillation.layerMap[1].{field}"


def test_a_student_of_every_second_layer_equals_its_teacher_weight_by_weight(teacher):
    student = student_of(teacher, StudentOfTeacher(every_nth_layer=2))
    weights, prefixes = teacher.state_dict(), body_layer_prefixes(teacher)
    assert student.origins == (1, 3, 5)
    assert len(body_layer_prefixes(student.model)) == 3
    for name, weight in student.model.state_dict().items():
        origin = name
        for number, layer in enumerate(student.origins):
            if name.startswith(prefixes[number]):
                origin = f"{prefixes[layer - 1]}{name.removeprefix(prefixes[number])}"
        assert torch.equal(weight, weights[origin]), name
        assert weight.data_ptr() != weights[origin].data_ptr(), name


def test_a_student_of_all_layers_predicts_what_its_teacher_predicts(teacher):
    copied = student_of(teacher, StudentOfTeacher())
    torch.testing.assert_close(logits_of(copied.model), logits_of(teacher))
    assert copied.num_parameters == sum(parameter.numel() for parameter in teacher.parameters())


def test_tied_weights_stay_tied_and_count_once(teacher):
    student = student_of(teacher, StudentOfTeacher(layers=[2, 5]))
    model = student.model
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert student.num_parameters == sum(weight.numel() for weight in dict(model.named_parameters()).values())
    assert student.num_parameters < sum(weight.numel() for weight in model.state_dict().values())


def test_a_student_keeps_the_attention_pattern_of_each_layer():
    teacher = make_teacher("modernbert-tiny", num_layers=6)
    kinds = teacher.config.layer_types
    student = student_of(teacher, StudentOfTeacher(layers=[2, 4, 6]))
    assert student.model.config.layer_types == [kinds[1], kinds[3], kinds[5]]
    assert teacher.config.num_hidden_layers == 6


@pytest.mark.parametrize("method", ["Slice", "Project"])
def test_a_narrower_student_has_whole_heads_and_computes(teacher, method):
    head = teacher.config.hidden_size // teacher.config.num_attention_heads
    width = StudentWidth(hidden_size=64, method=method)
    model = student_of(teacher, StudentOfTeacher(every_nth_layer=2, width=width)).model
    assert model.config.hidden_size == 64
    assert model.config.hidden_size // model.config.num_attention_heads == head
    assert logits_of(model).isfinite().all()
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_a_slice_of_all_features_is_the_teacher(teacher):
    width = StudentWidth(hidden_size=teacher.config.hidden_size)
    model = student_of(teacher, StudentOfTeacher(width=width)).model
    torch.testing.assert_close(logits_of(model), logits_of(teacher))


def test_a_slice_keeps_the_strongest_features_of_the_embeddings(teacher):
    weights = teacher.state_dict()
    model = student_of(teacher, StudentOfTeacher(width=StudentWidth(hidden_size=64))).model
    embedding = teacher.get_input_embeddings().weight.detach()
    strongest = embedding.square().sum(0).argsort(descending=True)[:64].sort().values
    assert torch.equal(model.get_input_embeddings().weight, embedding[:, strongest])
    norms = ("norm.weight", "LayerNorm.weight", "ln_f.weight")
    name = next(name for name in weights if name.endswith(norms))
    torch.testing.assert_close(model.state_dict()[name], weights[name][strongest])


def test_inner_features_without_weight_are_the_ones_that_are_dropped(teacher):
    """A teacher that is wide only by zeros inside its feed-forwards has a narrow student that equals it."""
    sparse = copy.deepcopy(teacher)
    inner = sizes_of(teacher.config).inner
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for prefix in body_layer_prefixes(sparse):
            dead = torch.randperm(inner, generator=generator)[: inner // 2]
            for name, weight in sparse.named_parameters():
                for dimension, axis in enumerate(axes_of(sparse.config.model_type, name)):
                    if name.startswith(prefix) and axis.kind == "inner":
                        places = torch.cat([dead + inner * part for part in range(axis.parts)])
                        weight.index_fill_(dimension, places, 0.0)
    width = StudentWidth(hidden_size=teacher.config.hidden_size, intermediate_size=inner // 2)
    student = student_of(sparse, StudentOfTeacher(width=width))
    assert student.num_parameters < sum(parameter.numel() for parameter in teacher.parameters())
    torch.testing.assert_close(logits_of(student.model), logits_of(sparse))


def test_principal_components_keep_more_of_the_embeddings_than_any_single_features():
    generator = torch.Generator().manual_seed(1)
    embedding = torch.randn(200, 8, generator=generator) @ torch.randn(8, 32, generator=generator)
    lost = {}
    for method in ("Slice", "Project"):
        basis = hidden_basis(embedding, 8, method)
        torch.testing.assert_close(basis.T @ basis, torch.eye(8), atol=1e-5, rtol=0.0)
        lost[method] = (embedding - embedding @ basis @ basis.T).norm() / embedding.norm()
    assert lost["Project"] < 1e-4
    assert lost["Slice"] > 0.5


@pytest.mark.parametrize(
    ("width", "problem"),
    [
        ({"hidden_size": 100}, "100 is no multiple of"),
        ({"hidden_size": 256}, "256 is no multiple of"),
        ({"hidden_size": 64, "intermediate_size": 4096}, "4096 is more than the teacher's"),
    ],
)
def test_a_width_that_is_no_part_of_the_teachers_is_refused(teacher, width, problem):
    with pytest.raises(ConfigurationError, match=problem) as raised:
        student_of(teacher, StudentOfTeacher(width=StudentWidth(**width)))
    assert raised.value.where.startswith("spec.model.fromTeacher.width.")


def test_a_classifier_keeps_its_head_and_its_classes():
    teacher = tiny_classifier()
    student = student_of(teacher, StudentOfTeacher(every_nth_layer=2)).model
    narrow = student_of(teacher, StudentOfTeacher(width=StudentWidth(hidden_size=64))).model
    assert type(student) is type(teacher)
    assert student.config.id2label == teacher.config.id2label
    assert torch.equal(student.classifier.weight, teacher.classifier.weight)
    assert logits_of(narrow).shape == (2, 3)


def test_a_family_that_is_not_known_is_refused():
    teacher = tiny_classifier()
    teacher.config.model_type = "t5"
    with pytest.raises(ConfigurationError, match="the layers of a t5 model cannot be copied"):
        student_of(teacher, StudentOfTeacher())
