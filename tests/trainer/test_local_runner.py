"""What the runner makes of the ends of its processes; small programs stand for the stages."""

import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest
import yaml

from tests.support.runs import document, run_of
from trainyard_api.errors import ConfigurationError
from trainyard_api.names import ExitCode, Reason, Stage
from trainyard_api.policy.conditions import find_condition
from trainyard_api.status import Failure
from trainyard_trainer import local
from trainyard_trainer.display import LineDisplay
from trainyard_trainer.local import (
    LocalOptions,
    check_local,
    describe,
    outcome_name,
    run_local,
    unused_fields,
)
from trainyard_trainer.progress import read_events
from trainyard_trainer.run_folder import read_status
from trainyard_trainer.stage_run import StageOutcome

GOOD = "pass"
EXPORT = """
import os
logs = os.environ["LOGS"]
os.makedirs(logs, exist_ok=True)
with open(f"{logs}/model_status.json", "w") as file:
    file.write('{"uri": "file:///model", "parameters": 7}')
"""
DIES = "import os, signal; print('out of luck', flush=True); os.kill(os.getpid(), signal.SIGKILL)"
SAVES_ON_REQUEST = """
import signal
signal.signal(signal.SIGTERM, lambda *_: exit(80))
open("training", "w").close()
signal.pause()
"""


class Screen:
    """Collects what is printed."""

    def __init__(self):
        self.lines = []

    def print(self, text, **options):
        self.lines.append(text)


@pytest.fixture(autouse=True)
def _handlers():
    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


@pytest.fixture
def started(tmp_path, monkeypatch):
    """Runs a file whose stages are the given programs; the exit code, the status and what was printed."""
    monkeypatch.chdir(tmp_path)

    def start(read=GOOD, prepare=GOOD, train=GOOD, export=EXPORT, clock=time.time, **changes):
        real_plan = local.plan_run

        def plan_run(*arguments, **options):
            plan = real_plan(*arguments, **options)
            programs = {Stage.READ: read, Stage.PREPARE: prepare, Stage.TRAIN: train, Stage.EXPORT: export}

            def node(stage, node):
                argv = (sys.executable, "-c", programs[stage])
                return node.model_copy(update={"argv": argv, "env": node.env | {"LOGS": plan.paths.logs}})

            stages = tuple(
                part.model_copy(update={"nodes": tuple(node(part.stage, each) for each in part.nodes)})
                for part in plan.stages
            )
            return plan.model_copy(update={"stages": stages})

        monkeypatch.setattr(local, "plan_run", plan_run)
        file = tmp_path / "run.yaml"
        file.write_text(yaml.safe_dump(document(tmp_path / "texts.jsonl", **changes)))
        screen = Screen()
        options = LocalOptions(output=tmp_path / "out", mounts={}, cores=1, metrics_port=0)
        try:
            code = run_local(file, options, LineDisplay(screen, time.monotonic), clock)
        finally:
            monkeypatch.setattr(local, "plan_run", real_plan)
        return code, read_status(tmp_path / "out" / "test"), "\n".join(screen.lines)

    return start


def failed(status):
    return find_condition(status.conditions, "Failed")


def kinds(tmp_path):
    return [event.type for event in read_events(tmp_path / "out" / "test")]


def test_a_run_goes_through_its_stages_and_is_not_started_again(started, tmp_path):
    code, status, output = started()
    assert (code, status.phase, status.model.parameters) == (ExitCode.SUCCEEDED, "Succeeded", 7)
    assert kinds(tmp_path) == ["StageStarted", "StageFinished"] * 3
    for stage in ("Prepare", "Train", "Export"):
        assert f"{stage} started (attempt 0)" in output
        assert f"{stage} finished in " in output
    assert (tmp_path / "out" / "test" / "report.html").is_file()
    code, again, output = started(train=DIES)
    assert (code, again) == (ExitCode.SUCCEEDED, status)
    assert "is complete; nothing to do" in output


READS = """
import os, pathlib
shard = os.environ["JOB_COMPLETION_INDEX"]
pathlib.Path("read").mkdir(exist_ok=True)
pathlib.Path(f"read/{shard}").write_text(str(sorted(path.name for path in pathlib.Path("read").iterdir())))
"""
FAILS_IN_SHARD_1 = READS + "\nif shard == '1': raise SystemExit(65)"


