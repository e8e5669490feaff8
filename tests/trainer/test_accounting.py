"""Where the time of a run went."""

import pytest

from trainyard_api.progress import EventRecord, HistoryRecord
from trainyard_trainer.accounting import account


def steps(*pairs):
    return [HistoryRecord(step=step, time=0.0, loss=1.0, step_seconds=seconds) for step, seconds in pairs]


def events(*rows):
    """Rows of time, type, stage and attempt."""
    return [
        EventRecord(time=time, type=kind, stage=stage, attempt=attempt) for time, kind, stage, attempt in rows
    ]


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


FIRST = [(5, "StageStarted", "Train", 0), (14, "Startup", "Train", 0)]
FAULT = [*FIRST, (40, "AttemptFailed", "Train", 0), (40, "Restarting", "", 0)]
REUSED = [(42, "StageStarted", "Prepare", 1), (43, "StageFinished", "Prepare", 1)]
DAY = 86_400


@pytest.mark.parametrize(
    ("happened", "startup", "restart"),
    [
        ([], 0, 0),
        (FIRST, 0, 0),
        ([(0, "StageStarted", "Prepare", 0), (5, "StageFinished", "Prepare", 0)], 0, 0),
        ([*FIRST, (90, "StageFinished", "Train", 0)], 9, 0),
        ([FIRST[0], (90, "StageFinished", "Train", 0)], 85, 0),
        ([*FIRST, (40, "AttemptFailed", "Train", 0)], 9, 0),
        (
            [
                *FAULT,
                *REUSED,
                (43, "StageStarted", "Train", 1),
                (55, "Startup", "Train", 1),
                (90, "StageFinished", "Train", 1),
            ],
            9,
            15,
        ),
        (
            [
                *FAULT,
                (43, "StageStarted", "Train", 1),
                (50, "AttemptFailed", "Train", 1),
                (50, "Restarting", "", 1),
                (52, "StageStarted", "Train", 2),
                (65, "Startup", "Train", 2),
                (90, "StageFinished", "Train", 2),
            ],
            9,
            25,
        ),
        (
            [
                (0, "StageStarted", "Prepare", 0),
                (20, "AttemptFailed", "Prepare", 0),
                (20, "Restarting", "", 0),
                (22, "StageStarted", "Prepare", 1),
                (60, "StageFinished", "Prepare", 1),
                (60, "StageStarted", "Train", 1),
                (67, "Startup", "Train", 1),
                (90, "StageFinished", "Train", 1),
            ],
            7,
            2,
        ),
        ([*FAULT, *REUSED[:1], (43, "AttemptStopped", "Prepare", 1)], 9, 3),
        (
            [
                *FIRST,
                (40, "AttemptStopped", "Train", 0),
                (DAY, "StageStarted", "Train", 1),
                (DAY + 8, "Startup", "Train", 1),
                (DAY + 50, "StageFinished", "Train", 1),
            ],
            17,
            0,
        ),
        (
            [
                *FAULT,
                (DAY, "StageStarted", "Train", 2),
                (DAY + 8, "Startup", "Train", 2),
                (DAY + 50, "StageFinished", "Train", 2),
            ],
            17,
            0,
        ),
        (
            [
                *FIRST,
                (40, "AttemptFailed", "Train", 0),
                (DAY, "StageStarted", "Train", 1),
                (DAY + 8, "Startup", "Train", 1),
                (DAY + 50, "StageFinished", "Train", 1),
            ],
            17,
            0,
        ),
        (
            [
                *FIRST,
                (DAY, "StageStarted", "Train", 1),
                (DAY + 8, "Startup", "Train", 1),
                (DAY + 50, "StageFinished", "Train", 1),
            ],
            8,
            0,
        ),
    ],
    ids=[
        "nothing",
        "a start of which the end is open",
        "preparation works at once",
        "a first start",
        "an end without a step",
        "a fault after the first start",
        "the way back from a fault",
        "two faults in a row are one way back",
        "the way back to preparation, and a first start of training",
        "stopped on the way back",
        "a day between stop and start is nobody's loss",
        "a day after a stop in the pause before a restart",
        "a failed run that a person starts again",
        "a runner that was killed",
    ],
)
def test_a_start_after_a_fault_is_lost_from_the_fault_on(happened, startup, restart):
    lost = account([], events(*happened)).lost_seconds
    assert (lost.startup, lost.restart) == (startup, restart)
