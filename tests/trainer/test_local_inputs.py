"""Bad input and early stops by the real command: exit code, field and remedy, and nothing half-written."""

import json
import os
import pty
import re
import select
import signal
import socket
import subprocess

import psutil
import pytest

from tests.support.local_runs import (
    COMMAND,
    DEADLINE_SECONDS,
    started,
    status_of,
    trainyard,
    wait_until,
    write_run,
)
from trainyard_api.names import ExitCode, Reason
from trainyard_trainer.progress import read_progress

pytestmark = pytest.mark.slow

GOOD_LINE = '{"text": "The state of the union is strong, and it has been so for many years."}\n'


def lines_with(*broken):
    return (GOOD_LINE * 20 + "".join(broken)).encode()


BAD_DATA = {
    "a missing source": (None, {}, ["spec.data.sources[0].uri", "texts.jsonl"]),
    "an empty source": (b"", {}, ["spec.data.sources[0]"]),
    "a text field that is not there": (
        lines_with(),
        {"textField": "body"},
        ["spec.data.sources[0].textField", "body", "text"],
    ),
    "broken JSON at a line": (lines_with("{broken\n" * 20), {}, ["spec.data.sources[0]", "line 21"]),
    "text that is not UTF-8": (
        lines_with() + b'{"text": "caf\xe9"}\n' * 20,
        {},
        ["spec.data.sources[0]", "line 21", "UTF-8"],
    ),
}


@pytest.mark.parametrize("kind", BAD_DATA)
def test_bad_data_fails_the_run_at_once_and_names_the_field(kind, tmp_path):
    content, source_changes, told = BAD_DATA[kind]
    source = tmp_path / "texts.jsonl"
    if content is not None:
        source.write_bytes(content)
    sources = [{"name": "texts", "uri": source.as_uri(), "format": "JsonLines", **source_changes}]
    file = write_run(tmp_path, source, "bad", data__sources=sources)
    done = trainyard("run", str(file), "--output", str(tmp_path / "out"))
    assert done.code == ExitCode.INVALID_DATA, done.output
    status = status_of(tmp_path / "out" / "bad")
    assert (status.phase, status.restarts, len(status.attempts)) == ("Failed", 0, 1)
    failure = status.attempts[0].failure
    assert (failure.reason, failure.exit_code) == (Reason.INVALID_DATA, ExitCode.INVALID_DATA)
    for part in told:
        assert part in failure.message
        assert part in done.output
    assert "Traceback" not in done.output
    assert not (tmp_path / "out" / "bad" / "data.json").exists()
    assert not list((tmp_path / "out" / "prepared").glob(".temporary-*"))


def test_a_metrics_port_in_use_is_refused_before_anything_is_started(tmp_path):
    source = tmp_path / "texts.jsonl"
    source.write_bytes(lines_with())
    file = write_run(tmp_path, source, "port")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        options = ("--output", str(tmp_path / "out"), "--metrics-port", str(port))
        done = trainyard("run", str(file), *options)
    assert done.code == ExitCode.UNAVAILABLE
    assert f"--metrics-port: port {port} " in done.output
    assert "Choose another, or 0 to let the system choose" in done.output
    assert not (tmp_path / "out" / "port" / "logs").exists()


def preparing(run):
    report = read_progress(run.folder)
    return report is not None and report.progress.stage == "Prepare" and bool(run.descendants())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_while_data_is_prepared_leaves_nothing_half_written(number, sotu_addresses, tmp_path):
    file = write_run(tmp_path, sotu_addresses, "early")
    with started(file, tmp_path / "out") as run:
        run.wait_for(lambda: preparing(run), "the preparation")
        family = run.descendants()
        run.signal(number)
        finished = run.wait()
    assert finished.code == ExitCode.PREEMPTED, finished.output
    status = status_of(run.folder)
    assert (status.phase, status.attempts[0].outcome) == ("Suspended", "Preempted")
    assert "Stopped on request; will resume from the start" in finished.output
    assert not any(process.is_running() for process in family)
    assert not list((tmp_path / "out" / "prepared").glob(".temporary-*"))
    assert not list(run.folder.glob(".*.tmp"))


def test_a_runner_that_is_killed_while_data_is_prepared_leaves_no_process(sotu_addresses, tmp_path):
    file = write_run(tmp_path, sotu_addresses, "gone")
    with started(file, tmp_path / "out") as run:
        run.wait_for(lambda: preparing(run), "the preparation")
        family = run.descendants()
        run.signal(signal.SIGKILL)
        run.process.wait()
        wait_until(lambda: not any(map(is_alive, family)), "the end of every process", 5.0)
    assert json.loads((run.folder / "status.json").read_text())["phase"] == "Running"


def is_alive(process):
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def read_terminal(descriptor, process):
    """Everything that a process writes to its terminal."""
    text = b""
    while True:
        ready, _, _ = select.select([descriptor], [], [], DEADLINE_SECONDS)
        assert ready, "the command wrote nothing and did not end"
        try:
            part = os.read(descriptor, 65_536)
        except OSError:  # Linux tells so that the other end is closed
            break
        if not part:
            break
        text += part
    assert process.wait(DEADLINE_SECONDS) is not None
    return text.decode()


def on_a_terminal(*arguments):
    """Run a command whose streams are a terminal; its exit code and everything it wrote."""
    terminal, other_end = pty.openpty()
    try:
        process = subprocess.Popen(
            [*COMMAND, *arguments],
            stdin=other_end,
            stdout=other_end,
            stderr=other_end,
            env={**os.environ, "TERM": "xterm-256color"},
        )
        os.close(other_end)
        text = read_terminal(terminal, process)
    finally:
        os.close(terminal)
    return process.returncode, text


def plain(text):
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


def test_on_a_terminal_the_panel_gives_way_to_the_error_and_the_cursor_comes_back(tmp_path):
    file = write_run(tmp_path, tmp_path / "missing.jsonl", "live")
    code, text = on_a_terminal("run", str(file), "--output", str(tmp_path / "out"))
    assert code == ExitCode.INVALID_DATA
    assert "Prepare started (attempt 0)" in plain(text)
    assert "spec.data.sources[0].uri" in plain(text)
    assert "Failed: " in plain(text)
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")


def test_on_a_terminal_the_cursor_comes_back_when_nothing_was_started(tmp_path):
    file = write_run(tmp_path, tmp_path / "missing.jsonl", "taken")
    (tmp_path / "out").write_text("a file in the way")
    code, text = on_a_terminal("run", str(file), "--output", str(tmp_path / "out"))
    assert code == ExitCode.INVALID_CONFIGURATION
    assert "--output: " in plain(text)
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")
