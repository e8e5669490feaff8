"""Killed, stopped and resumed: whatever happens to its processes, a run comes to the same loss curve."""

import random
import re
import signal
import time
import urllib.request
from dataclasses import dataclass

import psutil
import pytest
import yaml

from tests.support.local_runs import (
    Finished,
    LocalRun,
    checkpoints_of,
    losses,
    num_history_lines,
    started,
    status_of,
    trainyard,
    wait_until,
    write_excerpt,
    write_run,
)
from trainyard_api.names import ExitCode, Reason

pytestmark = pytest.mark.slow

SEED = 20261125
NUM_STEPS = 40
CHECKPOINT_EVERY = 5
SETTINGS = {
    "model__architecture": {"preset": "bert-tiny", "overrides": {"hidden_dropout_prob": 0.1}},
    "tokenizer__train": {"algorithm": "WordPiece", "vocabularySize": 1024},
    "training__budget": {"steps": NUM_STEPS},
    "checkpoint": {"everySteps": CHECKPOINT_EVERY, "keep": 2},
    "restartPolicy": {"maxRestarts": 1},
    "workers": {"nodes": 2, "processesPerNode": 1},
}
DETECTION_SECONDS = 10.0
ORPHAN_SECONDS = 5.0


@dataclass
class Whole:
    """A run that nothing happened to, and what was seen while it trained."""

    file: object
    run: LocalRun
    finished: Finished
    metrics: str
    second_runner: Finished


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def source(sotu_paragraphs, place):
    return write_excerpt(sotu_paragraphs, place / "paragraphs.jsonl", 1500)


@pytest.fixture(scope="module")
def whole(source, place):
    file = write_run(place, source, "whole", **SETTINGS)
    with started(file, place / "out") as run:
        run.wait_for_step(1)
        url = re.search(r"metrics (http://\S+)", run.output)[1]
        run.wait_for(lambda: "trainyard_run_loss{" in scrape(url), "a loss among the metrics", 10)
        metrics = scrape(url)
        run.signal(signal.SIGSTOP)
        second = trainyard("run", str(file), "--output", str(place / "out"))
        run.signal(signal.SIGCONT)
        return Whole(file, run, run.wait(), metrics, second)


def scrape(url):
    with urllib.request.urlopen(url, timeout=10) as response:  # noqa: S310 - loopback
        return response.read().decode()


def test_an_uninterrupted_run_succeeds_and_learns(whole):
    assert whole.finished.code == ExitCode.SUCCEEDED, whole.finished.output
    curve = losses(whole.run.folder)
    assert [step for step, _ in curve] == list(range(1, NUM_STEPS + 1))
    assert curve[-1][1] < curve[0][1] - 0.5
    status = status_of(whole.run.folder)
    assert (status.phase, status.restarts, status.attempts[0].outcome) == ("Succeeded", 0, "Succeeded")
    assert status.model.parameters > 300_000
    assert status.accounting.productive_seconds > 0
    assert status.accounting.lost_seconds.restart == 0
    assert checkpoints_of(whole.run.folder) == [35, 40]


def test_metrics_are_served_while_it_trains(whole):
    assert 'trainyard_run_phase{name="whole",namespace="default",phase="Running"} 1.0' in whole.metrics
    assert re.search(
        r'^trainyard_run_loss\{name="whole",namespace="default"\} \d', whole.metrics, re.MULTILINE
    )
    assert re.search(r"^trainyard_run_tokens_total\{.*\} [1-9]", whole.metrics, re.MULTILINE)


def test_a_second_runner_on_the_folder_is_refused(whole):
    assert whole.second_runner.code == ExitCode.UNAVAILABLE
    assert (
        f"another runner (process {whole.run.process.pid}) works in this folder" in whole.second_runner.output
    )


def test_a_complete_run_is_not_started_again(whole):
    again = trainyard("run", str(whole.file), "--output", str(whole.run.folder.parent))
    assert again.code == ExitCode.SUCCEEDED
    assert "is complete; nothing to do" in again.output


