"""When an attempt told of its first and its last optimizer step, and what follows for the account."""

import pytest

from tests.support.fake_nodes import Life, ordinary_life, place_of
from tests.support.operator_harness import crash_at, play, run_document
from trainyard_api.progress import ProgressReport
from trainyard_operator.keys import RunKey
from trainyard_operator.steps import StepWatch

KEY = RunKey("research", "speeches", "run-1")


def report(attempt, step, stage="Train"):
    progress = {"stage": stage, "step": step, "updatedAt": "2027-01-15T08:00:00Z"}
    return ProgressReport.model_validate({"attempt": attempt, "progress": progress})


@pytest.mark.parametrize(
    ("told", "first", "last"),
    [
        ([], None, None),
        ([(10, report(1, 0))], None, None),
        ([(10, report(1, 5, stage="Prepare"))], None, None),
        ([(10, report(1, 40))], 10, 10),
        ([(10, report(1, 40)), (11, report(1, 41)), (20, report(1, 41))], 10, 11),
        ([(10, report(0, 90)), (60, report(1, 41)), (70, report(1, 42))], 60, 70),
        ([(10, report(1, 40)), (60, report(0, 41))], 10, 10),
    ],
    ids=[
        "nothing",
        "no step yet",
        "another stage",
        "the first step",
        "a step that is repeated",
        "an attempt after another",
        "an old attempt",
    ],
)
def test_the_first_and_the_last_step_of_an_attempt_are_known(told, first, last):
    steps = StepWatch()
    for now, each in told:
        steps.record(KEY, each, float(now))
    assert (steps.first_step_at(KEY, 1), steps.last_step_at(KEY, 1)) == (first, last)


def endless_training(pod):
    return Life(run_seconds=None) if place_of(pod)[0] == "train" else ordinary_life(pod)


@pytest.mark.parametrize("crash", [False, True], ids=["one operator", "another operator"])
def test_the_time_from_a_fault_to_the_next_step_is_told(crash):
    async def scenario(world):
        key = world.create()
        await world.after(42)
        world.report(key, attempt=0, step=1, checkpoint_step=1)
        await world.after(20)
        writes = world.cluster.writes()["trainingruns"]
        assert world.status().attempts[0].first_step_at == "2027-01-15T08:00:42Z"
        if crash:
            world.cluster.fault = crash_at(1, committed=False)
        world.nodes.end_pod(world.pods("train")[0], 137)
        await world.after(30)
        world.cluster.fault = lambda call, committed: None
        for step in range(2, 5):
            world.report(key, attempt=1, step=step)
            await world.after(5)
        world.edit(suspend=True)
        await world.after(30)
        assert [attempt.outcome for attempt in world.status().attempts] == ["Failed", "Preempted"]
        lost = world.status().accounting.lost_seconds
        assert lost.startup == pytest.approx(1 + 42 - 21, abs=1)
        assert lost.restart == pytest.approx(30, abs=2)
        assert world.cluster.writes()["trainingruns"] - writes <= 8

    play(scenario, life_of=endless_training)


def test_an_attempt_that_made_no_step_lost_all_of_its_time():
    async def scenario(world):
        world.create(run_document(startupDeadlineSeconds=50))
        await world.after(90)
        assert world.condition("Failed")[1] == "StartupDeadlineExceeded"
        assert world.status().accounting.lost_seconds.startup == pytest.approx(1 + 50, abs=1)

    play(scenario, life_of=endless_training)