def test_shards_are_read_before_the_preparation_no_more_at_once_than_there_are_cores(started, tmp_path):
    code, status, output = started(read=READS, data__preparation={"shards": 3})
    assert (code, status.phase) == (ExitCode.SUCCEEDED, "Succeeded")
    # With one core each shard finds that those before it are read.
    before = [(tmp_path / "read" / str(shard)).read_text() for shard in range(3)]
    assert before == ["[]", "['0']", "['0', '1']"]
    assert output.index("Read finished") < output.index("Prepare started")


def test_a_shard_that_cannot_be_read_ends_the_run_with_its_evidence(started, tmp_path):
    code, status, _ = started(read=FAILS_IN_SHARD_1, data__preparation={"shards": 3})
    assert (code, status.phase) == (ExitCode.INVALID_DATA, "Failed")
    assert [(attempt.failure.pod, attempt.failure.exit_code) for attempt in status.attempts] == [
        ("node-1", 65)
    ]
    assert sorted(path.name for path in (tmp_path / "read").iterdir()) == ["0", "1"]


def test_a_stop_between_shards_leaves_the_rest_unread(started, tmp_path):
    stops_the_runner = READS + "\nimport signal, time\nos.kill(os.getppid(), signal.SIGTERM)\ntime.sleep(1)"
    code, status, _ = started(read=stops_the_runner, data__preparation={"shards": 3})
    assert (code, status.phase) == (ExitCode.PREEMPTED, "Suspended")
    assert [path.name for path in (tmp_path / "read").iterdir()] == ["0"]


def test_a_run_that_always_dies_fails_when_its_restarts_are_used_up(started, tmp_path):
    code, status, output = started(train=DIES, restartPolicy={"maxRestarts": 1})
    assert code == ExitCode.RETRYABLE
    assert (status.phase, status.restarts) == ("Failed", 1)
    assert failed(status).reason == Reason.RESTARTS_EXHAUSTED
    assert "node-0: ProcessKilled: Killed by SIGKILL. 2 faults from the start" in failed(status).message
    assert "spec.restartPolicy.maxRestarts is 1" in failed(status).message
    assert [attempt.outcome for attempt in status.attempts] == ["Failed", "Failed"]
    for attempt in status.attempts:
        assert (attempt.failure.exit_code, attempt.failure.reason) == (137, "ProcessKilled")
        assert attempt.failure.log_tail == "out of luck"
    assert "Exit code 137; restart 1 of 1 from the start" in output
    assert "out of luck" in output
    assert kinds(tmp_path).count("Restarting") == 1
    assert (tmp_path / "out" / "test" / "report.html").is_file()


def test_an_error_that_a_restart_cannot_help_is_not_retried(started):
    code, status, output = started(prepare="import sys; sys.stderr.write('no text\\n'); sys.exit(65)")
    assert code == ExitCode.INVALID_DATA
    assert (len(status.attempts), status.restarts) == (1, 0)
    assert failed(status).reason == Reason.PERMANENT_FAILURE
    assert status.attempts[0].failure.log_tail == "no text"
    assert "Exit code 65 (INVALID_DATA): a restart cannot help" in output


def test_a_failed_run_may_be_started_again_by_a_person(started):
    started(prepare="exit(65)")
    code, status, _ = started()
    assert (code, status.phase) == (ExitCode.SUCCEEDED, "Succeeded")
    assert [attempt.outcome for attempt in status.attempts] == ["Failed", "Succeeded"]
    assert failed(status).status == "False"


