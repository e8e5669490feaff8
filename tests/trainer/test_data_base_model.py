"""A stored model is checked before any text is read: what is refused, what is kept, what is fetched."""

import json
import re
import shutil

import fsspec
import httpx2
import huggingface_hub
import pytest
from huggingface_hub.errors import (
    BadRequestError,
    DryRunError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionResolutionError,
)
from safetensors.torch import load_file, save_file

from tests.support.base_models import start_from, store_model
from tests.support.preparation import make_plan, run, write_lines
from trainyard_api.errors import ConfigurationError, DataError, TransientError
from trainyard_trainer.data import base_config, fetch_model, locations
from trainyard_trainer.data.base_config import weight_names
from trainyard_trainer.data.existing_tokenizer import parse_tokenizer, vocabulary_hash
from trainyard_trainer.models import families

FIELD = "spec.model.pretrained.uri"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return store_model(tmp_path_factory.mktemp("bert") / "model")


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return store_model(tmp_path_factory.mktemp("llama") / "model", "llama-tiny")


@pytest.fixture
def model(bert, tmp_path):
    """A copy of the stored model that a test may spoil, beside the texts of a run."""
    write_lines(tmp_path / "texts.jsonl")
    return shutil.copytree(bert, tmp_path / "model")


def refusal(tmp_path, model, error_type=DataError, **changes):
    with pytest.raises(error_type) as raised:
        run(make_plan(tmp_path, **start_from(model, **changes)))
    assert not list((tmp_path / "out" / "prepared").glob("extract-*"))
    return raised.value


def edit_config(model, **fields):
    path = model / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def only_pickle(model):
    (model / "model.safetensors").rename(model / "pytorch_model.bin")


def sharded(model, *shards):
    (model / "model.safetensors").rename(model / "model-1.safetensors")
    weight_map = {f"weight{number}": shard for number, shard in enumerate(shards)}
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def recorded(model):
    (model / "training_record.json").write_text(
        json.dumps({"files": {"model.safetensors": {"sha256": "0" * 64}}})
    )


SPOILED = {
    "weights that are not those of its record": (
        recorded,
        ["model.safetensors is not what training_record.json beside it describes", "Export the model again"],
    ),
    "code of its own": (
        lambda model: edit_config(model, auto_map={"AutoModel": "evil.Model"}),
        ["auto_map", "Python code", "another model"],
    ),
    "quantized weights": (
        lambda model: edit_config(model, quantization_config={"bits": 4}),
        ["quantization_config"],
    ),
    "an unknown architecture": (
        lambda model: edit_config(model, model_type="t5"),
        ["'t5'", "bert, modernbert, llama, gpt2"],
    ),
    "no architecture": (lambda model: edit_config(model, model_type=None), ["model_type None"]),
    "an encoder as decoder": (lambda model: edit_config(model, is_decoder=True), ["is_decoder"]),
    "a vocabulary that is no number": (lambda model: edit_config(model, vocab_size="many"), ["vocab_size"]),
    "a configuration that is not JSON": (
        lambda model: (model / "config.json").write_text("{"),
        ["config.json is not JSON"],
    ),
    "a configuration too deep to read": (
        lambda model: (model / "config.json").write_text("[" * 100_000),
        ["config.json is not JSON"],
    ),
    "no configuration": (lambda model: (model / "config.json").unlink(), ["no config.json", "--mount"]),
    "only a pickle": (only_pickle, ["pytorch_model.bin", "pickle", "save_pretrained"]),
    "no weights": (lambda model: (model / "model.safetensors").unlink(), ["no model.safetensors"]),
    "an index that climbs out": (
        lambda model: sharded(model, "../../secret.safetensors"),
        ["'../../secret.safetensors'", "Do not use this model"],
    ),
    "an index with an absolute path": (
        lambda model: sharded(model, "/etc/secret.safetensors"),
        ["'/etc/secret.safetensors'"],
    ),
    "an index that names a pickle": (lambda model: sharded(model, "model-1.bin"), ["'model-1.bin'"]),
    "an index that names no text": (lambda model: sharded(model, 7), ["'7'"]),
    "an index without a map": (
        lambda model: (sharded(model), (model / "model.safetensors.index.json").write_text("{}")),
        ["no weight_map"],
    ),
    "a missing shard": (
        lambda model: sharded(model, "model-1.safetensors", "model-2.safetensors"),
        ["model-2.safetensors are missing"],
    ),
    "weights that are cut off": (
        lambda model: (model / "model.safetensors").write_bytes(
            (model / "model.safetensors").read_bytes()[:5000]
        ),
        ["model.safetensors cannot be read"],
    ),
}


