"""Deadlines of every kind, and what they count."""

import pytest

from tests.support.fake_nodes import Life, ordinary_life, place_of
from tests.support.operator_harness import crash_at, play, run_document

ACCELERATOR = {"resourceName": "nvidia.com/gpu", "count": 1}


def train_life(**life):
    def chosen(pod):
        return Life(**life) if place_of(pod)[0] == "train" else ordinary_life(pod)

    return chosen


def test_the_active_deadline_ends_the_run_and_lets_it_save():
    async def scenario(world):
        world.create(run_document(activeDeadlineSeconds=60))
        await world.after(59)
        assert world.status().phase == "Running"
        await world.after(10)
        assert world.status().phase == "Failed"
        assert world.condition("Failed")[:2] == ("True", "DeadlineExceeded")
        graces = [pod["spec"]["terminationGracePeriodSeconds"] for pod in world.pods("train")]
        assert all(grace == 120 for grace in graces)
        await world.after(10)
        assert world.pods("train") == []
        assert world.status().attempts[-1].failure.reason == "DeadlineExceeded"

    play(scenario, life_of=train_life(run_seconds=None))


def test_the_active_deadline_adds_up_over_suspensions_and_does_not_count_them():
    async def scenario(world):
        world.create(run_document(activeDeadlineSeconds=100))
        await world.after(60)
        world.edit(suspend=True)
        await world.after(1_000)
        assert world.status().phase == "Suspended"
        world.edit(suspend=False)
        await world.after(25)
        assert world.status().phase == "Running"
        await world.after(30)
        assert world.status().phase == "Failed"

    play(scenario, life_of=train_life(run_seconds=None))


def test_waiting_for_nodes_is_not_active_time():
    async def scenario(world):
        world.create(run_document(activeDeadlineSeconds=60))
        await world.after(1_000)
        assert world.status().phase == "Pending"

    def life(pod):
        return Life(unschedulable="no room")

    play(scenario, life_of=life)


def test_waiting_for_nodes_between_two_stages_is_not_active_time():
    async def scenario(world):
        world.create(run_document(activeDeadlineSeconds=60, workers={"accelerator": ACCELERATOR}))
        await world.after(1_000)
        assert world.condition("PodsScheduled")[1] == "Unschedulable"
        assert world.status().phase == "Pending"
        account = world.status().accounting
        assert (account.active_seconds, account.accelerator_seconds) == (pytest.approx(20, abs=1), 0)

    play(scenario, life_of=train_life(unschedulable="no room"))


def test_a_queue_that_takes_too_long_ends_the_run():
    async def scenario(world):
        world.create(run_document(queueDeadlineSeconds=50))
        await world.after(65)
        assert world.condition("PodsScheduled")[1] == "Unschedulable"
        await world.after(10)
        assert world.condition("Failed")[:2] == ("True", "QueueDeadlineExceeded")
        assert "queueDeadlineSeconds, 50" in world.condition("Failed")[2]
        assert world.pods("train") == []

    play(scenario, life_of=train_life(unschedulable="no room"))


def test_a_start_up_that_takes_too_long_ends_the_run():
    async def scenario(world):
        world.create(run_document(startupDeadlineSeconds=50))
        await world.after(65)
        assert world.condition("Running")[1] == "ErrImagePull"
        await world.after(15)
        assert world.condition("Failed")[:2] == ("True", "StartupDeadlineExceeded")

    play(scenario, life_of=train_life(waiting=("ErrImagePull", "no such image")))


def test_pods_that_run_without_a_first_step_have_not_started():
    async def scenario(world):
        world.create(run_document(startupDeadlineSeconds=50))
        await world.after(90)
        assert world.condition("Failed")[1] == "StartupDeadlineExceeded"

    play(scenario, life_of=train_life(run_seconds=None))


def test_a_first_step_in_time_satisfies_the_start_up_deadline():
    async def scenario(world):
        key = world.create(run_document(startupDeadlineSeconds=50))
        await world.after(60)
        world.report(key, attempt=0, step=1)
        await world.after(500)
        assert world.status().phase == "Running"

    play(scenario, life_of=train_life(run_seconds=None))


def test_steps_that_stop_coming_are_a_fault():
    async def scenario(world):
        key = world.create(run_document(stallTimeoutSeconds=30))
        await world.after(40)
        for step in range(1, 20):
            world.report(key, attempt=0, step=step, checkpoint_step=10)
            await world.after(5)
        assert len(world.status().attempts) == 1
        for _ in range(8):
            world.report(key, attempt=0, step=19)
            await world.after(5)
        status = world.status()
        assert status.attempts[0].failure.reason == "Stalled"
        assert status.restarts == 1
        assert status.phase == "Running"
        assert status.attempts[1].start_checkpoint_step == 10

    play(scenario, life_of=train_life(run_seconds=None))


def test_a_stall_is_not_looked_for_before_the_first_step():
    async def scenario(world):
        world.create(run_document(stallTimeoutSeconds=30))
        await world.after(500)
        assert len(world.status().attempts) == 1

    play(scenario, life_of=train_life(run_seconds=None))


def test_a_deadline_that_is_set_later_counts_from_the_start():
    async def scenario(world):
        world.create()
        await world.after(100)
        world.edit(activeDeadlineSeconds=50)
        await world.after(5)
        assert world.condition("Failed")[1] == "DeadlineExceeded"

    play(scenario, life_of=train_life(run_seconds=None))


def die(world, number=1):
    """The operator's process ends at its next request, for which a change of the run is the reason."""
    world.cluster.fault = crash_at(1, committed=False)
    world.edit(ttlSecondsAfterFinished=10_000 + number)


def test_a_new_operator_does_not_take_training_that_went_on_for_a_start_up_that_takes_too_long():
    async def scenario(world):
        key = world.create(run_document(startupDeadlineSeconds=50))
        await world.after(40)
        for step in range(1, 20):
            world.report(key, attempt=0, step=step)
            await world.after(10)
        die(world)
        world.report(key, attempt=0, step=20)
        await world.after(30)
        assert world.starts == 2
        await world.after(300)
        assert world.status().phase == "Running"

    play(scenario, life_of=train_life(run_seconds=None))


def test_a_stall_is_noticed_in_time_although_the_operator_starts_again_in_between():
    async def scenario(world):
        key = world.create(run_document(stallTimeoutSeconds=100))
        await world.after(40)
        for step in (1, 2):
            world.report(key, attempt=0, step=step)
            await world.after(12)
        for number in range(6):
            await world.after(10)
            die(world, number)
            world.report(key, attempt=0, step=2)
        assert world.starts > 2
        await world.after(45)
        status = world.status()
        assert status.attempts[0].failure.reason == "Stalled"
        assert status.accounting.lost_seconds.stall == pytest.approx(100, abs=12)

    play(scenario, life_of=train_life(run_seconds=None))
