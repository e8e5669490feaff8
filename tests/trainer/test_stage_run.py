"""How a stage on this machine is watched, ended and explained."""

import os
import signal
import sys

import pytest

from trainyard_api.names import ExitCode, Reason, Stage
from trainyard_api.plan import NodePlan
from trainyard_api.policy.failure import ProcessEnd
from trainyard_api.progress import ExitRecord
from trainyard_trainer import processes, stage_run
from trainyard_trainer.exit_records import exit_record_path, stage_exit_record_path, write_exit_record
from trainyard_trainer.processes import log_tail, started
from trainyard_trainer.stage_run import StageOutcome, StopControl, outcome_of, process_ends, watch

GRACE_SECONDS = 60.0


class ScriptedChild:
    """A child whose end is known beforehand: (second of its end, code), or None to run on."""

    def __init__(self, clock, end):
        self.clock, self.end = clock, end
        self.signals = []
        self.stopped = False

    def poll(self, now):
        return self.end[1] if self.end is not None and now >= self.end[0] else None

    def send(self, number):
        self.signals.append((self.clock.now, number))


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    moving = Clock()

    def move(seconds=0.1):
        moving.now = round(moving.now + seconds, 3)

    monkeypatch.setattr(stage_run, "wait_a_moment", move)
    return moving


def watched(clock, ends, *, stop=None, at=None):
    """Watch scripted children; `at` maps seconds to what happens then. Returns them and when it was over."""
    children = [ScriptedChild(clock, end) for end in ends]
    pending = dict(at or {})

    def tick():
        for second in [second for second in pending if second <= clock.now]:
            pending.pop(second)()

    watch(children, stop or StopControl(), tick, clock=clock, grace_seconds=GRACE_SECONDS)
    return children, clock.now


def test_a_stage_lasts_until_its_last_process_has_ended(clock):
    children, seconds = watched(clock, [(2.0, 0), (5.0, 0)])
    assert seconds == pytest.approx(5.0, abs=0.2)
    assert [child.stopped for child in children] == [False, False]
    assert [child.signals for child in children] == [[], []]


def test_after_a_failure_the_others_have_a_moment_to_tell_theirs_and_are_ended(clock):
    children, seconds = watched(clock, [(2.0, 137), (2.3, 75), None])
    assert seconds == pytest.approx(2.0 + stage_run.SETTLE_SECONDS, abs=0.2)
    assert [child.stopped for child in children] == [False, False, True]


def test_a_success_of_one_process_ends_no_other(clock):
    _, seconds = watched(clock, [(2.0, 0), (30.0, 0)])
    assert seconds == pytest.approx(30.0, abs=0.2)


def test_a_request_to_stop_is_passed_on_once_and_waited_for(clock):
    stop = StopControl()
    children, seconds = watched(clock, [(20.0, 80), (21.0, 80)], stop=stop, at={3.0: stop.ask})
    assert seconds == pytest.approx(21.0, abs=0.2)
    for child in children:
        [(second, number)] = child.signals
        assert (second, number) == (pytest.approx(3.0, abs=0.3), signal.SIGTERM)
        assert not child.stopped


@pytest.mark.parametrize(
    ("ends", "asked_at", "seconds"),
    [
        ([None, None], [3.0, 5.0], 5.0),
        ([None, None], [3.0], 3.0 + GRACE_SECONDS),
        ([(4.0, 80), None], [3.0], 4.0 + stage_run.SURVIVOR_SECONDS),
    ],
    ids=["asked twice", "after the grace period", "the rest of a gang cannot save alone"],
)
def test_waiting_for_a_stop_has_an_end(ends, asked_at, seconds, clock):
    stop = StopControl()
    children, over = watched(clock, ends, stop=stop, at=dict.fromkeys(asked_at, stop.ask))
    assert over == pytest.approx(seconds, abs=0.4)
    assert [child.stopped for child in children] == [end is None for end in ends]


def end(exit_code, *, stopped=False, rank=None):
    return ProcessEnd(exit_code=exit_code, ended_at=1.0, stopped=stopped, rank=rank)


@pytest.mark.parametrize(
    ("ends", "stop", "exit_code", "has_evidence"),
    [
        ([end(0), end(0)], StopControl(), 0, False),
        ([end(0), end(0)], StopControl(requested=True), 0, False),
        ([end(-9), end(-9, stopped=True)], StopControl(), 137, True),
        ([end(80), end(0)], StopControl(requested=True), 80, False),
        ([end(-15), end(80)], StopControl(requested=True), 80, False),
        ([end(-9, stopped=True), end(-9, stopped=True)], StopControl(requested=True), 80, False),
        ([end(80), end(-9)], StopControl(requested=True), 137, True),
        ([end(74), end(80)], StopControl(requested=True), 74, True),
        ([end(80)], StopControl(requested=True, deadline_exceeded=True), 81, False),
        ([end(74)], StopControl(requested=True, deadline_exceeded=True), 81, True),
        ([end(-15)], StopControl(), 143, True),
    ],
    ids=[
        "success",
        "success although a stop was asked for",
        "killed by somebody",
        "saved on request",
        "stopped before it could take the signal",
        "ended by the runner that lost patience",
        "killed while it saved",
        "a full disk while it saved",
        "deadline",
        "deadline and a full disk",
        "terminated by somebody else",
    ],
)
def test_the_outcome_of_a_stage(ends, stop, exit_code, has_evidence):
    outcome = outcome_of(ends, stop)
    assert (outcome.exit_code, outcome.failure is not None) == (exit_code, has_evidence)


