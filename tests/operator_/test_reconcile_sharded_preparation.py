"""Preparation by several nodes is an Indexed Job; everything else is as with one."""

import pytest

from tests.support.fake_nodes import Life, ordinary_life, place_of
from tests.support.operator_harness import NAMESPACE, play
from trainyard_operator.cluster import JOBS

pytestmark = pytest.mark.usefixtures("two_shards")


def failing_once(index, **life):
    """The first pod of an index fails."""
    failed = set()

    def chosen(pod):
        stage, _, place = place_of(pod)
        if (stage, place) == ("prepare", index) and index not in failed:
            failed.add(index)
            return Life(run_seconds=3, **life)
        return ordinary_life(pod)

    return chosen


async def to_the_end(world):
    world.create()
    await world.after(120)


def test_all_shards_are_prepared_by_one_job_before_training_starts():
    world = play(to_the_end)
    assert world.status().phase == "Succeeded"
    assert len(world.cluster.objects(JOBS)) == 1
    assert [len(world.pods(stage)) for stage in ("prepare", "train", "export")] == [2, 2, 1]
    assert world.cluster.writes() == {"configmaps": 1, "services": 1, "jobs": 1, "trainingruns": 5}


def test_a_shard_that_fails_is_repeated_alone_and_costs_no_attempt():
    world = play(to_the_end, life_of=failing_once(1, exit_code=1))
    assert world.status().phase == "Succeeded"
    assert [attempt.outcome for attempt in world.status().attempts] == ["Succeeded"]
    assert [place_of(pod)[2] for pod in world.pods("prepare")].count(0) == 1
    assert [place_of(pod)[2] for pod in world.pods("prepare")].count(1) == 2


def test_a_permanent_exit_code_of_one_shard_ends_the_run():
    world = play(to_the_end, life_of=failing_once(1, exit_code=65))
    assert world.status().phase == "Failed"
    assert world.status().attempts[0].failure.exit_code == 65
    assert world.pods("train") == []


def test_suspending_removes_the_job_and_resuming_prepares_again():
    async def scenario(world):
        world.create()
        await world.after(5)
        world.edit(suspend=True)
        await world.after(10)
        assert world.status().phase == "Suspended"
        assert world.cluster.objects(JOBS) == []
        assert world.pods() == []
        world.edit(suspend=False)
        await world.after(80)

    assert play(scenario).status().phase == "Succeeded"


def test_a_job_that_a_person_deletes_is_a_fault():
    async def scenario(world):
        world.create()
        await world.after(5)
        (job,) = world.cluster.objects(JOBS)
        world.cluster.erase(JOBS, NAMESPACE, job["metadata"]["name"])
        await world.after(100)
        assert world.status().attempts[0].failure.reason == "PodDeleted"

    assert play(scenario).status().phase == "Succeeded"
