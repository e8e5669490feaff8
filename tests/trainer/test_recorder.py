"""What rank 0 tells while it trains, and that the other ranks write nothing."""

import pytest

from trainyard_api.status import ModelStatus
from trainyard_trainer.checkpoint import TrainState
from trainyard_trainer.progress import read_events, read_history, read_progress
from trainyard_trainer.recorder import PROGRESS_INTERVAL_SECONDS, RATE_WINDOW_STEPS, Recorder, StepFigures


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def figures(**changes):
    values = {
        "loss": 2.5,
        "loss_terms": {"labels": 2.5},
        "gradient_norm": 0.75,
        "learning_rate": 1e-3,
        "num_tokens": 900,
        "num_positions": 1000,
        "step_seconds": 0.5,
        "data_seconds": 0.001,
    }
    return StepFigures(**(values | changes))


def state(step, **changes):
    return TrainState(step=step, tokens=900 * step, **changes)


def test_every_step_is_in_the_history_and_the_report_follows_at_most_once_a_second(tmp_path, clock):
    recorder = Recorder(tmp_path, 2, clock)
    reported = []
    for step in range(1, 31):
        recorder.step_done(state(step), figures(loss=3.0 - step / 100), total_steps=100)
        reported.append(read_progress(tmp_path).progress.step)
        clock.now = 1000.0 + step * 0.25
    assert [record.step for record in read_history(tmp_path)] == list(range(1, 31))
    assert sorted(set(reported)) == list(range(1, 31, round(PROGRESS_INTERVAL_SECONDS / 0.25)))


def test_the_report_has_the_figures_of_the_step_and_rates_over_the_newest_ones(tmp_path, clock):
    recorder = Recorder(tmp_path, 2, clock)
    recorder.step_done(state(1), figures(step_seconds=60.0, num_tokens=100), total_steps=100)
    for step in range(2, 2 + RATE_WINDOW_STEPS):
        clock.now += 1.0
        recorder.step_done(state(step, evaluation_loss=2.0), figures(), total_steps=100)
    report = read_progress(tmp_path)
    progress = report.progress
    assert (report.attempt, progress.stage, progress.step, progress.percent) == (2, "Train", 21, 21.0)
    assert (progress.loss, progress.evaluation_loss, progress.gradient_norm) == (2.5, 2.0, 0.75)
    assert progress.tokens_per_second == 1800.0
    assert progress.packing_efficiency == 0.9
    assert progress.eta_seconds == round(79 * 0.5)
    assert report.checkpoint is None


def test_the_status_has_losses_to_4_decimals_and_the_history_has_all_digits(tmp_path, clock):
    recorder = Recorder(tmp_path, 0, clock)
    recorder.step_done(state(1, evaluation_loss=1.98765432), figures(loss=2.12345678), total_steps=100)
    progress = read_progress(tmp_path).progress
    assert (progress.loss, progress.evaluation_loss) == (2.1235, 1.9877)
    assert [record.loss for record in read_history(tmp_path)] == [2.12345678]
    assert ModelStatus(uri="file:///m", parameters=1, evaluation_loss=1.98765432).evaluation_loss == 1.9877


def test_an_evaluation_is_told_at_once(tmp_path, clock):
    recorder = Recorder(tmp_path, 0, clock)
    recorder.step_done(state(1), figures(), total_steps=2)
    recorder.evaluated(state(1, evaluation_loss=1.5), total_steps=2)
    assert read_progress(tmp_path).progress.evaluation_loss == 1.5
    assert [(r.loss, r.evaluation_loss) for r in read_history(tmp_path)] == [(2.5, None), (None, 1.5)]


def test_a_committed_checkpoint_is_an_event_and_in_the_next_report(tmp_path, clock):
    recorder = Recorder(tmp_path, 1, clock)
    recorder.checkpoint_committed(tmp_path / "step-00000007", state(7), 0.25)
    recorder.report(state(7), total_steps=10)
    [event] = read_events(tmp_path)
    assert (event.type, event.attempt, event.seconds) == ("CheckpointCommitted", 1, 0.25)
    assert event.values == {"step": 7.0}
    checkpoint = read_progress(tmp_path).checkpoint
    assert (checkpoint.step, checkpoint.committed_at) == (7, "1970-01-01T00:16:40Z")
    assert checkpoint.uri == (tmp_path / "step-00000007").as_uri()


def test_before_the_first_step_no_figure_is_made_up(tmp_path, clock):
    Recorder(tmp_path, 0, clock).report(state(0), total_steps=10)
    progress = read_progress(tmp_path).progress
    assert (progress.loss, progress.tokens_per_second, progress.eta_seconds) == (None, None, None)


def test_ranks_other_than_the_first_write_nothing(tmp_path, clock, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recorder = Recorder(None, 0, clock)
    recorder.step_done(state(1), figures(), total_steps=2)
    recorder.evaluated(state(1, evaluation_loss=1.5), total_steps=2)
    recorder.checkpoint_committed(tmp_path / "step", state(1), 0.1)
    assert list(tmp_path.iterdir()) == []


def test_a_start_reads_only_the_history_after_the_newest_checkpoint(tmp_path, clock):
    recorder = Recorder(tmp_path, 0, clock)
    for step in range(1, 11):
        recorder.step_done(state(step), figures(step_seconds=2.0), total_steps=100)
    recorder.checkpoint_committed(tmp_path / "checkpoint", state(10), 0.1)
    history = tmp_path / "history.jsonl"
    summed_up = history.stat().st_size
    recorder.step_done(state(11), figures(step_seconds=3.0), total_steps=100)
    whole = history.read_bytes()
    history.write_bytes(b"#" * (summed_up - 1) + whole[summed_up - 1 :])
    again = Recorder(tmp_path, 1, clock)
    again.step_done(state(11), figures(step_seconds=5.0), total_steps=100)
    again.report(state(11), 100)
    work = read_progress(tmp_path).work
    assert (work.productive, work.recompute) == (23.0, 5.0)


def test_a_history_shorter_than_what_was_added_up_is_read_from_its_beginning(tmp_path, clock):
    recorder = Recorder(tmp_path, 0, clock)
    recorder.step_done(state(1), figures(step_seconds=2.0), total_steps=100)
    first = (tmp_path / "history.jsonl").read_bytes()
    recorder.step_done(state(2), figures(step_seconds=2.0), total_steps=100)
    recorder.checkpoint_committed(tmp_path / "checkpoint", state(2), 0.1)
    (tmp_path / "history.jsonl").write_bytes(first)
    again = Recorder(tmp_path, 1, clock)
    again.report(state(1), 100)
    assert read_progress(tmp_path).work.productive == 2.0
