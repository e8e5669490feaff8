"""From a checkpoint to a folder that stock Transformers loads."""

import errno
import json
import shutil
from types import SimpleNamespace

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoTokenizer,
    PreTrainedTokenizerFast,
    pipeline,
)

from trainyard_api.errors import DataError, StorageFullError
from trainyard_api.plan import Rendezvous, plan_run
from trainyard_api.spec import TrainingRun
from trainyard_api.spec_model import Architecture
from trainyard_trainer import export as export_module
from trainyard_trainer.checkpoint import (
    CheckpointFile,
    CheckpointManifest,
    TrainState,
    checkpoint_name,
)
from trainyard_trainer.checkpoint_steps import MANIFEST
from trainyard_trainer.engine_state import WEIGHT
from trainyard_trainer.export import export
from trainyard_trainer.model_card import code_span
from trainyard_trainer.models.build import build_config, build_model
from trainyard_trainer.models.presets import PRESETS
from trainyard_trainer.progress import write_json_atomically
from trainyard_trainer.training_record import read_training_record, sha256_of

TINY = ("bert-tiny", "modernbert-tiny", "llama-tiny", "gpt2-tiny")
TEXT = "fellow citizens of the senate and house representatives it is with peculiar satisfaction"
NOW = 1_795_000_000.0


def make_tokenizer(folder):
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "<s>", "</s>"]
    vocabulary = {token: index for index, token in enumerate([*special, *dict.fromkeys(TEXT.split())])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))  # noqa: S106 - no password
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]", "bos": "<s>"}
    tokens = {f"{name}_token": token for name, token in {**names, "eos": "</s>"}.items()}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **tokens).save_pretrained(folder)
    return len(vocabulary)


class Manifest(SimpleNamespace):
    def model_dump(self, **_):
        return {"hash": self.hash, "unigramEntropy": self.unigram_entropy}


@pytest.fixture
def make_run(tmp_path, monkeypatch):
    """A run folder with a committed checkpoint of random weights, and its plan."""

    def make(preset, *, overrides=None, step=20):
        objective = PRESETS[preset].objective
        architecture = {"preset": preset, "overrides": overrides or {}}
        spec = {
            "pretraining": {"objective": objective},
            "model": {"architecture": architecture},
            "tokenizer": {"train": {"algorithm": "WordPiece", "vocabularySize": 300}},
            "data": {
                "sources": [{"name": "speeches", "uri": "file:///a|b`c.txt", "format": "Text"}],
                "sequenceLength": 64,
            },
            "training": {
                "budget": {"steps": step},
                "globalBatchSize": 8,
                "microBatchSize": 8,
                "optimizer": {"learningRate": 1e-3},
            },
        }
        run = TrainingRun.model_validate({"metadata": {"name": "speeches"}, "spec": spec})
        plan = plan_run(run, storage_root=str(tmp_path), rendezvous=Rendezvous(address="127.0.0.1"))
        tokenizer_folder = tmp_path / "tokenizer"
        num_entries = make_tokenizer(tokenizer_folder)
        manifest = Manifest(
            hash="d" * 64,
            base_model=None,
            teacher=None,
            unigram_entropy=6.4,
            frequency_loss=6.0,
            tokenizer=SimpleNamespace(
                vocabulary_size=num_entries, pad_token_id=0, prefix_token_id=2, suffix_token_id=3
            ),
        )
        prepared = SimpleNamespace(manifest=manifest, tokenizer_folder=tokenizer_folder)
        monkeypatch.setattr(export_module, "open_workload", lambda _plan: SimpleNamespace(data=prepared))
        config = build_config(
            Architecture(**architecture), vocabulary_size=num_entries, pad_token_id=0, objective=objective
        )
        model = build_model(config, objective, seed=step)
        write_checkpoint(tmp_path / "speeches" / "checkpoints", model, step)
        return SimpleNamespace(plan=plan, model=model, folder=tmp_path / "speeches")

    return make