@pytest.mark.parametrize("kind", SPOILED)
def test_a_model_is_refused_before_any_text_is_read_for(kind, model, tmp_path):
    spoil, told = SPOILED[kind]
    spoil(model)
    error = refusal(tmp_path, model)
    assert error.where == FIELD
    assert error.remedy
    for part in told:
        assert part in str(error)


def test_a_missing_folder_is_refused(model, tmp_path):
    error = refusal(tmp_path, tmp_path / "nowhere")
    assert (error.where, "nowhere holds no model" in error.problem) == (FIELD, True)


def test_an_encoder_is_refused_for_a_causal_objective_with_what_to_write_instead(model, tmp_path):
    error = refusal(tmp_path, model, ConfigurationError, pretraining={"objective": "CausalLM"})
    assert error.where == "spec.pretraining.objective"
    assert "bert and serves MaskedLM, not CausalLM" in error.problem
    assert error.remedy == "Set it to MaskedLM, or use a model of type llama or gpt2"


def test_a_decoder_is_refused_for_a_masked_objective(llama, tmp_path):
    write_lines(tmp_path / "texts.jsonl")
    error = refusal(tmp_path, llama, ConfigurationError)
    assert error.remedy == "Set it to CausalLM, or use a model of type bert or modernbert"


def test_rows_longer_than_the_models_positions_are_refused(model, tmp_path):
    error = refusal(tmp_path, model, ConfigurationError, data__sequenceLength=513)
    assert error.where == "spec.data.sequenceLength"
    assert "513 exceeds the 512 positions" in error.problem
    assert error.remedy == "Set it to at most 512"


def train_tokenizer(tmp_path, vocabulary_size):
    """Folder of another tokenizer, trained on the same texts."""
    training = {"train": {"algorithm": "WordPiece", "vocabularySize": vocabulary_size}}
    manifest = run(make_plan(tmp_path, output="other", tokenizer=training))
    return tmp_path / "other" / "prepared" / manifest.tokenizer.folder


def tokenizer_refusal(tmp_path, model, error_type=DataError, **changes):
    with pytest.raises(error_type) as raised:
        run(make_plan(tmp_path, **start_from(model, **changes)))
    return raised.value


def test_another_vocabulary_is_refused_and_both_are_named(model, tmp_path):
    other = train_tokenizer(tmp_path, 256)
    error = tokenizer_refusal(tmp_path, model, tokenizer={"uri": other.as_uri()})
    hashes = [
        vocabulary_hash(parse_tokenizer((folder / "tokenizer.json").read_bytes(), ""))
        for folder in (other, model)
    ]
    assert error.where == "spec.tokenizer.uri"
    assert hashes[0] != hashes[1]
    for part in (other.as_uri(), model.as_uri(), "256 entries", hashes[0][:12], hashes[1][:12]):
        assert part in error.problem
    assert error.remedy == "Remove spec.tokenizer to use the model's own"


def test_a_tokenizer_with_the_same_vocabulary_is_accepted_from_elsewhere(model, tmp_path):
    copied = tmp_path / "tokenizer"
    copied.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(model / name, copied / name)
    own = run(make_plan(tmp_path, **start_from(model)))
    given = run(make_plan(tmp_path, **start_from(model, tokenizer={"uri": copied.as_uri()})))
    assert given.tokenizer == own.tokenizer


def test_a_tokenizer_with_more_entries_than_the_model_has_rows_is_refused(model, tmp_path):
    edit_config(model, vocab_size=64)
    error = tokenizer_refusal(tmp_path, model)
    assert error.where == FIELD
    assert re.search(r"the tokenizer has 2\d\d entries", error.problem)
    assert error.problem.endswith(" 64 rows")


def test_a_model_without_a_tokenizer_needs_one_of_the_spec(model, tmp_path):
    other = shutil.copytree(model, tmp_path / "complete")
    (model / "tokenizer.json").unlink()
    error = tokenizer_refusal(tmp_path, model)
    assert (error.where, "no tokenizer.json" in error.problem) == (FIELD, True)
    assert "spec.tokenizer.uri" in error.remedy
    run(make_plan(tmp_path, **start_from(model, tokenizer={"uri": other.as_uri()})))


def test_a_new_tokenizer_is_refused_for_old_weights(model, tmp_path):
    training = {"train": {"algorithm": "WordPiece", "vocabularySize": 300}}
    error = tokenizer_refusal(tmp_path, model, ConfigurationError, tokenizer=training)
    assert error.where == "spec.tokenizer.train"
    assert "Remove spec.tokenizer" in error.remedy


def test_special_tokens_that_only_their_map_names_are_found(model, tmp_path):
    config = json.loads((model / "tokenizer_config.json").read_text())
    special = {name: config.pop(name) for name in ("cls_token", "sep_token")}
    (model / "tokenizer_config.json").write_text(json.dumps(config))
    (model / "special_tokens_map.json").write_text(json.dumps({**special, "mask_token": "[PAD]"}))
    manifest = run(make_plan(tmp_path, **start_from(model)))
    named = json.loads(
        (tmp_path / "out" / "prepared" / manifest.tokenizer.folder / "tokenizer_config.json").read_text()
    )
    assert (named["cls_token"], named["sep_token"], named["mask_token"]) == ("[CLS]", "[SEP]", "[MASK]")