def test_a_stop_that_is_asked_for_twice_insists():
    stop = StopControl()
    stop.ask()
    assert (stop.requested, stop.insisted) == (True, False)
    stop.ask()
    assert (stop.requested, stop.insisted) == (True, True)


def python_node(index, code):
    return NodePlan(index=index, argv=(sys.executable, "-c", code), env={"NUMBER": str(index)})


def finished(nodes, logs, stage):
    with started(nodes, logs, stage, os.environ) as children:
        for child in children:
            child.popen.wait()
            child.poll(1.0)
    return children


def record(rank, exit_code, message):
    return ExitRecord(
        rank=rank, exit_code=exit_code, reason=Reason.DIVERGED, message=message, time="2026-11-25T00:00:00Z"
    )


SHOW = """
import os, stat
print(os.environ["NUMBER"], stat.S_ISFIFO(os.fstat(0).st_mode), os.getsid(0) == os.getpid())
"""


def test_real_processes_get_their_environment_a_log_and_a_pipe_as_standard_input(tmp_path):
    code = SHOW
    finished([python_node(0, code), python_node(1, code)], tmp_path / "logs", Stage.TRAIN)
    assert (tmp_path / "logs" / "train-node-0.log").read_text() == "0 True True\n"
    assert (tmp_path / "logs" / "train-node-1.log").read_text() == "1 True True\n"


def test_no_process_is_left_when_the_stage_is_left(tmp_path):
    with started(
        [python_node(0, "import time; time.sleep(600)")], tmp_path, Stage.TRAIN, os.environ
    ) as children:
        assert children[0].popen.poll() is None
    assert children[0].popen.returncode == -signal.SIGKILL


def test_processes_that_were_started_are_ended_when_the_next_cannot_be(tmp_path, monkeypatch):
    children = []
    start = processes._start

    def remember(*arguments):
        children.append(start(*arguments))
        return children[-1]

    monkeypatch.setattr(processes, "_start", remember)
    nodes = [python_node(0, "input()"), NodePlan(index=1, argv=(str(tmp_path / "missing"),), env={})]
    with pytest.raises(FileNotFoundError), started(nodes, tmp_path, Stage.TRAIN, os.environ):
        pytest.fail("the stage must not start")
    assert [child.popen.returncode for child in children] == [-signal.SIGKILL]


@pytest.mark.parametrize(("stage", "folder"), [(Stage.TRAIN, ""), (Stage.CACHE, "cache")])
def test_the_record_of_a_rank_explains_the_code_of_its_agent(stage, folder, tmp_path):
    children = finished([python_node(0, "raise SystemExit(76)")], tmp_path, stage)
    own = tmp_path / folder
    write_exit_record(exit_record_path(own, 3), record(3, 76, "the loss of step 9 is nan"))
    write_exit_record(exit_record_path(own, 4), record(4, 75, "another process was lost"))
    (own / "rank-3.log").write_text("Traceback\nnan\n")
    [told] = process_ends(children, stage, tmp_path, 1.0)
    assert (told.rank, told.exit_code, told.log_tail) == (3, 76, "Traceback\nnan")
    failure = outcome_of([told], StopControl()).failure
    assert (failure.rank, failure.reason, failure.message) == (3, "Diverged", "the loss of step 9 is nan")


def test_an_agent_without_a_record_speaks_by_its_code_and_log(tmp_path):
    children = finished([python_node(0, "print('out of luck'); raise SystemExit(7)")], tmp_path, Stage.TRAIN)
    [told] = process_ends(children, Stage.TRAIN, tmp_path, 1.0)
    assert (told.rank, told.pod, told.exit_code, told.log_tail) == (None, "node-0", 7, "out of luck")


def test_the_record_of_a_stage_that_is_no_gang_gives_the_message(tmp_path):
    children = finished([python_node(0, "raise SystemExit(65)")], tmp_path, Stage.PREPARE)
    write_exit_record(stage_exit_record_path(tmp_path, Stage.PREPARE), record(0, 65, "no text"))
    outcome = outcome_of(process_ends(children, Stage.PREPARE, tmp_path, 1.0), StopControl())
    assert outcome.exit_code == ExitCode.INVALID_DATA
    assert (outcome.failure.rank, outcome.failure.pod, outcome.failure.message) == (None, "node-0", "no text")


def test_records_of_a_success_are_no_failures(tmp_path):
    children = finished([python_node(0, "")], tmp_path, Stage.TRAIN)
    write_exit_record(exit_record_path(tmp_path, 0), record(0, 0, ""))
    assert outcome_of(process_ends(children, Stage.TRAIN, tmp_path, 1.0), StopControl()) == StageOutcome(0)


@pytest.mark.parametrize(
    ("content", "tail"),
    [
        (b"", ""),
        (b"one\ntwo", "one\ntwo"),
        (b"".join(b"%d\n" % n for n in range(50)), "\n".join(map(str, range(30, 50)))),
        (b"\xff\xfe end\n", "\ufffd\ufffd end"),
        (b"x" * 1_000_000, "x" * 16_384),
    ],
    ids=["empty", "short", "many lines", "no text", "one endless line"],
)
def test_the_tail_of_a_log_is_bounded(content, tail, tmp_path):
    (tmp_path / "log").write_bytes(content)
    assert log_tail(tmp_path / "log") == tail
    assert log_tail(tmp_path / "missing") == ""