def write_checkpoint(folder, model, step):
    path = folder / checkpoint_name(step)
    path.mkdir(parents=True)
    weights = {name: parameter.detach() for name, parameter in model.named_parameters()}
    file = path / "rank-00000.safetensors"
    save_file({f"{WEIGHT}|{name}|0": weight.flatten() for name, weight in weights.items()}, file)
    manifest = CheckpointManifest(
        format_version=1,
        state=TrainState(step=step, tokens=4000, train_seconds=12.5, evaluation_loss=5.5),
        committed_at="2026-11-23T08:00:00Z",
        data_hash="d" * 64,
        optimizer="AdamW",
        world_size=1,
        zero_stage=1,
        group_steps=[step],
        loss_scale=None,
        parameters={name: list(weight.shape) for name, weight in weights.items()},
        files=[CheckpointFile(name=file.name, size_bytes=file.stat().st_size, sha256=sha256_of(file))],
    )
    write_json_atomically(path / MANIFEST, manifest)


@pytest.mark.parametrize("preset", TINY)
@pytest.mark.parametrize("tied", [True, False])
def test_stock_transformers_loads_every_weight_bit_by_bit(make_run, preset, tied):
    run = make_run(preset, overrides={"tie_word_embeddings": tied})
    status = export(run.plan, clock=lambda: NOW)
    auto_class = AutoModelForMaskedLM if PRESETS[preset].objective == "MaskedLM" else AutoModelForCausalLM
    loaded, info = auto_class.from_pretrained(
        run.folder / "model", local_files_only=True, output_loading_info=True
    )
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    expected, found = run.model.state_dict(), loaded.state_dict()
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    shared = loaded.get_output_embeddings().weight is loaded.get_input_embeddings().weight
    assert shared == tied
    assert status.parameters == sum(parameter.numel() for parameter in run.model.parameters())
    assert (status.uri, status.evaluation_loss) == ((run.folder / "model").as_uri(), 5.5)


def test_tied_weights_are_stored_once(make_run):
    run = make_run("gpt2-tiny")
    export(run.plan)
    stored = load_file(run.folder / "model" / "model.safetensors")
    assert sum(tensor.numel() for tensor in stored.values()) == run.model.num_parameters()
    assert "lm_head.weight" not in stored


def test_the_folder_holds_what_the_hub_expects_and_no_pickle(make_run):
    run = make_run("llama-tiny")
    export(run.plan)
    folder = run.folder / "model"
    names = {path.name for path in folder.iterdir()}
    assert names >= {
        "README.md",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "training_record.json",
    }
    assert not any(name.endswith((".bin", ".pt", ".pkl", ".tmp")) for name in names)
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["tie_word_embeddings"] is True
    assert (config["vocab_size"], config["bos_token_id"], config["eos_token_id"]) == (64, 5, 6)
    generation = json.loads((folder / "generation_config.json").read_text())
    assert (generation["bos_token_id"], generation["eos_token_id"], generation["pad_token_id"]) == (5, 6, 0)
    assert len(AutoTokenizer.from_pretrained(folder, local_files_only=True)) <= config["vocab_size"]


def test_the_exported_models_work_in_a_stock_pipeline(make_run):
    run = make_run("bert-tiny")
    export(run.plan)
    fill = pipeline("fill-mask", model=str(run.folder / "model"), device="cpu")
    assert len(fill("fellow [MASK] of the senate", top_k=3)) == 3


def test_the_record_tells_how_the_model_came_about(make_run):
    run = make_run("bert-tiny")
    export(run.plan, clock=lambda: NOW)
    folder = run.folder / "model"
    record = read_training_record(folder)
    assert (record.steps, record.tokens, record.seed, record.training_seconds) == (20, 4000, 0, 12.5)
    assert record.perplexity == pytest.approx(244.69, abs=0.01)
    assert record.data_hash == "d" * 64
    assert record.spec == run.plan.spec
    assert record.versions.keys() >= {"python", "torch", "transformers"}
    assert record.created_at == "2026-11-18T11:06:40Z"
    assert set(record.files) == {path.name for path in folder.iterdir()} - {"training_record.json"}
    assert record.files["model.safetensors"].sha256 == sha256_of(folder / "model.safetensors")