def test_a_preemption_that_nobody_here_asked_for_is_followed_by_a_start_and_is_no_fault(started):
    train = (
        "import os\nif not os.path.exists('once'):\n    open('once', 'w').close()\n    raise SystemExit(80)"
    )
    code, status, _ = started(train=train, restartPolicy={"maxRestarts": 0})
    assert (code, status.restarts) == (ExitCode.SUCCEEDED, 0)
    assert [attempt.outcome for attempt in status.attempts] == ["Preempted", "Succeeded"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_stop_suspends_the_run_and_the_same_command_goes_on(number, started, monkeypatch):
    update = LineDisplay.update

    def update_and_stop(self, status):
        if Path("training").exists():
            Path("training").unlink()
            signal.raise_signal(number)
        update(self, status)

    with monkeypatch.context() as patched:
        patched.setattr(LineDisplay, "update", update_and_stop)
        code, status, output = started(train=SAVES_ON_REQUEST)
    assert (code, status.phase) == (ExitCode.PREEMPTED, "Suspended")
    assert (status.attempts[0].outcome, status.attempts[0].failure) == ("Preempted", None)
    assert "Stopped on request; will resume from the start; run the same command again" in output
    code, status, _ = started()
    assert (code, status.phase, status.restarts) == (ExitCode.SUCCEEDED, "Succeeded", 0)


def test_the_active_deadline_ends_the_run_for_good(started):
    code, status, output = started(train=SAVES_ON_REQUEST, activeDeadlineSeconds=1)
    assert code == ExitCode.DEADLINE_EXCEEDED
    assert failed(status).reason == Reason.DEADLINE_EXCEEDED
    assert len(status.attempts) == 1
    assert "activeDeadlineSeconds is over" in output


def test_a_deadline_that_passes_at_the_end_of_a_stage_ends_the_run_too(started):
    """Preparation succeeds although it was asked to stop; the next stage must not start."""
    prepare = """
import signal
signal.signal(signal.SIGTERM, lambda *_: exit(0))
open("late", "w").close()
signal.pause()
"""

    def clock():
        return time.time() + (1000 if os.path.exists("late") else 0)  # noqa: PTH110 - asked very often

    code, status, _ = started(prepare=prepare, activeDeadlineSeconds=100, clock=clock)
    assert code == ExitCode.DEADLINE_EXCEEDED
    assert [attempt.outcome for attempt in status.attempts] == ["Failed"]


def test_what_only_a_cluster_uses_is_said_to_be_unused(started):
    _, _, output = started(scheduling={"queueName": "team"}, ttlSecondsAfterFinished=60)
    assert "not used without a cluster: spec.scheduling, spec.ttlSecondsAfterFinished" in output


def test_a_run_as_usual_uses_all_its_fields(tmp_path):
    assert unused_fields(run_of(tmp_path / "texts.jsonl")) == []


def test_fp16_without_an_accelerator_is_refused(tmp_path):
    run = run_of(tmp_path / "texts.jsonl")
    check_local(run)
    training = run.spec.training.model_copy(update={"precision": "FP16"})
    wrong = run.model_copy(update={"spec": run.spec.model_copy(update={"training": training})})
    if Path("/dev/nvidia0").exists():
        check_local(wrong)
    else:
        with pytest.raises(ConfigurationError, match=r"spec\.training\.precision"):
            check_local(wrong)


@pytest.mark.parametrize(
    ("code", "name"),
    [(0, "Succeeded"), (80, "Preempted"), (81, "Failed"), (137, "Failed"), (1, "Failed")],
)
def test_an_attempt_has_one_word_for_its_end(code, name):
    assert outcome_name(code) == name


@pytest.mark.parametrize(
    ("failure", "text"),
    [
        (None, "Stopped by the runner (exit code 81)"),
        (
            Failure(rank=1, pod="node-0", exit_code=137, reason="ProcessKilled", message="Killed by SIGKILL"),
            "rank 1: ProcessKilled: Killed by SIGKILL",
        ),
        (
            Failure(pod="node-0", exit_code=65, reason="InvalidData", message="no text"),
            "node-0: InvalidData: no text",
        ),
    ],
)
def test_an_end_is_described_by_who_and_why(failure, text):
    assert describe(StageOutcome(81, failure)) == text


def test_the_plan_that_processes_read_lies_in_the_run_folder(started, tmp_path):
    started()
    plan = json.loads((tmp_path / "out" / "test" / "plan.json").read_text())
    assert plan["paths"]["runFolder"] == str(tmp_path / "out" / "test")
    assert plan["threadsPerProcess"] == 1
