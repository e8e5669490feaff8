"""The commands that read a run folder, on folders as runs leave them and on what is none."""

import json

import pytest
import yaml

from tests.support.commands import command_caller
from tests.support.runs import document
from trainyard_api.errors import DataError
from trainyard_api.names import ExitCode
from trainyard_api.status import Attempt, Failure, Progress, TrainingRunStatus
from trainyard_trainer import cli_inspect
from trainyard_trainer.cli_inspect import check_run_folder, log_files
from trainyard_trainer.progress import write_json_atomically

TIME = "2026-11-25T01:13:17Z"


@pytest.fixture
def call(monkeypatch, capsys):
    return command_caller(monkeypatch, capsys)


@pytest.fixture
def folder(tmp_path):
    """A run folder whose second attempt trains."""
    path = tmp_path / "runs" / "test"
    path.mkdir(parents=True)
    (path / "run.yaml").write_text(yaml.safe_dump(document(tmp_path / "texts.jsonl")))
    failure = Failure(rank=1, exit_code=137, reason="ProcessKilled", message="Killed by SIGKILL")
    status = TrainingRunStatus(
        phase="Running",
        attempt=1,
        progress=Progress(stage="Train", step=7, tokens=4200, loss=2.5, updated_at=TIME),
        attempts=[
            Attempt(number=0, started_at=TIME, finished_at=TIME, outcome="Failed", failure=failure),
            Attempt(number=1, started_at=TIME),
        ],
    )
    write_json_atomically(path / "status.json", status)
    for attempt in (0, 1, 10):
        logs = path / "logs" / f"attempt-{attempt}"
        logs.mkdir(parents=True)
        for name in ("rank-0", "rank-1", "train-node-0"):
            (logs / f"{name}.log").write_text(f"{name} of {attempt}\n")
    (path / "logs" / "attempt-old").mkdir()
    return path


@pytest.mark.parametrize("verb", ["status", "logs", "report"])
@pytest.mark.parametrize("kind", ["missing", "empty", "file"])
def test_what_is_no_run_folder_is_refused_and_left_as_it_is(verb, kind, call, tmp_path):
    path = tmp_path / "there"
    if kind == "empty":
        path.mkdir()
    elif kind == "file":
        path.write_text("text")
    code, out, err = call(verb, path)
    assert (code, out) == (ExitCode.INVALID_DATA, "")
    assert err == f"{path}: this is no run folder. Name a folder that trainyard run made\n"
    assert not (path / "report.html").exists()


def test_the_status_tells_the_figures_and_every_attempt_with_its_failure(call, folder):
    code, out, _ = call("status", folder)
    assert code == 0
    assert out.splitlines() == [
        f"Running: {folder}",
        "steps 7, tokens 4,200",
        f"attempt 0 Failed since {TIME}: ProcessKilled Killed by SIGKILL",
        f"attempt 1 Running since {TIME}",
    ]


def test_the_status_as_json_has_the_shape_of_the_resource(call, folder):
    code, out, _ = call("status", folder, "--json")
    status = json.loads(out)
    assert code == 0
    assert status["attempts"][0]["failure"]["exitCode"] == 137
    assert status == json.loads((folder / "status.json").read_text())


def test_a_run_that_has_not_started_has_no_status(call, folder):
    (folder / "status.json").unlink()
    code, _, err = call("status", folder)
    assert code == ExitCode.INVALID_DATA
    assert "the run has not started. Start it with trainyard run" in err


def test_a_damaged_status_is_named_without_a_traceback(call, folder):
    (folder / "status.json").write_text('{"phase": ')
    code, _, err = call("status", folder)
    assert code == ExitCode.INVALID_DATA
    assert err.startswith(f"{folder}/status.json: this is no status of a run.")
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("options", "lines"),
    [
        (
            [],
            ["rank-0: rank-0 of 10", "rank-1: rank-1 of 10", "train-node-0: train-node-0 of 10"],
        ),
        (["--rank", "1"], ["rank-1 of 10"]),
        (["--rank", "0", "--attempt", "1"], ["rank-0 of 1"]),
    ],
    ids=["all of the newest attempt", "one rank", "one rank of an attempt"],
)
def test_logs_are_those_of_the_newest_attempt_unless_asked_otherwise(options, lines, call, folder):
    code, out, _ = call("logs", folder, *options)
    assert (code, out.splitlines()) == (0, lines)


@pytest.mark.parametrize("options", [["--rank", "7"], ["--attempt", "5"]])
def test_a_log_that_is_not_there_is_an_error(options, call, folder):
    code, out, err = call("logs", folder, *options)
    assert (code, out) == (ExitCode.INVALID_DATA, "")
    assert "there is no such log. Leave out --rank or --attempt" in err


def test_a_run_without_logs_says_so(tmp_path):
    with pytest.raises(DataError, match="there is no such log"):
        log_files(tmp_path, None, None)


def test_following_prints_whole_lines_and_new_files_until_ctrl_c(call, folder, monkeypatch):
    logs = folder / "logs" / "attempt-10"

    def write_half():
        with (logs / "rank-0.log").open("a") as log:
            log.write("ha")

    def write_the_rest():
        with (logs / "rank-0.log").open("a") as log:
            log.write("lf\n")
        (logs / "rank-2.log").write_text("late\n")

    def leave():
        raise KeyboardInterrupt

    happens = iter([write_half, write_the_rest, leave])
    monkeypatch.setattr(cli_inspect.time, "sleep", lambda seconds: next(happens)())
    code, out, _ = call("logs", folder, "--follow")
    assert code == 0
    assert out.splitlines()[3:] == ["rank-0: half", "rank-2: late"]


def test_a_log_that_is_no_text_is_printed_as_far_as_it_is(call, folder):
    (folder / "logs" / "attempt-10" / "rank-0.log").write_bytes(b"caf\xe9\nend")
    code, out, _ = call("logs", folder, "--rank", "0")
    assert (code, out) == (0, "caf\ufffd\nend\n")


def test_the_report_is_written_again_and_its_path_printed(call, folder):
    code, out, _ = call("report", folder)
    assert (code, out) == (0, f"{folder}/report.html\n")
    assert "Killed by SIGKILL" in (folder / "report.html").read_text()


def test_a_run_folder_is_known_by_its_run(folder):
    assert check_run_folder(folder) == folder
