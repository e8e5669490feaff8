"""Whose a run folder is, and that one runner works in it."""

import os
import subprocess
import sys

import pytest
import yaml

from tests.support.runs import document, run_of
from trainyard_api.errors import (
    ConfigurationError,
    DataError,
    RunFolderConflictError,
    UnavailableError,
)
from trainyard_api.problems import InvalidRunError
from trainyard_api.status import TrainingRunStatus
from trainyard_trainer.run_folder import RunFolder, read_status

HOLD = """
import sys
from pathlib import Path
from trainyard_trainer.run_folder import RunFolder
with RunFolder(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def source(tmp_path):
    return tmp_path / "texts.jsonl"


def names(folder):
    return sorted(entry.name for entry in folder.iterdir())


def test_a_second_runner_is_refused_with_the_number_of_the_first(tmp_path):
    path = tmp_path / "run"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(UnavailableError, match=rf"another runner \(process {holder.pid}\) works"):
            RunFolder(path)
    finally:
        holder.kill()
        holder.communicate()
    with RunFolder(path) as folder:
        assert (folder.path / "run.lock").read_text() == f"{os.getpid()}\n"


def test_a_folder_is_free_again_when_its_runner_leaves_by_an_error(tmp_path):
    with pytest.raises(ZeroDivisionError), RunFolder(tmp_path / "run"):
        raise ZeroDivisionError
    with RunFolder(tmp_path / "run"):
        pass


def test_a_run_may_come_back_and_change_what_does_not_define_it(tmp_path, source):
    with RunFolder(tmp_path / "run") as folder:
        folder.claim(run_of(source))
        folder.claim(run_of(source, training__budget={"steps": 9}))
        stored = yaml.safe_load((folder.path / "run.yaml").read_text())
    assert stored["spec"]["training"]["budget"] == {"steps": 9}


def test_a_folder_of_another_spec_shows_every_difference_and_stays_as_it_was(tmp_path, source):
    with RunFolder(tmp_path / "run") as folder:
        folder.claim(run_of(source))
        before = (folder.path / "run.yaml").read_bytes()
        with pytest.raises(RunFolderConflictError) as caught:
            folder.claim(run_of(source, training__seed=4, data__sequenceLength=32))
        assert (folder.path / "run.yaml").read_bytes() == before
    assert "spec.data.sequenceLength: 64 -> 32; spec.training.seed: 3 -> 4" in caught.value.problem
    assert "metadata.name" in caught.value.remedy


def test_a_folder_of_something_else_is_refused_and_nothing_is_put_into_it(tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text("mine")
    with pytest.raises(RunFolderConflictError, match=r"not empty and holds no run, but index\.md"):
        RunFolder(tmp_path / "docs")
    assert names(tmp_path / "docs") == ["index.md"]


def test_a_runner_that_was_killed_before_it_claimed_the_folder_leaves_it_usable(tmp_path, source):
    path = tmp_path / "run"
    path.mkdir()
    (path / "run.lock").write_text("1\n")
    (path / ".run.yaml.1.tmp").write_text("half")
    with RunFolder(path) as folder:
        folder.claim(run_of(source))
    assert names(path) == ["run.lock", "run.yaml"]


def test_an_export_that_was_killed_leaves_the_folder_usable(tmp_path, source):
    with RunFolder(tmp_path / "run") as folder:
        folder.claim(run_of(source))
    half = tmp_path / "run" / ".model.tmp"
    half.mkdir()
    (half / "model.safetensors").write_bytes(b"half")
    with RunFolder(tmp_path / "run"):
        assert names(tmp_path / "run") == ["run.lock", "run.yaml"]


@pytest.mark.parametrize("blocked", ["file", "file/below"])
def test_an_output_that_can_be_no_folder_is_refused_by_its_option(blocked, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ConfigurationError, match=r"--output: .* cannot be made or written"):
        RunFolder(tmp_path / blocked)


def test_a_damaged_run_file_is_named(tmp_path, source):
    with RunFolder(tmp_path / "run") as folder:
        folder.claim(run_of(source))
        broken = document(source)
        del broken["spec"]["model"]
        (folder.path / "run.yaml").write_text(yaml.safe_dump(broken))
        with pytest.raises(InvalidRunError, match=r"run\.yaml"):
            folder.claim(run_of(source))


def test_a_status_survives_its_file_and_a_damaged_one_is_named(tmp_path):
    with RunFolder(tmp_path / "run") as folder:
        assert read_status(folder.path) is None
        assert folder.read_status() == TrainingRunStatus()
        folder.write_status(TrainingRunStatus(restarts=2))
        assert folder.read_status().restarts == 2
        (folder.path / "status.json").write_text("{")
        with pytest.raises(DataError, match=r"status\.json: this is no status of a run\. Remove the file"):
            folder.read_status()