def test_the_card_is_honest_and_has_valid_front_matter(make_run):
    run = make_run("bert-tiny")
    export(run.plan)
    card = (run.folder / "model" / "README.md").read_text()
    _, front_matter, text = card.split("---\n", 2)
    assert yaml.safe_load(front_matter) == {
        "library_name": "transformers",
        "pipeline_tag": "fill-mask",
        "tags": ["trainyard", "pretraining", "masked-lm"],
    }
    assert "5.5000 nats" in text
    assert "0.50 nats below" in text
    assert "`file:///a\\|b'c.txt`" in text
    assert "Bias was not measured" in text


@pytest.mark.parametrize(
    ("text", "span"), [("a`b", "`a'b`"), ("a\n# b", "`a # b`"), ("", "` `"), ("a|b", "`a\\|b`")]
)
def test_user_text_cannot_leave_its_code_span(text, span):
    assert code_span(text) == span


def test_a_second_export_of_the_same_inputs_reuses_the_folder(make_run):
    run = make_run("bert-tiny")
    first = export(run.plan, clock=lambda: NOW)
    written = (run.folder / "model" / "training_record.json").stat().st_mtime_ns
    assert export(run.plan, clock=lambda: NOW + 60) == first
    assert (run.folder / "model" / "training_record.json").stat().st_mtime_ns == written


def test_a_damaged_or_older_folder_is_written_anew(make_run):
    run = make_run("bert-tiny")
    export(run.plan)
    weights = run.folder / "model" / "model.safetensors"
    intact = sha256_of(weights)
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    export(run.plan)
    assert sha256_of(weights) == intact
    write_checkpoint(run.folder / "checkpoints", run.model, 40)
    export(run.plan)
    assert read_training_record(run.folder / "model").steps == 40


def test_without_a_checkpoint_there_is_nothing_to_export(make_run):
    run = make_run("bert-tiny")
    shutil.rmtree(run.folder / "checkpoints")
    with pytest.raises(DataError, match="no committed checkpoint"):
        export(run.plan)


def test_a_damaged_checkpoint_is_not_exported(make_run):
    run = make_run("bert-tiny")
    (file,) = (run.folder / "checkpoints").glob("*/*.safetensors")
    file.write_bytes(file.read_bytes()[:-1] + b"\1")
    with pytest.raises(DataError, match="does not match its hash"):
        export(run.plan)
    assert not (run.folder / "model").exists()


def test_a_checkpoint_of_another_architecture_is_refused(make_run):
    run = make_run("bert-tiny")
    shutil.rmtree(run.folder / "checkpoints")
    config = build_config(
        Architecture(preset="bert-mini"), vocabulary_size=30, pad_token_id=0, objective="MaskedLM"
    )
    write_checkpoint(run.folder / "checkpoints", build_model(config, "MaskedLM", seed=0), 20)
    with pytest.raises(DataError, match="another architecture"):
        export(run.plan)
    assert [path.name for path in run.folder.iterdir()] == ["checkpoints"]


def test_a_full_disk_keeps_the_model_before_it(make_run, monkeypatch):
    run = make_run("bert-tiny")
    export(run.plan)
    write_checkpoint(run.folder / "checkpoints", run.model, 40)

    def full(*_args, **_keywords):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(export_module, "write_text_atomically", full)
    with pytest.raises(StorageFullError, match="no space is left"):
        export(run.plan)
    assert read_training_record(run.folder / "model").steps == 20
    assert {path.name for path in run.folder.iterdir()} == {"checkpoints", "model"}
