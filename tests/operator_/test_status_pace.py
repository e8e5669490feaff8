"""How long a status waits that tells of no end and no decision."""

from collections import Counter

import pytest

from trainyard_operator.keys import RunKey
from trainyard_operator.settings import Settings
from trainyard_operator.status import Urgency
from trainyard_operator.status_pace import StatusPace, Unwritten, patience

NEVER = float("-inf")


@pytest.mark.parametrize(
    ("num_waiting", "seconds"),
    [(1, 2.0), (50, 2.0), (100, 4.0), (200, 8.0), (250, 10.0), (5_000, 10.0)],
)
def test_a_status_waits_longer_when_many_runs_wait_but_never_longer_than_progress(num_waiting, seconds):
    assert patience(Settings(), num_waiting) == seconds


def test_settings_that_want_more_patience_get_it():
    assert patience(Settings(status_seconds=30.0, progress_seconds=5.0), 1_000) == 30.0


@pytest.mark.parametrize(
    ("unwritten", "written_at", "calm", "rush"),
    [
        (Unwritten(105.0, 105.0, 5.0, 115.0), 100.0, 110.5, 115.5),  # another one comes before either limit
        (Unwritten(105.0, 110.0, 5.0, 115.0), 100.0, 110.0, 115.5),  # the last one of a calm time
        (Unwritten(105.0, 115.1, 5.0, 115.0), 100.0, 115.1, 115.1),  # the last one of a rush
        (
            Unwritten(105.0, 109.4, 30.0, 115.0),
            100.0,
            110.5,
            115.5,
        ),  # no other one comes, but the last write is too recent
        (Unwritten(130.0, 130.0, 30.0, 140.0), 100.0, 130.0, 130.0),  # no other one comes for long
        (Unwritten(101.0, 110.0, 1.0, 111.0), 100.0, 110.0, 111.5),
        (Unwritten(101.0, 109.0, 1.0, 111.0), 100.0, 110.5, 111.5),
        (Unwritten(105.0, 105.0, None, 115.0), 100.0, 110.5, 115.5),  # the first one to this process
        (Unwritten(105.0, 105.0, None, 115.0), NEVER, 105.0, 115.5),
        (Unwritten(105.0, 110.0, 5.0, 115.0), NEVER, 110.0, 115.5),
    ],
)
def test_progress_is_written_with_the_last_report_that_can_be_waited_for(unwritten, written_at, calm, rush):
    assert unwritten.due_at(written_at, Settings(), is_rush=False) == calm
    assert unwritten.due_at(written_at, Settings(), is_rush=True) == rush


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def writes_of(num_runs: int, every_seconds: float, seconds: int) -> tuple[float, float]:
    """Writes per run and 10 seconds, and the longest that a report waits, when all runs report evenly."""
    clock = Clock()
    pace = StatusPace(Settings(), clock)
    keys = [RunKey("research", f"run-{number}", str(number)) for number in range(num_runs)]
    posts = sorted(
        (1_000.0 + every_seconds * (number / num_runs + turn), number)
        for number in range(num_runs)
        for turn in range(int(seconds / every_seconds))
    )
    waiting: dict[int, list[float]] = {number: [] for number in range(num_runs)}
    due: dict[int, float] = {}
    num_writes, longest = 0, 0.0
    for posted_at, number in posts:
        for other in [other for other, at in due.items() if at < posted_at]:
            clock.now = due.pop(other)
            longest = max(longest, clock.now - waiting[other][0])
            pace.settle(keys[other], clock.now, was_written=True)
            waiting[other], num_writes = [], num_writes + 1
        clock.now = posted_at
        waiting[number].append(posted_at)
        due[number] = posted_at + pace.report(keys[number])
    return num_writes / num_runs / seconds * 10.0, longest


def test_a_few_runs_are_written_every_ten_seconds_and_no_report_waits_for_longer_than_the_next():
    rate, longest = writes_of(10, 5.0, 120)
    assert rate == pytest.approx(1.0, abs=0.05)
    assert longest == pytest.approx(5.0, abs=0.01)


def test_many_runs_are_written_every_fifteen_seconds_and_no_report_waits_for_longer_than_ten():
    rate, longest = writes_of(600, 5.0, 120)
    assert rate == pytest.approx(0.667, abs=0.08)
    assert longest == pytest.approx(10.0, abs=0.01)


def test_runs_that_begin_to_report_together_are_not_written_together():
    clock = Clock()
    pace = StatusPace(Settings(), clock)
    keys = [RunKey("research", f"run-{number}", str(number)) for number in range(1_000)]
    waits = [pace.report(key) for key in keys]
    assert waits[:250] == [0.0] * 250
    tenths = Counter(int(wait - 0.5) for wait in waits[250:])
    assert sorted(tenths) == list(range(11))
    assert max(tenths[second] for second in range(10)) < 2 * 50
    assert 200 < tenths[10] < 300, "the last third, which the third of three reports spreads"
    clock.now += 5.0
    conditions = [pace.seconds_until_due(key, Urgency.SOON) for key in keys]
    assert 200 < sum(wait == 0.0 for wait in conditions) < 600, "what reports change is spread alike"
    clock.now += 5.5
    assert max(pace.seconds_until_due(key, Urgency.SOON) for key in keys) <= 0.0


def test_a_report_that_came_while_the_status_was_written_waits_from_then_on():
    clock = Clock()
    pace = StatusPace(Settings(), clock)
    key = RunKey("research", "speeches", "1")
    assert pace.report(key) == 0.0
    clock.now += 5.0
    pace.report(key)
    pace.settle(key, gathered_at=clock.now - 1.0, was_written=True)
    assert pace.seconds_until_due(key, Urgency.PROGRESS) == 10.5
    clock.now += 5.0
    pace.report(key)
    pace.settle(key, gathered_at=clock.now, was_written=True)
    assert pace.seconds_until_due(key, Urgency.PROGRESS) == 10.0  # nothing unwritten is known


def test_ends_are_written_at_once_and_what_is_unchanged_waits_for_nothing():
    pace = StatusPace(Settings(), Clock())
    key = RunKey("research", "speeches", "1")
    pace.settle(key, 1_000.0, was_written=True)
    assert pace.seconds_until_due(key, Urgency.NOW) == 0.0
    assert pace.seconds_until_due(key, Urgency.SOON) == 2.0
    pace.forget(key)
    assert pace.seconds_until_due(key, Urgency.PROGRESS) == 0.0
