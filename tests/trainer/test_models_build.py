"""Transformers configurations and models from presets, against the installed Transformers."""

import dataclasses
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoConfig
from transformers.activations import ACT2FN

from trainyard_api.spec_model import Architecture, Model
from trainyard_trainer.models.architecture import resolve_architecture
from trainyard_trainer.models.build import (
    AUTO_CLASSES,
    build_config,
    build_model,
    maximum_positions,
    padded_vocabulary_size,
)
from trainyard_trainer.models.families import ACTIVATIONS, BERT, GPT2, LLAMA, MODERNBERT, OWNED_FIELDS
from trainyard_trainer.models.parameter_count import count_parameters
from trainyard_trainer.models.presets import PRESETS
from trainyard_trainer.models.pretrained import model_config

TINY = ("bert-tiny", "modernbert-tiny", "llama-tiny", "gpt2-tiny")


def config_of(name, overrides=None, vocabulary_size=300, **token_ids):
    return build_config(
        Architecture(preset=name, overrides=overrides or {}),
        vocabulary_size=vocabulary_size,
        pad_token_id=1,
        objective=PRESETS[name].objective,
        special_token_ids=token_ids,
    )


@pytest.mark.parametrize("family", [BERT, MODERNBERT, LLAMA, GPT2], ids=lambda family: family.model_type)
def test_every_configuration_field_is_either_settable_or_refused(family):
    real = {field.name for field in dataclasses.fields(AutoConfig.for_model(family.model_type))}
    assert real - set(family.fields) - set(OWNED_FIELDS) == set()
    assert set(family.fields) - real == set()
    assert set(family.fields) & set(OWNED_FIELDS) == set()


def test_every_activation_on_offer_exists():
    assert set(ACTIVATIONS) <= set(ACT2FN)


@pytest.mark.parametrize("name", sorted(PRESETS))
@pytest.mark.parametrize("tied", [True, False])
def test_the_parameter_formula_equals_the_real_model(name, tied):
    architecture = Architecture(preset=name, overrides={"tie_word_embeddings": tied})
    config = build_config(
        architecture, vocabulary_size=1000, pad_token_id=0, objective=PRESETS[name].objective
    )
    with torch.device("meta"):
        model = AUTO_CLASSES[PRESETS[name].objective].from_config(config)
    count = count_parameters(resolve_architecture(architecture, PRESETS[name].objective), config.vocab_size)
    assert count.total == model.num_parameters()


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("modernbert-tiny", {"norm_bias": True, "attention_bias": True, "mlp_bias": True}),
        ("modernbert-tiny", {"decoder_bias": False}),
        ("llama-tiny", {"attention_bias": True, "mlp_bias": True, "head_dim": 64, "num_key_value_heads": 1}),
        ("bert-tiny", {"type_vocab_size": 1, "max_position_embeddings": 64}),
        ("gpt2-tiny", {"intermediate_size": 96, "n_positions": 64}),
    ],
)
def test_the_parameter_formula_follows_overrides(name, overrides):
    objective = PRESETS[name].objective
    config = config_of(name, overrides)
    with torch.device("meta"):
        model = AUTO_CLASSES[objective].from_config(config)
    resolved = resolve_architecture(Architecture(preset=name, overrides=overrides), objective)
    assert count_parameters(resolved, config.vocab_size).total == model.num_parameters()


@pytest.mark.parametrize("name", TINY)
def test_weights_depend_on_the_seed_alone(name):
    config, objective = config_of(name), PRESETS[name].objective
    first = build_model(config, objective, seed=3)
    torch.rand(5)
    state = torch.random.get_rng_state()
    again = build_model(config, objective, seed=3)
    other = build_model(config, objective, seed=4)
    pairs = list(zip(first.state_dict().values(), again.state_dict().values(), strict=True))
    assert all(torch.equal(one, two) for one, two in pairs)
    embeddings = [model.get_input_embeddings().weight for model in (first, other)]
    assert not torch.equal(*embeddings)
    assert torch.equal(state, torch.random.get_rng_state())


@pytest.mark.parametrize("name", TINY)
def test_a_model_starts_in_fp32_with_tied_embeddings_and_fused_attention(name):
    model = build_model(config_of(name), PRESETS[name].objective, seed=0)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert model.config._attn_implementation == "sdpa"
    assert model.get_input_embeddings().weight.shape[0] == padded_vocabulary_size(300) == 320


@pytest.mark.parametrize("name", TINY)
def test_special_tokens_are_the_tokenizers_or_none(name):
    config = config_of(name, bos_token_id=2, eos_token_id=3)
    assert (config.pad_token_id, config.bos_token_id, config.eos_token_id) == (1, 2, 3)
    assert config_of(name).eos_token_id is None
    assert maximum_positions(config) == PRESETS[name].maximum_positions


@pytest.mark.parametrize("pad_token_id", [0, 2], ids=["own padding", "padded with the end of a document"])
def test_the_rows_of_document_borders_are_trained_whatever_pads(pad_token_id):
    tokenizer = SimpleNamespace(
        vocabulary_size=300, pad_token_id=pad_token_id, prefix_token_id=1, suffix_token_id=2
    )
    spec = SimpleNamespace(
        model=Model(architecture=Architecture(preset="llama-tiny")),
        language_modeling=SimpleNamespace(objective="CausalLM"),
        fine_tuning=None,
    )
    data = SimpleNamespace(manifest=SimpleNamespace(base_model=None, teacher=None, tokenizer=tokenizer))
    model = build_model(model_config(spec, data), "CausalLM", seed=1)
    rows = model.get_input_embeddings().weight
    states = model.base_model(
        input_ids=torch.tensor([[1, 2, 7]]), attention_mask=torch.ones(1, 3)
    ).last_hidden_state
    states.sum().backward()
    assert rows.grad[[1, 2, 7]].abs().sum(dim=1).gt(0).all()
    assert rows[[1, 2, 7]].abs().sum(dim=1).gt(0).all()
