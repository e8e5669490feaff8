"""Somebody deletes the Service or the plan from under a run: both are back before anybody misses them."""

import json

import pytest

from tests.support.fake_nodes import Life, ordinary_life, place_of
from tests.support.operator_harness import NAMESPACE, play, run_document
from trainyard_operator.cluster import CONFIG_MAPS, RUNS, SERVICES
from trainyard_operator.errors import ForbiddenError

HEALED_SECONDS = 1.0
OBJECTS = {"services": SERVICES, "configmaps": CONFIG_MAPS}


def goes_on(stage):
    """A stage that does not end; the rest of the run is ordinary."""

    def life(pod):
        return Life(run_seconds=10_000) if place_of(pod)[0] == stage else ordinary_life(pod)

    return life


def only(world, resource):
    """The one object of a kind."""
    (found,) = world.cluster.objects(resource)
    return found


def erase(world, resource):
    world.cluster.erase(resource, NAMESPACE, only(world, resource)["metadata"]["name"])


def content(stored):
    """What an object is, apart from when it was made."""
    kept = {key: stored["metadata"][key] for key in ("name", "labels", "ownerReferences")}
    return kept | {key: value for key, value in stored.items() if key != "metadata"}


@pytest.mark.parametrize("stage", ["prepare", "train"])
@pytest.mark.parametrize("plural", OBJECTS)
def test_a_deleted_object_is_made_again_as_it_was_and_nothing_else_is_written(stage, plural):
    async def scenario(world):
        world.create()
        await world.after(60)
        before = content(only(world, OBJECTS[plural]))
        world.cluster.calls.clear()
        erase(world, OBJECTS[plural])
        await world.after(HEALED_SECONDS)
        assert content(only(world, OBJECTS[plural])) == before
        assert world.cluster.writes(but=()) == {plural: 1}
        world.cluster.calls.clear()
        await world.after(600)
        assert world.cluster.calls == []

    play(scenario, life_of=goes_on(stage))


def test_export_needs_the_plan_and_no_service():
    async def scenario(world):
        world.create()
        while not world.pods("export"):
            await world.after(1)
        erase(world, SERVICES)
        erase(world, CONFIG_MAPS)
        await world.after(HEALED_SECONDS)
        assert (len(world.cluster.objects(SERVICES)), len(world.cluster.objects(CONFIG_MAPS))) == (0, 1)

    play(scenario, life_of=goes_on("export"))


def test_what_was_deleted_while_no_operator_was_there_is_made_again_by_the_next_one():
    async def scenario(world):
        world.create()
        await world.after(60)
        watchers, world.cluster.watchers = world.cluster.watchers, []
        erase(world, SERVICES)
        erase(world, CONFIG_MAPS)
        world.cluster.watchers = watchers
        await world.after(60)
        assert world.cluster.objects(SERVICES) == []
        await world.operator.intake.resync(world.cluster, ())
        await world.after(HEALED_SECONDS)
        assert (len(world.cluster.objects(SERVICES)), len(world.cluster.objects(CONFIG_MAPS))) == (1, 1)

    play(scenario, life_of=goes_on("train"))


def test_the_objects_of_a_run_that_is_going_are_not_made_again():
    async def scenario(world):
        world.create()
        await world.after(60)
        # The garbage collector is faster than the watch of the runs.
        blind = world.operator.intake.run_event
        world.operator.intake.run_event = lambda kind, raw: None
        world.cluster.change(
            RUNS,
            NAMESPACE,
            "speeches",
            lambda run: run["metadata"].update(deletionTimestamp="2027-01-15T09:00:00Z"),
        )
        erase(world, SERVICES)
        await world.after(60)
        assert world.cluster.objects(SERVICES) == []
        world.cluster.erase(RUNS, NAMESPACE, "speeches")
        await world.after(60)
        assert world.cluster.objects(CONFIG_MAPS) == []
        world.operator.intake.run_event = blind

    play(scenario, life_of=goes_on("train"))


def test_a_refused_service_is_told_and_tried_again_while_training_goes_on():
    async def scenario(world):
        world.create()
        await world.after(60)
        refused = True

        def fault(call, committed):
            if refused and not committed and (call.verb, call.resource) == ("apply", "services"):
                raise ForbiddenError('services "x" is forbidden: exceeded quota: team')

        world.cluster.fault = fault
        erase(world, SERVICES)
        await world.after(30)
        assert world.condition("Admitted")[:2] == ("False", "QuotaExceeded")
        assert world.status().phase == "Running"
        assert len(world.status().attempts) == 1
        refused = False
        await world.after(70)
        assert len(world.cluster.objects(SERVICES)) == 1
        assert world.condition("Admitted")[0] == "True"

    play(scenario, life_of=goes_on("train"))


def test_the_plan_of_a_chained_run_keeps_its_model_when_it_is_made_again():
    def life(pod):
        is_second = pod["metadata"]["labels"]["trainyard.dev/run"] == "student"
        return Life(run_seconds=10_000) if is_second and place_of(pod)[0] == "train" else ordinary_life(pod)

    async def scenario(world):
        world.create(run_document("teacher"))
        document = run_document("student")
        document["spec"]["model"] = {"fromRun": {"name": "teacher"}}
        del document["spec"]["tokenizer"]
        world.create(document)
        while not world.pods("train", "student"):
            await world.after(5)

        def plans():
            return [
                stored
                for stored in world.cluster.objects(CONFIG_MAPS)
                if "student" in stored["metadata"]["name"]
            ]

        (before,) = plans()
        world.cluster.erase(CONFIG_MAPS, NAMESPACE, before["metadata"]["name"])
        await world.after(HEALED_SECONDS)
        (after,) = plans()
        assert content(after) == content(before)
        assert (
            json.loads(after["data"]["plan.json"])["paths"]["baseModel"] == "file:///data/runs/speeches/model"
        )

    play(scenario, life_of=life)
