"""Whole lives of runs: from creation to their end, with stops, resumes and changes on the way."""

import json
from collections import Counter

from tests.support.fake_nodes import Life, ordinary_life, place_of
from tests.support.operator_harness import NAMESPACE, play, run_document
from trainyard_operator.cluster import CONFIG_MAPS, EVENTS, JOBS, PODS, RUNS, SERVICES


def reasons(world):
    return Counter(event["reason"] for event in world.cluster.objects(EVENTS))


def test_a_run_prepares_trains_exports_and_completes():
    async def scenario(world):
        world.create()
        await world.after(80)

    world = play(scenario)
    status = world.status()
    assert status.phase == "Succeeded"
    assert status.model.uri == "file:///data/runs/speeches/model"
    assert [attempt.outcome for attempt in status.attempts] == ["Succeeded"]
    assert status.prepared_at is not None
    assert [len(world.pods(stage)) for stage in ("prepare", "train", "export")] == [1, 2, 1]


def test_a_run_costs_seven_writes_beside_its_pods_and_events():
    async def scenario(world):
        world.create()
        await world.after(80)

    world = play(scenario)
    assert world.cluster.writes() == {"configmaps": 1, "services": 1, "trainingruns": 5}


def test_nothing_is_written_while_a_run_only_runs():
    def life(pod):
        return Life(run_seconds=None)

    async def scenario(world):
        world.create()
        await world.after(30)
        before = len(world.cluster.calls)
        await world.after(3_600)
        assert world.cluster.calls[before:] == []

    play(scenario, life_of=life)


def test_the_pods_of_a_gang_are_created_at_once():
    async def scenario(world):
        world.cluster.latency_seconds = 0.5
        world.create(run_document(workers={"nodes": 8}))
        await world.after(80)

    world = play(scenario)
    created = {pod["metadata"]["creationTimestamp"] for pod in world.pods("train")}
    assert len(world.pods("train")) == 8
    assert len(created) == 1


def test_the_first_objects_need_one_look_at_the_claim_and_nothing_else_before_them():
    async def scenario(world):
        world.create()
        await world.after(1)

    world = play(scenario)
    calls = [(call.verb, call.resource) for call in world.cluster.calls]
    first = calls.index(("create", "pods"))
    assert [call for call in calls[:first] if call[0] != "list"] == [
        ("get", "persistentvolumeclaims"),
        ("create", "configmaps"),
        ("apply", "services"),
    ]


def test_events_tell_the_story_once():
    async def scenario(world):
        world.create()
        await world.after(80)

    assert reasons(play(scenario)) == {"StageStarted": 3, "RunSucceeded": 1}


def test_a_finished_run_never_starts_again():
    async def scenario(world):
        world.create()
        await world.after(80)
        for pod in world.pods():
            world.cluster.erase(PODS, NAMESPACE, pod["metadata"]["name"])
        world.edit(workers={"nodes": 4}, suspend=True)
        await world.after(10)
        world.edit(suspend=False)
        world.operator.intake.queue_everything()
        await world.after(600)

    world = play(scenario)
    assert world.status().phase == "Succeeded"
    assert world.pods() == []


def test_a_finished_run_is_deleted_after_its_time_to_live_with_all_it_owns():
    async def scenario(world):
        world.create(run_document(ttlSecondsAfterFinished=100))
        await world.after(80)
        assert world.status().phase == "Succeeded"
        await world.after(60)
        assert len(world.cluster.objects(RUNS)) == 1
        await world.after(60)

    world = play(scenario)
    for resource in (RUNS, PODS, JOBS, SERVICES, CONFIG_MAPS):
        assert world.cluster.objects(resource) == []


def test_suspend_saves_and_waits_and_resume_goes_on_without_preparing_again():
    def life(pod):
        stage, attempt, _ = place_of(pod)
        first = Life(run_seconds=None, stop_seconds=5)
        return first if (stage, attempt) == ("train", 0) else ordinary_life(pod)

    async def scenario(world):
        world.create()
        await world.after(40)
        assert world.status().phase == "Running"
        world.edit(suspend=True)
        await world.after(3)
        assert world.condition("Running")[:2] == ("False", "Suspending")
        assert world.condition("Suspended")[0] == ""
        await world.after(10)
        assert world.status().phase == "Suspended"
        assert world.pods("train") == []
        await world.after(600)
        assert world.pods("train") == []
        world.edit(suspend=False)
        await world.after(60)

    world = play(scenario, life_of=life)
    status = world.status()
    assert status.phase == "Succeeded"
    assert [attempt.outcome for attempt in status.attempts] == ["Preempted", "Succeeded"]
    assert status.restarts == 0
    assert world.condition("Suspended")[:2] == ("False", "Resumed")
    assert len(world.pods("prepare")) == 1


def test_a_run_that_is_created_suspended_starts_nothing():
    async def scenario(world):
        world.create(run_document(suspend=True))
        await world.after(60)
        assert world.status().phase == "Suspended"
        assert world.pods() == []
        world.edit(suspend=False)
        await world.after(80)

    assert play(scenario).status().phase == "Succeeded"


