"""The terms on attention and relations inside a student and its teacher, in every family."""

import pytest
import torch

from tests.api.test_rules import run_document
from trainyard_api.spec import TrainingRun
from trainyard_api.spec_distillation import LayerPair
from trainyard_api.spec_model import Architecture
from trainyard_trainer.models.build import build_config, build_model
from trainyard_trainer.models.distilled_model import DistilledModel
from trainyard_trainer.models.language_model import LanguageModel
from trainyard_trainer.models.sight import Sight, attention_windows

OBJECTIVES = {
    "bert-tiny": "MaskedLM",
    "modernbert-tiny": "MaskedLM",
    "llama-tiny": "CausalLM",
    "gpt2-tiny": "CausalLM",
}
LOSSES = {
    "attentions": {},
    "relations": {
        "relations": ["QueryKey", "QueryQuery", "KeyKey", "ValueValue"],
        "studentLayer": 1,
        "teacherLayer": 1,
    },
}
MODERN = {
    "num_hidden_layers": 2,
    "local_attention": 4,
    "layer_types": ["full_attention", "sliding_attention"],
}
"""A layer that only looks two tokens to each side."""


def network(preset, seed, **overrides):
    objective = OBJECTIVES[preset]
    fields = MODERN if preset == "modernbert-tiny" else {}
    architecture = Architecture(preset=preset, overrides={**fields, **overrides})
    config = build_config(architecture, vocabulary_size=64, pad_token_id=0, objective=objective)
    model = build_model(config, objective, seed=seed).eval()
    with torch.no_grad():
        generator = torch.Generator().manual_seed(seed)
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return LanguageModel(
        model, causal=objective == "CausalLM", isolate_documents=True, mask_dtype=torch.float32
    )


def distilled(student, teacher, losses=LOSSES, pairs=((1, 1), (2, 2))):
    document = run_document(
        distillation={"teacher": {"fromRun": {"name": "large"}}, "losses": losses},
        model={"fromTeacher": {}},
    )
    spec = TrainingRun.model_validate(document).spec
    layer_map = [LayerPair(student=low, teacher=high) for low, high in pairs]
    return DistilledModel(student, teacher, spec, layer_map, vocabulary_sizes=(64, 64))


def batch(*rows):
    """The arguments of rows of documents, of which each is given by its tokens."""
    length = 16
    ids, positions = torch.zeros(2, len(rows), length, dtype=torch.int64)
    documents = torch.full((len(rows), length), -1)
    for row, texts in enumerate(rows):
        place = 0
        for number, text in enumerate(texts):
            chosen = slice(place, place + len(text))
            ids[row, chosen] = torch.tensor(text)
            positions[row, chosen] = torch.arange(len(text))
            documents[row, chosen] = number
            place += len(text)
    nothing = torch.zeros(0, dtype=torch.int64)
    return ids, positions, documents, nothing, nothing


FIRST, SECOND = [5, 9, 33, 12, 7, 8, 21], [40, 41, 9, 6, 13]


@pytest.mark.parametrize("preset", OBJECTIVES)
def test_a_document_counts_the_same_beside_others_and_in_a_row_of_its_own(preset):
    """Keys of other documents and padding are not seen, and a local layer looks no further than it does."""
    model = distilled(network(preset, 1), network(preset, 2))
    packed, alone = model(*batch([FIRST, SECOND])), model(*batch([FIRST], [SECOND]))
    assert (alone > 0.01).all()
    torch.testing.assert_close(packed, alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("preset", OBJECTIVES)
def test_a_student_that_equals_its_teacher_has_nothing_to_learn(preset):
    model = distilled(network(preset, 1), network(preset, 1))
    torch.testing.assert_close(model(*batch([FIRST, SECOND])), torch.zeros(2), rtol=0.0, atol=1e-5)


@pytest.mark.parametrize("preset", OBJECTIVES)
def test_queries_and_keys_learn_from_both_terms_and_maps_of_heads_from_attention(preset):
    """Relations do not care about the number of heads; shared key-value heads learn for all of theirs."""
    heads = {"n_head": 8} if preset == "gpt2-tiny" else {"num_attention_heads": 8}
    model = distilled(network(preset, 1), network(preset, 2, **heads), pairs=((2, 1),))
    (weight,) = model.projections.parameters()
    assert weight.shape == (8, model.model.config.num_attention_heads)
    model(*batch([FIRST, SECOND])).sum().backward()
    assert weight.grad.abs().max() > 0
    layers = {name: p.grad for name, p in model.model.named_parameters() if p.grad is not None}
    assert any(".0." in name and gradient.abs().max() > 0 for name, gradient in layers.items())
    assert any(".1." in name and gradient.abs().max() > 0 for name, gradient in layers.items())


def test_keys_of_a_local_layer_count_only_where_both_layers_see_them():
    groups = torch.tensor([[0, 0, 0, 0, 1, -1]])
    sight = Sight(groups, causal=False, windows=(None, 1))
    assert sight.of_layer(1)[0].sum(-1).tolist() == [4, 4, 4, 4, 1, 0]
    assert sight.of_layer(2)[0].sum(-1).tolist() == [2, 3, 3, 2, 1, 0]
    assert Sight(groups, causal=True, windows=(None,)).of_layer(1)[0].sum(-1).tolist() == [1, 2, 3, 4, 1, 0]


def test_windows_are_those_of_the_model_itself():
    config = network("modernbert-tiny", 1).model.config
    assert attention_windows(config) == (None, config.sliding_window)
    assert attention_windows(network("llama-tiny", 1).model.config) == (None, None)