def test_the_manifest_tells_the_model_and_its_hash_follows_weights_and_configuration(model, tmp_path):
    plan = make_plan(tmp_path, **start_from(model))
    first = run(plan)
    base = first.base_model
    assert (base.uri, base.run, base.model_type) == (model.as_uri(), None, "bert")
    assert (base.vocabulary_size, base.maximum_positions) == (320, 512)
    assert [file.name for file in base.files] == ["config.json", "model.safetensors"]
    assert run(plan).hash == first.hash

    weights = load_file(model / "model.safetensors")
    name = min(weights)
    save_file({**weights, name: weights[name] + 1.0}, model / "model.safetensors", {"format": "pt"})
    second = run(plan)
    assert second.base_model.hash != base.hash
    assert second.hash != first.hash
    assert second.tokenizer == first.tokenizer
    assert [step.key for step in second.steps] == [step.key for step in first.steps]


def test_what_depends_on_the_tokenizer_is_prepared_anew_when_that_of_the_model_changes(model, tmp_path):
    plan = make_plan(tmp_path, **start_from(model))
    first = {step.name: step for step in run(plan).steps}
    content = json.loads((model / "tokenizer.json").read_text())
    content["normalizer"] = {"type": "Lowercase"}
    (model / "tokenizer.json").write_text(json.dumps(content))
    second = {step.name: step for step in run(plan).steps}
    changed = [name for name, step in second.items() if step.key != first[name].key]
    assert changed == ["tokenizer", "tokenize", "pack"]


def test_the_tables_of_families_agree():
    for family in (families.BERT, families.MODERNBERT, families.LLAMA, families.GPT2):
        found = base_config.FAMILIES[family.model_type]
        assert found.objective == family.objective
        assert found.positions == family.named("max_position_embeddings")
    assert len(base_config.FAMILIES) == 4


@pytest.mark.parametrize(
    ("names", "shards", "expected"),
    [
        (["model.safetensors", "pytorch_model.bin"], None, ("model.safetensors",)),
        (["model.safetensors", "a.safetensors"], ["a.safetensors"], ("model.safetensors",)),
        (
            ["b.safetensors", "a.safetensors"],
            ["b.safetensors", "a.safetensors", "b.safetensors"],
            ("model.safetensors.index.json", "a.safetensors", "b.safetensors"),
        ),
    ],
)
def test_the_files_with_weights_are_those_that_transformers_reads(names, shards, expected):
    weight_map = {f"weight{number}": shard for number, shard in enumerate(shards or [])}
    index = json.dumps({"weight_map": weight_map}).encode() if shards else None
    assert weight_names(names, index, FIELD) == expected


@pytest.fixture
def remote(model, monkeypatch):
    """The same model in a store that is no file system of this machine."""
    monkeypatch.setattr(locations, "PROTOCOLS", ("memory", *locations.PROTOCOLS))
    store = fsspec.filesystem("memory")
    store.put(str(model), "/models/bert", recursive=True)
    for name in ("evil.py", "pytorch_model.bin", "optimizer.safetensors"):
        store.pipe(f"/models/bert/{name}", b"not read")
    yield "memory://models/bert"
    store.rm("/models", recursive=True)


def fetched_folder(tmp_path, manifest):
    return tmp_path / "out" / "prepared" / manifest.base_model.folder


