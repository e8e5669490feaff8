"""One account, two back ends: the same history loses the same seconds on a cluster and on a laptop."""

from dataclasses import dataclass

import pytest

from trainyard_api.policy.ledger import add_stage
from trainyard_api.progress import EventRecord
from trainyard_api.status import Accounting, Attempt
from trainyard_api.timestamps import format_timestamp
from trainyard_trainer.accounting import account

EPOCH = 1_800_000_000


@dataclass(frozen=True)
class Stage:
    """A stage of an attempt: its name, when it began, made its first step, and ended; and how."""

    name: str
    begun: int
    first_step: int | None
    ended: int
    outcome: str = "Finished"


PREPARED = Stage("Prepare", 0, None, 20)
HISTORIES = {
    "no fault": [[PREPARED, Stage("Train", 20, 32, 90), Stage("Export", 90, None, 95)]],
    "a fault in training": [
        [PREPARED, Stage("Train", 20, 32, 50, "Failed")],
        [Stage("Train", 55, 70, 120), Stage("Export", 120, None, 125)],
    ],
    "faults before the first step": [
        [PREPARED, Stage("Train", 20, None, 50, "Failed")],
        [Stage("Train", 52, None, 60, "Failed")],
        [Stage("Train", 66, 80, 120), Stage("Export", 120, None, 125)],
    ],
    "a fault in preparation": [
        [Stage("Prepare", 0, None, 30, "Failed")],
        [Stage("Prepare", 33, None, 60), Stage("Train", 60, 71, 90), Stage("Export", 90, None, 95)],
    ],
    "a stop in training": [
        [PREPARED, Stage("Train", 20, 32, 50, "Preempted")],
        [Stage("Train", 900, 912, 950), Stage("Export", 950, None, 955)],
    ],
    "a stop before the first step after a fault": [
        [PREPARED, Stage("Train", 20, 32, 50, "Failed")],
        [Stage("Train", 55, None, 60, "Preempted")],
        [Stage("Train", 900, 912, 950), Stage("Export", 950, None, 955)],
    ],
}


def at(seconds):
    return None if seconds is None else format_timestamp(EPOCH + seconds)


def on_a_cluster(history):
    """What the ledger of the operator says, without a queue."""
    total, before = Accounting(), None
    for number, stages in enumerate(history):
        for stage in stages:
            attempt = Attempt(
                number=number,
                started_at=at(stages[0].begun),
                stage=stage.name,
                stage_started_at=at(stage.begun),
                pods_scheduled_at=at(stage.begun),
                pods_running_at=at(stage.begun),
                first_step_at=at(stage.first_step),
            )
            if stage is stages[-1]:
                outcome = "Succeeded" if stage.outcome == "Finished" else stage.outcome
                attempt = attempt.model_copy(update={"finished_at": at(stage.ended), "outcome": outcome})
            total = add_stage(total, attempt, before, ended_at=at(stage.ended), accelerators_per_node=0)
        before = attempt
    return total.lost_seconds


def on_a_laptop(history):
    """What the local runner says of the events that it and its processes would have written."""
    ends = {"Finished": "StageFinished", "Failed": "AttemptFailed", "Preempted": "AttemptStopped"}
    events = []

    def tell(time, kind, stage, attempt):
        events.append(EventRecord(time=EPOCH + time, type=kind, stage=stage, attempt=attempt))

    for number, stages in enumerate(history):
        for stage in stages:
            tell(stage.begun, "StageStarted", stage.name, number)
            if stage.first_step is not None:
                tell(stage.first_step, "Startup", "Train", number)
            tell(stage.ended, ends[stage.outcome], stage.name, number)
            if stage.outcome == "Failed":
                tell(stage.ended, "Restarting", "", number)
    return account([], events).lost_seconds


@pytest.mark.parametrize("name", HISTORIES)
def test_both_back_ends_lose_the_same_seconds(name):
    cluster, laptop = on_a_cluster(HISTORIES[name]), on_a_laptop(HISTORIES[name])
    assert cluster.startup + cluster.restart > 0
    assert (cluster.startup, cluster.restart) == (laptop.startup, laptop.restart)