def contents(folder):
    """Everything in a run folder but the lock, which tells who asked last."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != "run.lock")
    return {path: path.read_bytes() for path in files}


def test_a_folder_of_another_spec_is_refused_and_left_as_it_was(whole, tmp_path):
    document = yaml.safe_load(whole.file.read_text())
    document["spec"]["training"]["optimizer"]["learningRate"] = 0.5
    other = tmp_path / "other.yaml"
    other.write_text(yaml.safe_dump(document))
    before = contents(whole.run.folder)
    refused = trainyard("run", str(other), "--output", str(whole.run.folder.parent))
    assert refused.code == ExitCode.RUN_FOLDER_CONFLICT
    assert "spec.training.optimizer.learningRate: 0.001 -> 0.5" in refused.output
    assert contents(whole.run.folder) == before


def test_the_report_and_the_status_can_be_read_afterwards(whole):
    status = trainyard("status", str(whole.run.folder))
    assert status.code == 0
    assert status.output.startswith(f"Succeeded: {whole.run.folder}\nsteps 40, tokens ")
    assert "attempt 0 Succeeded" in status.output
    logs = trainyard("logs", str(whole.run.folder), "--rank", "1")
    assert logs.code == 0
    report = trainyard("report", str(whole.run.folder))
    assert report.output.strip() == str(whole.run.folder / "report.html")


def test_a_killed_rank_ends_the_gang_and_the_run_comes_to_the_same_curve(whole, source, place):
    choice = random.Random(SEED)
    step, rank = choice.randint(CHECKPOINT_EVERY + 1, NUM_STEPS - 15), choice.randint(0, 1)
    file = write_run(place, source, "killed", **SETTINGS)
    with started(file, place / "out") as run:
        run.wait_for_step(step)
        run.ranks()[rank].kill()
        killed_at = time.monotonic()
        run.wait_for(
            lambda: status_of(run.folder).attempts[0].finished_at is not None, "the end of attempt 0"
        )
        assert time.monotonic() - killed_at < DETECTION_SECONDS
        finished = run.wait()
    assert finished.code == ExitCode.SUCCEEDED, finished.output
    status = status_of(run.folder)
    assert status.restarts == 1
    assert [attempt.outcome for attempt in status.attempts] == ["Failed", "Succeeded"]
    failure = status.attempts[0].failure
    assert (failure.rank, failure.exit_code, failure.reason) == (rank, 137, Reason.PROCESS_KILLED)
    assert failure.message == "Killed by SIGKILL"
    assert failure.log_tail
    assert f"rank {rank}: ProcessKilled" in (run.folder / "events.jsonl").read_text()
    assert "restart 1 of 1 from the checkpoint of step" in finished.output
    assert losses(run.folder) == losses(whole.run.folder)
    assert status.accounting.lost_seconds.restart > 0
    repeated = num_history_lines(run.folder) - num_history_lines(whole.run.folder)
    assert 0 <= repeated < 2 * CHECKPOINT_EVERY + 1


def stop_after(run: LocalRun, number: signal.Signals, step: int) -> int:
    """Signal a training run and check that it saved what it had done; the number of steps it had done."""
    run.wait_for_step(step, num_history_lines(run.folder))
    run.signal(number)
    finished = run.wait()
    assert finished.code == ExitCode.PREEMPTED, finished.output
    status = status_of(run.folder)
    assert status.phase == "Suspended"
    assert (status.attempts[-1].outcome, status.attempts[-1].failure) == ("Preempted", None)
    done = losses(run.folder)[-1][0]
    assert step <= done < NUM_STEPS
    assert checkpoints_of(run.folder)[-1] == status.checkpoint.step == done
    assert f"Stopped on request; will resume from the checkpoint of step {done}" in finished.output
    assert "run the same command again to go on" in finished.output
    return done


def test_stopped_and_killed_runners_resume_by_the_same_command_to_the_same_curve(whole, source, place):
    file = write_run(place, source, "stopped", **SETTINGS)
    with started(file, place / "out") as run:
        first = stop_after(run, signal.SIGINT, 3)
    with started(file, place / "out") as run:
        second = stop_after(run, signal.SIGTERM, first + 2)
    with started(file, place / "out") as run:
        run.wait_for_step(second + 2, num_history_lines(run.folder))
        family = run.descendants()
        assert len(family) >= 4
        run.signal(signal.SIGKILL)
        run.process.wait()
        wait_until(lambda: not any(map(is_alive, family)), "the end of every process", ORPHAN_SECONDS)
    with started(file, place / "out") as run:
        finished = run.wait()
    assert finished.code == ExitCode.SUCCEEDED, finished.output
    status = status_of(run.folder)
    assert [a.outcome for a in status.attempts] == ["Preempted", "Preempted", "Failed", "Succeeded"]
    assert status.attempts[2].failure.message.startswith("The runner was gone without a word")
    assert status.restarts == 0
    assert losses(run.folder) == losses(whole.run.folder)


def is_alive(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
