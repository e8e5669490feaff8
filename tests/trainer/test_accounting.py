"""Where the time of a run went."""

import pytest

from trainyard_api.progress import EventRecord, HistoryRecord
from trainyard_trainer.accounting import account


def steps(*pairs):
    return [HistoryRecord(step=step, time=0.0, loss=1.0, step_seconds=seconds) for step, seconds in pairs]


def events(*rows):
    return [EventRecord(time=time, type=kind, seconds=seconds) for time, kind, seconds in rows]


@pytest.mark.parametrize(
    ("history", "productive", "recompute"),
    [
        ([], 0.0, 0.0),
        (steps((1, 2.0), (2, 3.0)), 5.0, 0.0),
        (steps((1, 2.0), (2, 3.0), (2, 4.0), (3, 1.0)), 6.0, 4.0),
        (steps((1, 2.0), (1, 2.0), (1, 2.0)), 2.0, 4.0),
    ],
)
def test_the_first_time_that_a_step_was_done_is_productive_and_the_others_are_recomputed(
    history, productive, recompute
):
    evaluation = HistoryRecord(step=3, time=0.0, evaluation_loss=1.0)
    accounting = account([*history, evaluation], [])
    assert accounting.productive_seconds == productive
    assert accounting.lost_seconds.recompute == recompute


@pytest.mark.parametrize(
    ("happened", "startup", "restart"),
    [
        ([], 0.0, 0.0),
        ([(10, "Startup", 9.0)], 9.0, 0.0),
        ([(10, "Startup", 9.0), (20, "Restarting", None), (35, "Startup", 12.0)], 9.0, 15.0),
        (
            [
                (10, "Startup", 9.0),
                (20, "Restarting", None),
                (30, "Restarting", None),
                (45, "Startup", 12.0),
            ],
            9.0,
            25.0,
        ),
        ([(20, "Restarting", None), (30, "Startup", 8.0)], 0.0, 10.0),
        ([(10, "Startup", 9.0), (20, "AttemptStopped", 3.0), (86_400, "Startup", 8.0)], 17.0, 0.0),
        ([(20, "Restarting", None), (21, "AttemptStopped", 3.0), (86_400, "Startup", 8.0)], 8.0, 0.0),
        ([(10, "Startup", 9.0), (20, "AttemptFailed", 3.0), (86_400, "Startup", 8.0)], 17.0, 0.0),
    ],
    ids=[
        "nothing",
        "first start",
        "a fault",
        "two faults in a row are one way back",
        "a fault before the first step",
        "a day between stop and start is nobody's loss",
        "stopped on the way back",
        "a failed run that a person starts again",
    ],
)
def test_a_start_after_a_fault_is_lost_from_the_fault_on(happened, startup, restart):
    lost = account([], events(*happened)).lost_seconds
    assert (lost.startup, lost.restart) == (startup, restart)
