"""A spec that becomes invalid while an attempt is open: what is at work is neither stopped nor forgotten."""

import pytest

from tests.support.fake_nodes import Life, ordinary_life, place_of
from tests.support.operator_harness import NAMESPACE, play, run_document
from trainyard_operator.cluster import RUNS
from trainyard_operator.errors import ForbiddenError

UNREADABLE = {"queueName": 7}


def train_life(**life):
    def chosen(pod):
        return Life(**life) if place_of(pod)[0] == "train" else ordinary_life(pod)

    return chosen


def quota(world, num_pods):
    """Let in so many pods of training and no more."""

    def fault(call, committed):
        is_asked = not committed and (call.verb, call.resource) == ("create", "pods")
        if is_asked and len(world.pods("train")) >= num_pods:
            raise ForbiddenError('pods "x" is forbidden: exceeded quota: team')

    world.cluster.fault = fault


def restore(world, document):
    """Undo every edit."""
    world.cluster.change(RUNS, NAMESPACE, "speeches", lambda stored: stored.update(spec=document["spec"]))


@pytest.mark.parametrize(
    "edit",
    [{"training": {"globalBatchSize": 100}, "workers": {"nodes": 3}}, {"scheduling": UNREADABLE}],
    ids=["it can be read", "it cannot even be read"],
)
def test_a_gang_that_runs_goes_on_and_its_failure_is_told(edit):
    async def scenario(world):
        world.create()
        await world.after(30)
        world.edit(**edit)
        await world.after(30)
        assert world.condition("Validated")[:2] == ("False", "SpecInvalid")
        assert world.status().phase == "Running"
        assert len(world.pods("train")) == 2
        world.nodes.end_pod(world.pods("train")[0], 137)
        await world.after(10)
        assert [attempt.outcome for attempt in world.status().attempts] == ["Failed"]
        assert world.condition("Running")[0] == "False"
        assert world.status().phase == "Failed"
        assert world.pods("train") == []
        restore(world, run_document())
        await world.after(30)
        assert world.status().phase == "Running"
        assert [attempt.outcome for attempt in world.status().attempts] == ["Failed", "Running"]

    play(scenario, life_of=train_life(run_seconds=None))


@pytest.mark.parametrize(
    "edit",
    [{"training": {"globalBatchSize": 100}, "workers": {"nodes": 3}}, {"scheduling": UNREADABLE}],
    ids=["it can be read", "it cannot even be read"],
)
def test_a_part_of_a_gang_makes_room_when_the_rest_cannot_be_made(edit):
    document = run_document(workers={"nodes": 4})

    async def scenario(world):
        quota(world, 2)
        world.create(document)
        await world.after(40)
        assert len(world.pods("train")) == 2
        world.edit(**edit)
        await world.after(20)
        assert len(world.pods("train")) == 2
        await world.after(40)
        assert world.pods("train") == []
        (attempt,) = world.status().attempts
        assert (attempt.outcome, attempt.failure.reason) == ("Preempted", "SpecInvalid")
        assert "2 of 4 pods" in attempt.failure.message
        assert world.condition("Running")[:2] == ("False", "SpecInvalid")
        restore(world, document)
        world.cluster.fault = lambda call, committed: None
        await world.after(100)
        assert world.status().phase == "Succeeded"
        assert (world.status().restarts, world.status().faults_since_checkpoint) == (0, 0)

    def life(pod):
        return Life(run_seconds=None) if place_of(pod)[:2] == ("train", 0) else ordinary_life(pod)

    play(scenario, life_of=life)


def test_a_stage_that_cannot_be_made_is_not_told_as_running():
    async def scenario(world):
        world.create()
        await world.after(5)
        world.edit(training={"globalBatchSize": 100}, workers={"nodes": 3})
        await world.after(40)
        assert world.status().attempts[-1].stage == "Train"
        assert world.condition("Running") == ("False", "PodsPending", "Train: 0 of 2 pods run")
        assert world.status().phase == "Failed"
        restore(world, run_document())
        await world.after(100)
        assert world.status().phase == "Succeeded"

    play(scenario)


RENAMED = {
    "deepspeed.config": (
        {"deepspeed": {"config": {"wall_clock_breakdown": True}}},
        {"deepspeed": {"config": {"memory_breakdown": True}}},
    ),
    "workers.podTemplate.metadata.labels": (
        {"workers": {"podTemplate": {"metadata": {"labels": {"team": "speech"}}}}},
        {"workers": {"podTemplate": {"metadata": {"labels": {"group": "speech"}}}}},
    ),
}


@pytest.mark.parametrize("place", RENAMED)
def test_a_renamed_key_that_the_api_server_does_not_notice_starts_no_attempt(place):
    before, after = RENAMED[place]
    document = run_document(**before)

    async def scenario(world):
        world.create(document)
        await world.after(30)
        world.edit(**after)
        await world.after(10)
        status, reason, message = world.condition("Validated")
        assert (status, reason) == ("False", "SpecInvalid")
        assert f"spec.{place}." in message
        assert "changed after the run had begun" in message
        assert world.status().phase == "Running"
        world.nodes.end_pod(world.pods("train")[0], 137)
        await world.after(60)
        assert [attempt.outcome for attempt in world.status().attempts] == ["Failed"]
        restore(world, document)
        await world.after(60)
        assert world.condition("Validated")[:2] == ("True", "SpecValid")
        assert [attempt.outcome for attempt in world.status().attempts] == ["Failed", "Running"]

    play(scenario, life_of=train_life(run_seconds=None))


def test_a_change_that_is_allowed_costs_one_look_at_the_plan_however_many_passes_follow():
    async def scenario(world):
        key = world.create()
        await world.after(30)
        world.edit(training={"budget": {"steps": 300}})
        start = len(world.cluster.calls)
        for step in (10, 20, 30):
            world.report(key, attempt=0, step=step)
            await world.after(20)
        assert world.condition("Validated")[:2] == ("True", "SpecValid")
        read = [call for call in world.cluster.calls[start:] if call.verb == "get"]
        assert [call.resource for call in read] == ["configmaps"]

    play(scenario, life_of=train_life(run_seconds=None))
