"""The agent of a node: its exit code, what it says for killed ranks, and whom it passes stops to."""

import signal
import subprocess
import sys
from types import SimpleNamespace

import psutil
import pytest

from tests.support.local_runs import python_child
from trainyard_api.names import ExitCode
from trainyard_api.policy.failure import ProcessEnd
from trainyard_api.progress import ExitRecord
from trainyard_trainer import node
from trainyard_trainer.exit_records import exit_record_path, read_exit_records, write_exit_record
from trainyard_trainer.lifeline import PARENT_VARIABLE
from trainyard_trainer.node import StopForwarder, exit_code_of, leave_evidence, process_ends

START = 1_795_569_000


def failed(exit_code, seconds=0):
    return SimpleNamespace(exitcode=exit_code, timestamp=START + seconds)


def record(rank, exit_code, message="said"):
    return ExitRecord(
        rank=rank, exit_code=exit_code, reason="InvalidData", message=message, time="2026-11-25T00:00:00Z"
    )


@pytest.mark.parametrize(
    ("codes", "stop_requested", "expected"),
    [
        ([], False, 0),
        ([-9], False, 137),
        ([75, -9], False, 137),
        ([75, 74], False, 74),
        ([80, 80], True, 80),
        ([80, 80], False, 80),
        ([-15, 80], True, 80),
        ([-15], False, 143),
        ([-2], True, 80),
        ([80, -9], True, 137),
    ],
)
def test_a_node_leaves_by_the_code_of_the_rank_that_failed_first(codes, stop_requested, expected):
    ends = [ProcessEnd(exit_code=code, ended_at=1.0, rank=rank) for rank, code in enumerate(codes)]
    assert exit_code_of(ends, stop_requested=stop_requested) == expected


def test_a_rank_that_the_agent_killed_itself_is_no_cause(tmp_path):
    """Rank 1 failed; rank 0 hung in a collective and was killed when its time was over."""
    ends = process_ends({0: failed(-9, node.SURVIVOR_TIMEOUT_SECONDS), 1: failed(1)}, tmp_path)
    assert [end.stopped for end in ends] == [True, False]
    assert exit_code_of(ends, stop_requested=False) == ExitCode.INTERNAL_ERROR
    leave_evidence(ends, tmp_path)
    assert set(read_exit_records(tmp_path)) == {1}


def test_ranks_that_were_killed_together_are_causes(tmp_path):
    ends = process_ends({0: failed(-9, 1), 1: failed(-9)}, tmp_path)
    assert [end.stopped for end in ends] == [False, False]


def test_the_agent_speaks_for_a_killed_rank_but_not_for_one_that_spoke(tmp_path):
    write_exit_record(exit_record_path(tmp_path, 1), record(1, 65))
    leave_evidence(process_ends({0: failed(-11), 1: failed(65)}, tmp_path), tmp_path)
    records = read_exit_records(tmp_path)
    assert (records[0].exit_code, records[0].reason) == (139, "ProcessKilled")
    assert (records[0].message, records[0].time) == ("Killed by SIGSEGV", "2026-11-25T01:10:00Z")
    assert records[1].message == "said"


WAIT = """
import signal, sys
def count(number, frame):
    print(number, flush=True)
signal.signal(signal.SIGTERM, count)
print("ready", flush=True)
for line in sys.stdin:
    print("told", flush=True)
"""


@pytest.fixture
def handlers():
    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


def with_children(children):
    process = SimpleNamespace(children=lambda: children)
    return SimpleNamespace(Process=lambda: process, NoSuchProcess=psutil.NoSuchProcess)


@pytest.mark.usefixtures("handlers")
def test_a_stop_is_passed_on_to_every_rank_once(monkeypatch):
    with python_child(WAIT) as first, python_child(WAIT) as second:
        ranks = [first, second]
        assert [rank.stdout.readline() for rank in ranks] == ["ready\n"] * 2
        with python_child("") as gone:
            children = [psutil.Process(process.pid) for process in (gone, *ranks)]
        monkeypatch.setattr(node, "psutil", with_children(children))
        stop = StopForwarder()
        stop.install()
        signal.raise_signal(signal.SIGINT)
        assert stop.requested
        assert [rank.stdout.readline() for rank in ranks] == [f"{signal.SIGTERM.value}\n"] * 2
        signal.raise_signal(signal.SIGTERM)
        assert [rank.communicate("go on\n", timeout=30)[0] for rank in ranks] == ["told\n"] * 2


@pytest.mark.usefixtures("handlers")
def test_a_stop_before_there_are_ranks_ends_the_node(monkeypatch):
    monkeypatch.setattr(node, "psutil", with_children([]))
    stop = StopForwarder()
    stop.install()
    with pytest.raises(SystemExit) as caught:
        signal.raise_signal(signal.SIGTERM)
    assert caught.value.code == ExitCode.PREEMPTED


RANK = """
import os, sys
sys.stdin.read()
from trainyard_trainer.lifeline import die_with_parent
die_with_parent()
print("alive", flush=True)
"""

AGENT = f"""
import os, subprocess, sys
from trainyard_trainer.lifeline import PARENT_VARIABLE
if sys.argv[1] == "tells":
    os.environ[PARENT_VARIABLE] = str(os.getpid())
subprocess.Popen([sys.executable, "-c", {RANK!r}])
"""


@pytest.mark.parametrize(("agent", "expected"), [("tells", ""), ("is silent", "alive\n")])
def test_a_rank_whose_agent_died_before_it_could_ask_dies_too(agent, expected, monkeypatch):
    """The rank goes on only when standard input ends, and its agent is gone by then."""
    monkeypatch.delenv(PARENT_VARIABLE, raising=False)
    with python_child(AGENT, agent) as family:
        assert family.wait(30) == 0
        assert family.communicate(timeout=30)[0] == expected


GUARDED = """
import threading
from trainyard_trainer.lifeline import die_with_runner
die_with_runner()
print(threading.active_count(), flush=True)
threading.Event().wait(600)
"""


def test_a_process_ends_when_its_runner_does():
    with python_child(GUARDED, own_session=True) as process:
        assert process.stdout.readline() == "2\n"
        assert process.poll() is None
        process.stdin.close()
        assert process.wait(10) == -signal.SIGKILL
        process.stdin = None


def test_a_process_whose_standard_input_is_no_pipe_watches_nothing():
    code = GUARDED.replace("600", "0")
    done = subprocess.run(
        [sys.executable, "-c", code],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout == "1\n"