def test_suspending_during_preparation_removes_its_pod_and_prepares_again():
    async def scenario(world):
        world.create()
        await world.after(5)
        world.edit(suspend=True)
        await world.after(10)
        assert world.status().phase == "Suspended"
        assert world.pods() == []
        world.edit(suspend=False)
        await world.after(80)

    assert play(scenario).status().phase == "Succeeded"


def test_pods_that_ignore_the_stop_do_not_hold_up_suspension_for_ever():
    def life(pod):
        return (
            Life(run_seconds=None, stop_seconds=100_000)
            if place_of(pod)[0] == "train"
            else ordinary_life(pod)
        )

    async def scenario(world):
        world.create()
        await world.after(40)
        world.edit(suspend=True)
        await world.after(100)
        assert world.status().phase != "Suspended"
        await world.after(40)

    assert play(scenario, life_of=life).status().phase == "Suspended"


def test_a_changed_number_of_nodes_restarts_training_in_order_with_the_new_number():
    def life(pod):
        stage, attempt, _ = place_of(pod)
        first = Life(run_seconds=None, stop_seconds=5)
        return first if (stage, attempt) == ("train", 0) else ordinary_life(pod)

    async def scenario(world):
        world.create()
        await world.after(40)
        world.edit(workers={"nodes": 4})
        await world.after(3)
        assert world.condition("Running")[1] == "NodesChanged"
        await world.after(10)
        assert len(world.pods("train")) == 4
        await world.after(60)

    world = play(scenario, life_of=life)
    assert world.status().phase == "Succeeded"
    assert [attempt.nodes for attempt in world.status().attempts] == [2, 4]
    assert world.status().restarts == 0


def test_nodes_changed_during_preparation_take_effect_when_it_is_done():
    async def scenario(world):
        world.create()
        await world.after(5)
        world.edit(workers={"nodes": 4})
        await world.after(20)

    world = play(scenario)
    assert len(world.pods("train")) == 4
    assert len(world.pods("prepare")) == 1


def test_a_run_of_the_same_name_starts_afresh_and_leaves_the_old_one_alone():
    async def scenario(world):
        old = world.create()
        await world.after(40)
        world.delete()
        new = world.create()
        assert old.uid != new.uid
        await world.after(90)

    world = play(scenario)
    assert world.status().phase == "Succeeded"
    owners = {
        owner["uid"]
        for resource in (CONFIG_MAPS, SERVICES, JOBS)
        for stored in world.cluster.objects(resource)
        for owner in stored["metadata"]["ownerReferences"]
    }
    assert owners == {world.cluster.stored(RUNS, NAMESPACE, "speeches")["metadata"]["uid"]}


def test_a_deleted_run_leaves_nothing_at_the_api_server_and_nothing_in_memory():
    async def scenario(world):
        key = world.create()
        await world.after(40)
        world.report(key, attempt=0, step=5)
        world.delete()
        await world.after(60)
        assert len(world.operator.store) == 0
        assert list(world.operator.store.pods(key)) == []

    world = play(scenario)
    for resource in (RUNS, PODS, JOBS, SERVICES, CONFIG_MAPS):
        assert world.cluster.objects(resource) == []


def test_progress_reaches_the_status_at_most_every_ten_seconds():
    def life(pod):
        return Life(run_seconds=None) if place_of(pod)[0] == "train" else ordinary_life(pod)

    async def scenario(world):
        key = world.create()
        await world.after(40)
        before = world.cluster.writes()["trainingruns"]
        for step in range(1, 101):
            world.report(key, attempt=0, step=step, checkpoint_step=step // 10 * 10 or None)
            await world.after(1)
        assert world.status().progress.step >= 90
        assert world.status().checkpoint.step >= 90
        assert world.condition("Progressing")[:2] == ("True", "StepsReported")
        assert 9 <= world.cluster.writes()["trainingruns"] - before <= 12

    play(scenario, life_of=life)


def test_a_report_of_an_attempt_that_is_over_changes_no_progress():
    def life(pod):
        return Life(run_seconds=None) if place_of(pod)[0] == "train" else ordinary_life(pod)

    async def scenario(world):
        key = world.create()
        await world.after(40)
        world.report(key, attempt=7, step=5)
        await world.after(20)
        assert world.status().progress is None

    play(scenario, life_of=life)


def test_a_model_description_that_cannot_be_read_still_completes_the_run():
    def life(pod):
        return Life(message="no JSON")

    async def scenario(world):
        world.create()
        await world.after(80)

    world = play(scenario, life_of=life)
    assert world.status().phase == "Succeeded"
    assert world.status().model is None


def test_objects_that_somebody_deleted_are_made_again_for_the_next_stage():
    async def scenario(world):
        world.create()
        await world.after(10)
        for resource in (SERVICES, CONFIG_MAPS):
            for stored in world.cluster.objects(resource):
                world.cluster.erase(resource, NAMESPACE, stored["metadata"]["name"])
        await world.after(20)
        assert len(world.cluster.objects(SERVICES)) == 1
        (plan,) = world.cluster.objects(CONFIG_MAPS)
        assert json.loads(plan["data"]["plan.json"])["attempt"] == 0

    play(scenario)
