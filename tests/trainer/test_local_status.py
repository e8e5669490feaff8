"""The status of a local run: what is written, and when."""

import pytest

from trainyard_api.names import ConditionType, Reason, Stage
from trainyard_api.policy.deadline import active_seconds
from trainyard_api.progress import ProgressReport
from trainyard_api.status import Accounting, CheckpointStatus, Failure, Progress, TrainingRunStatus
from trainyard_trainer.local_status import KEPT_ATTEMPTS, StatusKeeper
from trainyard_trainer.progress import timestamp


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def written():
    return []


@pytest.fixture
def keeper(clock, written):
    return StatusKeeper(TrainingRunStatus(), written.append, clock)


def report(attempt=0, stage=Stage.TRAIN, step=1, checkpoint=None):
    progress = Progress(stage=stage, step=step, loss=2.0, updated_at=timestamp(1000.0))
    return ProgressReport(attempt=attempt, progress=progress, checkpoint=checkpoint)


def test_attempts_are_numbered_on_from_those_of_earlier_runners(keeper):
    assert [keeper.start_attempt() for _ in range(3)] == [0, 1, 2]
    assert keeper.status.attempt == 2


def test_only_the_newest_attempts_are_kept_and_their_numbers_go_on(keeper):
    for _ in range(KEPT_ATTEMPTS + 5):
        keeper.start_attempt()
    assert [attempt.number for attempt in keeper.status.attempts] == list(range(5, KEPT_ATTEMPTS + 5))


def test_active_seconds_count_the_attempts_that_are_no_longer_listed(keeper, clock):
    for _ in range(KEPT_ATTEMPTS + 5):
        keeper.start_attempt()
        clock.now += 10.0
        keeper.end_attempt("Failed", None)
        keeper.accounting(Accounting(productive_seconds=7.0))
        clock.now += 100.0
    keeper.start_attempt()
    clock.now += 3.0
    status = keeper.status
    assert active_seconds(status.accounting, status.attempts, clock.now) == (KEPT_ATTEMPTS + 5) * 10 + 3
    assert status.accounting.productive_seconds == 7.0


def test_the_end_of_an_attempt_has_its_time_and_evidence(keeper, clock):
    keeper.start_attempt()
    clock.now = 1012.0
    failure = Failure(rank=1, exit_code=137, reason="ProcessKilled")
    keeper.end_attempt("Failed", failure)
    [attempt] = keeper.status.attempts
    assert (attempt.started_at, attempt.finished_at) == (timestamp(1000), timestamp(1012))
    assert (attempt.outcome, attempt.failure) == ("Failed", failure)


def test_transitions_are_written_at_once(keeper, written):
    keeper.condition(ConditionType.RUNNING, "True", Reason.STAGE_STARTED)
    keeper.start_attempt()
    keeper.restarted()
    assert [status.restarts for status in written] == [0, 0, 1]
    assert written[0].phase == "Running"


def test_progress_is_taken_over_at_once_and_written_at_most_once_a_second(keeper, written, clock):
    keeper.start_attempt()
    written.clear()
    for tenth in range(21):
        clock.now = 1000.0 + tenth / 10
        keeper.progress(report(step=tenth))
        assert keeper.status.progress.step == tenth
    assert [status.progress.step for status in written] == [10, 20]


@pytest.mark.parametrize(
    ("told", "step"),
    [
        (None, 0),
        (report(attempt=0, step=7), 0),
        (report(attempt=1, stage=Stage.PREPARE, step=7), 0),
        (report(attempt=1, step=7), 7),
        (report(attempt=1, stage=Stage.EXPORT, step=7), 7),
    ],
    ids=["nothing", "of an earlier attempt", "of an earlier stage", "of this stage", "of a later stage"],
)
def test_only_what_belongs_to_the_current_attempt_and_stage_is_taken_over(told, step, keeper):
    keeper.start_attempt()
    keeper.start_attempt()
    keeper.stage_started(Stage.TRAIN)
    keeper.progress(told)
    assert keeper.status.progress.step == step


def test_a_stage_that_starts_shows_the_step_it_resumes_from(keeper):
    checkpoint = CheckpointStatus(step=40, uri="file:///c", committed_at=timestamp(900))
    keeper.start_attempt()
    keeper.progress(report(step=44, checkpoint=checkpoint))
    keeper.start_attempt()
    keeper.stage_started(Stage.PREPARE)
    assert (keeper.status.progress.stage, keeper.status.progress.step) == ("Prepare", 40)
    assert keeper.status.progress.loss is None
    assert keeper.status.checkpoint == checkpoint


def test_export_keeps_the_figures_of_training(keeper):
    keeper.start_attempt()
    keeper.progress(report(step=9))
    keeper.stage_started(Stage.EXPORT)
    assert (keeper.status.progress.stage, keeper.status.progress.step) == ("Train", 9)


def test_a_report_without_a_checkpoint_does_not_forget_the_last_one(keeper):
    checkpoint = CheckpointStatus(step=4, uri="file:///c", committed_at=timestamp(900))
    keeper.progress(report(checkpoint=checkpoint))
    keeper.progress(report(step=6))
    assert keeper.status.checkpoint == checkpoint


@pytest.mark.parametrize(
    ("told_at", "back_at", "finished_at"),
    [(None, 90_000, 1000), (1500, 90_000, 1500), (800, 90_000, 1000), (1500, 1200, 1200)],
    ids=["nothing was told", "told", "told by an earlier attempt", "the clock was set back"],
)
def test_an_attempt_whose_runner_was_killed_ends_at_its_last_sign(
    told_at, back_at, finished_at, keeper, clock
):
    """A machine that was off over night must not use up the active deadline."""
    keeper.start_attempt()
    if told_at is not None:
        progress = Progress(stage=Stage.TRAIN, updated_at=timestamp(told_at))
        keeper.progress(ProgressReport(attempt=0, progress=progress))
    clock.now = float(back_at)
    keeper.close_broken_attempts()
    [attempt] = keeper.status.attempts
    assert attempt.finished_at == timestamp(finished_at)
    assert attempt.outcome == "Failed"
    assert "runner was gone" in attempt.failure.message
    assert active_seconds(keeper.status.accounting, keeper.status.attempts, clock.now) == finished_at - 1000


def test_attempts_that_ended_in_order_stay_as_they_are(keeper, clock):
    keeper.start_attempt()
    keeper.end_attempt("Preempted", None)
    before = keeper.status.attempts
    clock.now = 5000.0
    keeper.close_broken_attempts()
    assert keeper.status.attempts == before