WANTED = ["config.json", "manifest.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]


def test_a_model_of_another_store_is_fetched_once_and_only_what_is_read(remote, model, tmp_path):
    plan = make_plan(tmp_path, **start_from(remote))
    manifest = run(plan)
    folder = fetched_folder(tmp_path, manifest)
    assert sorted(path.name for path in folder.iterdir()) == WANTED
    assert (folder / "model.safetensors").read_bytes() == (model / "model.safetensors").read_bytes()
    written = (folder / "model.safetensors").stat().st_mtime_ns
    assert run(plan).hash == manifest.hash
    assert (folder / "model.safetensors").stat().st_mtime_ns == written
    assert manifest.base_model.hash == run(make_plan(tmp_path, **start_from(model))).base_model.hash


@pytest.mark.usefixtures("remote")
def test_a_store_without_such_a_folder_is_told(tmp_path):
    error = refusal(tmp_path, "memory://models/nothing")
    assert (error.where, "is not there" in error.problem) == (FIELD, True)


@pytest.mark.parametrize(
    ("limit", "told"),
    [("MAXIMUM_JSON_BYTES", "tokenizer.json has"), ("MAXIMUM_MODEL_BYTES", "its weights have")],
)
def test_a_model_too_large_to_be_what_it_claims_is_not_fetched(limit, told, remote, tmp_path, monkeypatch):
    monkeypatch.setattr(fetch_model, limit, 2000)
    error = refusal(tmp_path, remote)
    assert told in error.problem
    assert not list((tmp_path / "out" / "prepared").glob("base-model-*"))
    assert not list((tmp_path / "out" / "prepared").glob(".temporary-*"))


class Hub:
    """Answers as the hub's client does, from a local folder, and keeps what it was asked for."""

    def __init__(self, folder):
        self.folder = folder
        self.asked = []
        self.failure = None

    def snapshot_download(self, repository, *, revision, allow_patterns, local_dir=None, dry_run=False):
        if self.failure is not None:
            raise self.failure
        self.asked.append((repository, revision, tuple(allow_patterns), dry_run))
        files = [path for path in self.folder.iterdir() if path.name in allow_patterns or dry_run]
        if dry_run:
            listed = [
                huggingface_hub.DryRunFileInfo(
                    commit_hash=revision,
                    file_size=path.stat().st_size,
                    filename=path.name,
                    local_path="",
                    is_cached=False,
                    will_download=True,
                )
                for path in files
            ]
            return [*listed, *(self.nested(info) for info in listed[:1])]
        (local_dir / ".cache").mkdir(parents=True, exist_ok=True)
        for path in files:
            shutil.copyfile(path, local_dir / path.name)
        return str(local_dir)

    @staticmethod
    def nested(info):
        return type(info)(**{**vars(info), "filename": f"onnx/{info.filename}"})


@pytest.fixture
def hub(model, monkeypatch):
    (model / "pytorch_model.bin").write_bytes(b"not read")
    found = Hub(model)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", found.snapshot_download)
    return found


def hub_plan(tmp_path):
    return make_plan(tmp_path, **start_from(f"hf://org/name@{COMMIT}"))


def test_a_model_of_the_hub_is_fetched_at_its_commit_and_only_what_is_read(hub, tmp_path):
    plan = hub_plan(tmp_path)
    manifest = run(plan)
    folder = fetched_folder(tmp_path, manifest)
    assert sorted(path.name for path in folder.iterdir()) == WANTED
    assert {(repository, revision) for repository, revision, _, _ in hub.asked} == {("org/name", COMMIT)}
    assert [names for _, _, names, dry_run in hub.asked if not dry_run] == [
        ("config.json", "tokenizer.json", "tokenizer_config.json"),
        ("model.safetensors",),
    ]
    assert run(plan).hash == manifest.hash
    assert len(hub.asked) == 4, "the second run lists the files again and fetches none"


def test_a_model_of_the_hub_with_code_is_refused_before_its_weights_are_fetched(hub, model, tmp_path):
    edit_config(model, auto_map={"AutoModel": "evil.Model"})
    with pytest.raises(DataError, match="auto_map"):
        run(hub_plan(tmp_path))
    assert all("model.safetensors" not in names for _, _, names, _ in hub.asked)


def error_from(error, cause):
    error.__cause__ = cause
    return error


def answer(error_class, status):
    """An error of the hub's client for the status of an answer."""
    return error_class(
        str(status), response=httpx2.Response(status, request=httpx2.Request("GET", "http://h"))
    )


HUB_FAILURES = {
    "no connection": (
        error_from(LocalEntryNotFoundError("x"), httpx2.ConnectError("refused")),
        TransientError,
        "cannot be reached",
    ),
    "no revision": (RevisionResolutionError("the Hub could not be reached"), TransientError, "be reached"),
    "500": (answer(HfHubHTTPError, 500), TransientError, "cannot be reached"),
    "429": (error_from(DryRunError("x"), answer(HfHubHTTPError, 429)), TransientError, "cannot be reached"),
    "half a file": (OSError("Consistency check failed"), TransientError, "cannot be reached"),
    "400": (error_from(DryRunError("x"), answer(BadRequestError, 400)), DataError, "no request"),
    "401": (answer(HfHubHTTPError, 401), DataError, "may not be read"),
    "403": (
        error_from(LocalEntryNotFoundError("x"), answer(HfHubHTTPError, 403)),
        DataError,
        "may not be read",
    ),
    "404": (answer(RepositoryNotFoundError, 404), DataError, "shows no org/name"),
}


@pytest.mark.parametrize("name", HUB_FAILURES)
def test_only_a_hub_that_cannot_be_reached_is_worth_a_retry(name, hub, tmp_path):
    hub.failure, kind, told = HUB_FAILURES[name]
    with pytest.raises(kind, match=told) as raised:
        run(hub_plan(tmp_path))
    assert raised.value.where == FIELD
