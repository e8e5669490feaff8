"""Stored weights become a model: bit by bit, with a new head if there is none, and never half of a body."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModel, AutoModelForMaskedLM

from tests.support.base_models import start_from, store_model, stored_weights
from tests.support.preparation import make_plan, run, write_lines
from trainyard_api.errors import DataError
from trainyard_trainer.data.dataset import open_prepared
from trainyard_trainer.models.presets import PRESETS
from trainyard_trainer.models.pretrained import load_base_model


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    return store_model(tmp_path_factory.mktemp("stored") / "model")


@pytest.fixture
def model(stored, tmp_path):
    write_lines(tmp_path / "texts.jsonl")
    return shutil.copytree(stored, tmp_path / "model")


def prepared(tmp_path, model, **changes):
    plan = make_plan(tmp_path, **start_from(model, **changes))
    run(plan)
    return plan, open_prepared(Path(plan.paths.run_folder))


def load(plan, data):
    return load_base_model(plan, data, "MaskedLM")


@pytest.mark.parametrize("preset", ["bert-tiny", "modernbert-tiny", "llama-tiny", "gpt2-tiny"])
def test_the_weights_are_those_of_the_stored_model_bit_by_bit_and_random_state_is_left(preset, tmp_path):
    model = store_model(tmp_path / "model", preset)
    objective = PRESETS[preset].objective
    plan, data = prepared(tmp_path, model, pretraining={"objective": objective})
    before = torch.get_rng_state()
    loaded = load_base_model(plan, data, objective)
    assert torch.equal(torch.get_rng_state(), before)
    state = loaded.model.state_dict()
    weights = stored_weights(model)
    assert len(weights) > 15
    assert [name for name, tensor in weights.items() if not torch.equal(state[name], tensor)] == []
    assert (loaded.initialised, loaded.unused) == ((), ())
    assert loaded.model.get_output_embeddings().weight is loaded.model.get_input_embeddings().weight


def test_a_missing_head_is_drawn_from_the_seed_alone_and_told(model, tmp_path):
    body = AutoModel.from_pretrained(model, local_files_only=True)
    kept = {name: (model / name).read_bytes() for name in ("tokenizer.json", "tokenizer_config.json")}
    body.save_pretrained(model)
    assert all((model / name).read_bytes() == content for name, content in kept.items())

    heads = []
    for seed in (5, 5, 6):
        loaded = load(*prepared(tmp_path, model, training__seed=seed))
        heads.append(loaded.model.state_dict()["cls.predictions.transform.dense.weight"])
        assert "cls.predictions.transform.dense.weight" in loaded.initialised
        assert all(name.startswith("cls.") for name in loaded.initialised)
        assert loaded.unused == ("pooler.dense.bias", "pooler.dense.weight")
        assert loaded.record("f00").hash == "f00"
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])


def without_a_layer(model):
    weights = stored_weights(model)
    kept = {name: tensor for name, tensor in weights.items() if ".layer.1." not in name}
    save_file(kept, model / "model.safetensors", {"format": "pt"})


def with_config(model, **fields):
    path = model / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (without_a_layer, "lack bert.encoder.layer.1."),
        (lambda model: with_config(model, num_hidden_layers=1), "no place for bert.encoder.layer.1."),
        (lambda model: with_config(model, hidden_size=64), "do not fit its config.json"),
    ],
    ids=["too few layers", "too many layers", "another width"],
)
def test_weights_that_are_not_those_of_the_configuration_are_refused(spoil, told, model, tmp_path):
    spoil(model)
    plan, data = prepared(tmp_path, model)
    with pytest.raises(DataError) as raised:
        load(plan, data)
    assert raised.value.where == "spec.model.pretrained.uri"
    assert told in raised.value.problem


def test_files_that_changed_after_they_were_checked_are_refused(model, tmp_path):
    plan, data = prepared(tmp_path, model)
    file = model / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(DataError, match="changed since it was checked"):
        load(plan, data)
    file.unlink()
    with pytest.raises(DataError, match=r"model\.safetensors cannot be read"):
        load(plan, data)


def test_weights_in_several_files_are_read_by_their_index(model, tmp_path):
    network = AutoModelForMaskedLM.from_pretrained(model, local_files_only=True)
    weights = stored_weights(model)
    (model / "model.safetensors").unlink()
    network.save_pretrained(model, max_shard_size="300KB")
    assert len(list(model.glob("*.safetensors"))) > 1
    state = load(*prepared(tmp_path, model)).model.state_dict()
    assert [name for name, tensor in weights.items() if not torch.equal(state[name], tensor)] == []
