"""The commands as a person gives them: what they print and how they exit."""

import errno
import json
import re

import pytest
import yaml

from tests.support.commands import command_caller
from tests.support.runs import document
from trainyard_api.crd import custom_resource_definition_yaml
from trainyard_api.errors import ConfigurationError
from trainyard_api.names import ExitCode
from trainyard_trainer import cli
from trainyard_trainer.cli import parse_mounts
from trainyard_trainer.models.presets import PRESETS


@pytest.fixture
def call(monkeypatch, capsys):
    return command_caller(monkeypatch, capsys)


@pytest.fixture
def run_file(tmp_path):
    """Writes a run with changes; see `tests.support.runs.document`."""

    def write(**changes):
        file = tmp_path / "run.yaml"
        file.write_text(yaml.safe_dump(document(tmp_path / "texts.jsonl", **changes)))
        return file

    return write


def test_a_valid_file_is_said_to_be_valid(call, run_file):
    file = run_file()
    assert call("validate", file) == (0, f"{file}: TrainingRun test is valid\n", "")


INVALID = [
    (
        {"model__architecture": {"preset": "bert-tinny"}},
        ["spec.model.architecture.preset", "bert-tinny", "bert-tiny"],
    ),
    (
        {"data__sequenceLength": 1024},
        ["spec.data.sequenceLength", "512"],
    ),
    (
        {"training__globalBatchSize": 7},
        ["spec.training.globalBatchSize", "multiple of"],
    ),
    (
        {"training__globalBatchSize": 8, "workers": {"nodes": 3}},
        ["spec.training.globalBatchSize", "3 processes"],
    ),
    ({"data__sources": []}, ["spec.data.sources"]),
    ({"training__bugdet": {"steps": 1}}, ["spec.training.bugdet", "budget"]),
    (
        {"training__seed": "x", "data__sequenceLength": -1, "training__precision": "FP8"},
        ["spec.training.seed", "spec.data.sequenceLength", "spec.training.precision"],
    ),
    ({"training__precision": "FP16"}, ["spec.training.precision", "FP16", "BF16 or FP32"]),
]


@pytest.mark.parametrize(("changes", "told"), INVALID, ids=[told[0] + " " + told[-1] for _, told in INVALID])
def test_a_run_that_cannot_work_is_refused_with_every_field_before_anything_is_made(
    changes, told, call, run_file, tmp_path
):
    code, out, err = call("run", run_file(**changes), "--output", tmp_path / "out")
    assert (code, out) == (ExitCode.INVALID_CONFIGURATION, "")
    for part in told:
        assert part in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("verb", ["run", "validate", "plan"])
@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "cannot read the file (No such file or directory)"),
        ("folder", "cannot read the file (Is a directory)"),
        (b"kind: [TrainingRun\n", "run.yaml"),
        (b"\xff\xfe\x00\n", "is not UTF-8"),
        (b"just words\n", "the document is not an object"),
        (b"", "run.yaml"),
    ],
    ids=["missing", "a folder", "no YAML", "no text", "no mapping", "empty"],
)
def test_a_file_that_is_no_run_is_refused_by_name(verb, content, told, call, tmp_path):
    file = tmp_path / "run.yaml"
    if content == "folder":
        file.mkdir()
    elif content is not None:
        file.write_bytes(content)
    code, out, err = call(verb, file, *(["--output", tmp_path / "runs"] if verb == "run" else []))
    assert (code, out) == (ExitCode.INVALID_CONFIGURATION, "")
    assert str(file) in err
    assert told in err
    assert "Traceback" not in err
    assert not (tmp_path / "runs").exists()


def test_a_plan_tells_processes_arithmetic_and_memory_and_changes_nothing(call, run_file, tmp_path):
    file = run_file(workers={"nodes": 2}, training__microBatchSize=1)
    code, out, _ = call("plan", file, "--output", tmp_path / "out")
    assert code == 0
    assert f"run test, folder {tmp_path}/out/test" in out
    assert "batch 8 rows = 1 (micro) x 4 (accumulation) x 2 (processes)" in out
    assert "tokens per optimizer step at most 512" in out
    assert "PET_NODE_RANK=1" in out
    assert "parameters " in out
    assert re.search(r"memory per process about [\d,]+ MiB, ZeRO stage 1\n", out)
    assert list(tmp_path.iterdir()) == [file]


def test_a_plan_shows_the_zero_stage_that_runs_and_not_the_one_that_is_asked_for(call, run_file, tmp_path):
    _, out, _ = call("plan", run_file(), "--output", tmp_path / "out")
    assert "ZeRO stage 0" in out


def test_a_plan_that_starts_from_a_model_names_it(call, run_file, tmp_path):
    file = run_file(model={"fromRun": {"name": "first"}}, tokenizer=None)
    code, out, _ = call("plan", file, "--output", tmp_path / "out")
    assert code == 0
    assert f"starts from {tmp_path}/out/first/model, which decides parameters and memory" in out


def test_a_new_tokenizer_for_a_stored_model_is_refused(call, run_file):
    code, _, err = call("validate", run_file(model={"pretrained": {"uri": "file:///models/minilm"}}))
    assert code == ExitCode.INVALID_CONFIGURATION
    assert "spec.tokenizer.train: the model to start from has a vocabulary of its own" in err
    assert "Remove spec.tokenizer to use the model's own" in err


def test_a_plan_as_json_is_the_plan_that_processes_read(call, run_file, tmp_path):
    code, out, _ = call("plan", run_file(), "--json", "--mount", f"{tmp_path}:/data")
    planned = json.loads(out)
    assert code == 0
    assert [stage["stage"] for stage in planned["stages"]] == ["Prepare", "Train", "Export"]
    assert planned["mounts"] == {"/data": str(tmp_path)}


def test_the_crd_is_printed_as_it_is_generated(call):
    assert call("crd") == (0, custom_resource_definition_yaml(), "")


def test_every_preset_is_listed_in_a_line(call):
    code, out, _ = call("presets")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == list(PRESETS)
    assert {line.split()[1] for line in out.splitlines()} == {"MaskedLM", "CausalLM"}


@pytest.mark.parametrize(
    "arguments", [["rum"], ["run"], ["run", "x", "--outptu", "y"], ["run", "x", "--cores", "-1"]]
)
def test_a_wrong_command_line_is_refused_with_a_hint(arguments, call):
    code, _, err = call(*arguments)
    assert code == 2
    assert "Usage: " in err


@pytest.mark.parametrize(
    ("texts", "mounts"),
    [
        (None, {}),
        (["{}:/data"], {"/data": "{}"}),
        (["{}:/data/", "{}:/"], {"/data": "{}", "/": "{}"}),
        (["{}/a:b:/data"], {"/data": "{}/a:b"}),
    ],
)
def test_mounts_map_paths_of_the_run_to_folders_of_the_host(texts, mounts, tmp_path):
    (tmp_path / "a:b").mkdir()
    expected = {path: host.format(tmp_path) for path, host in mounts.items()}
    assert parse_mounts(texts and [text.format(tmp_path) for text in texts]) == expected


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("/data", "is not HOST:PATH"),
        (":/data", "is not HOST:PATH"),
        ("{}:data", "is not HOST:PATH with an absolute PATH"),
        ("{}/missing:/data", "there is no folder"),
        ("", "is not HOST:PATH"),
    ],
)
def test_a_mount_that_cannot_be_is_refused(text, problem, tmp_path):
    with pytest.raises(ConfigurationError, match=f"--mount: .*{problem}"):
        parse_mounts([text.format(tmp_path)])


def test_a_disk_that_is_full_anywhere_has_its_own_code(call, monkeypatch):
    def fail(**options):
        raise OSError(errno.ENOSPC, "No space left on device", "/runs/x/status.json")

    monkeypatch.setattr(cli, "app", fail)
    code, _, err = call()
    assert code == ExitCode.STORAGE_FULL
    assert err == "/runs/x/status.json: no space is left. Free space and run again\n"


def test_an_error_that_nobody_foresaw_is_not_hidden(call, monkeypatch):
    def fail(**options):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(cli, "app", fail)
    with pytest.raises(OSError, match="Input/output error"):
        call()


def test_an_output_in_the_way_of_a_file_is_refused(call, run_file, tmp_path):
    (tmp_path / "out").write_text("a file")
    code, _, err = call("run", run_file(), "--output", tmp_path / "out")
    assert code == ExitCode.INVALID_CONFIGURATION
    assert err.startswith("--output: ")


def test_a_suspended_run_is_not_started(call, run_file, tmp_path):
    code, out, _ = call("run", run_file(suspend=True), "--output", tmp_path / "out")
    assert code == 0
    assert "spec.suspend is true; the run stays suspended" in out
    status = json.loads((tmp_path / "out" / "test" / "status.json").read_text())
    assert status["phase"] == "Suspended"
    assert status.get("attempts", []) == []
