"""What goes wrong in pods and nodes, and what becomes of the run."""

import json

import pytest

from tests.support.fake_nodes import Life, ordinary_life, place_of
from tests.support.operator_harness import NAMESPACE, play, run_document
from trainyard_operator.cluster import PODS


def exit_record(code, message, rank=1, step=40):
    return json.dumps(
        {
            "rank": rank,
            "exitCode": code,
            "reason": "ProcessFailed",
            "message": message,
            "step": step,
            "time": "2027-01-15T08:00:00Z",
            "logTail": "last words",
        }
    )


def lives(**special):
    """Lives by place, such as train_0_1; every other pod is ordinary."""

    def life(pod):
        stage, attempt, index = place_of(pod)
        return (
            special.get(f"{stage}_{attempt}_{index}")
            or special.get(f"{stage}_{attempt}")
            or ordinary_life(pod)
        )

    return life


def endless(**special):
    """The same, but training runs until it is stopped."""
    ordinary = lives(**special)

    def life(pod):
        found = ordinary(pod)
        return (
            Life(run_seconds=None) if found == ordinary_life(pod) and place_of(pod)[0] == "train" else found
        )

    return life


async def to_the_end(world):
    world.create()
    await world.after(200)


def test_one_killed_pod_restarts_the_whole_gang_and_the_evidence_stays():
    killed = Life(run_seconds=10, exit_code=137, reason="OOMKilled", message="log line 1\nlog line 2")
    world = play(to_the_end, life_of=lives(train_0_1=killed))
    status = world.status()
    assert status.phase == "Succeeded"
    assert status.restarts == 1
    assert [attempt.outcome for attempt in status.attempts] == ["Failed", "Succeeded"]
    failure = status.attempts[0].failure
    assert failure.pod.startswith("speeches-t0-1-")
    assert (failure.node, failure.exit_code, failure.reason) == ("node-1", 137, "OOMKilled")
    assert failure.log_tail == "log line 1\nlog line 2"
    assert {place_of(pod)[1] for pod in world.pods("train")} == {1}


def test_the_pod_that_failed_first_is_named_not_the_one_that_lost_its_peer():
    first = Life(run_seconds=10.0, exit_code=1, message=exit_record(1, "index out of range"))
    second = Life(run_seconds=9.6, exit_code=75, message=exit_record(75, "peer is gone", rank=0))
    world = play(to_the_end, life_of=lives(train_0_0=second, train_0_1=first))
    failure = world.status().attempts[0].failure
    assert failure.pod.startswith("speeches-t0-1-")
    assert failure.rank == 1
    assert failure.message == "index out of range"
    assert failure.log_tail == "last words"


def test_the_next_attempt_starts_within_a_moment_of_a_fault():
    async def scenario(world):
        world.create()
        await world.after(22.5)
        (pod, _) = world.pods("train")
        await world.after(5)
        world.nodes.end_pod(pod, 137)
        await world.after(0.1)
        assert {place_of(pod)[1] for pod in world.pods("train")} == {0, 1}
        await world.after(10)
        assert {place_of(pod)[1] for pod in world.pods("train")} == {1}

    play(scenario, life_of=endless())


@pytest.mark.parametrize(
    ("exit_code", "reason"), [(65, "PermanentFailure"), (1, "Restarting")], ids=["for good", "in a pause"]
)
def test_pods_that_are_gone_are_not_told_as_scheduled(exit_code, reason):
    async def scenario(world):
        world.create()
        await world.after(50)
        status = world.status()
        assert all(attempt.finished_at for attempt in status.attempts)
        assert world.condition("PodsScheduled")[:2] == ("False", reason)

    play(
        scenario, life_of=lives(**{f"train_{n}": Life(run_seconds=6, exit_code=exit_code) for n in range(9)})
    )


def test_the_evidence_is_written_before_the_rest_of_the_gang_is_deleted():
    async def scenario(world):
        world.create()
        await world.after(30)
        del world.cluster.calls[:]
        world.nodes.end_pod(world.pods("train")[0], 1)
        await world.after(5)
        verbs = [call.verb for call in world.cluster.calls]
        assert verbs.index("patch_status") < verbs.index("delete_all")

    play(scenario, life_of=endless())


def test_faults_without_a_newer_checkpoint_exhaust_the_budget():
    failing = {f"train_{attempt}_0": Life(run_seconds=3, exit_code=1) for attempt in range(9)}

    async def scenario(world):
        world.create(run_document(restartPolicy={"maxRestarts": 2}))
        await world.after(200)

    world = play(scenario, life_of=lives(**failing))
    status = world.status()
    assert status.phase == "Failed"
    assert len(status.attempts) == 3
    assert status.restarts == 2
    assert world.condition("Failed")[1] == "RestartsExhausted"
    assert "maxRestarts is 2" in world.condition("Failed")[2]


def test_a_newer_checkpoint_resets_the_budget():
    async def scenario(world):
        key = world.create(run_document(restartPolicy={"maxRestarts": 1}))
        await world.after(30)
        for attempt in range(5):
            world.report(key, attempt=attempt, step=10 * attempt + 10, checkpoint_step=10 * attempt + 10)
            await world.after(3)
            world.nodes.end_pod(next(pod for pod in world.pods("train") if place_of(pod)[1] == attempt), 1)
            await world.after(10)
        assert world.status().restarts == 5
        assert world.status().phase == "Running"
        world.nodes.end_pod(world.pods("train")[0], 1)
        await world.after(10)
        assert world.status().phase == "Failed"

    play(scenario, life_of=endless())


def test_more_faults_than_the_status_keeps_are_still_counted():
    def life(pod):
        return Life(run_seconds=1, exit_code=1) if place_of(pod)[0] == "train" else ordinary_life(pod)

    async def scenario(world):
        world.create(run_document(restartPolicy={"maxRestarts": 30}))
        await world.after(5_000)

    world = play(scenario, life_of=life)
    assert world.status().phase == "Failed"
    assert world.status().restarts == 30
    assert len(world.status().attempts) == 20
    assert world.status().attempts[-1].number == 30


@pytest.mark.parametrize("code", [64, 65, 74, 76])
def test_a_permanent_exit_code_ends_the_run_at_once(code):
    world = play(to_the_end, life_of=lives(train_0_1=Life(run_seconds=5, exit_code=code)))
    assert world.status().phase == "Failed"
    assert world.condition("Failed")[1] == "PermanentFailure"
    assert len(world.status().attempts) == 1


def test_the_rest_of_a_failed_run_is_stopped():
    async def scenario(world):
        world.create()
        await world.after(30)
        world.nodes.end_pod(world.pods("train")[0], 65)
        await world.after(30)
        assert world.status().phase == "Failed"
        assert world.pods("train") == []

    play(scenario, life_of=endless())


def test_a_pod_that_a_person_deletes_is_a_fault_with_evidence():
    async def scenario(world):
        world.create()
        await world.after(30)
        world.cluster.remove(PODS, NAMESPACE, world.pods("train")[1]["metadata"]["name"])
        await world.after(20)
        status = world.status()
        assert status.phase == "Running"
        assert status.attempts[0].failure.reason == "PodDeleted"
        assert status.attempts[0].outcome == "Preempted"  # it saved its state when it was told to stop
        assert len(world.pods("train")) == 2

    play(scenario, life_of=endless())


def test_a_pod_that_vanishes_without_a_trace_is_a_fault():
    async def scenario(world):
        world.create()
        await world.after(30)
        watchers, world.cluster.watchers = world.cluster.watchers, []
        world.cluster.erase(PODS, NAMESPACE, world.pods("train")[1]["metadata"]["name"])
        world.cluster.watchers = watchers
        await world.operator.intake.resync(world.cluster, ())
        await world.after(20)
        status = world.status()
        assert status.phase == "Running"
        assert status.attempts[0].failure.reason == "PodDeleted"
        assert status.restarts == 1

    play(scenario, life_of=endless())


def test_a_pod_that_only_the_watch_forgot_is_no_fault():
    async def scenario(world):
        key = world.create()
        await world.after(30)
        del world.operator.store._children[key].pods[world.pods("train")[1]["metadata"]["name"]]
        world.operator.queue.add(key)
        await world.after(20)
        assert len(world.status().attempts) == 1

    play(scenario, life_of=endless())


@pytest.mark.parametrize(
    ("disruption", "reason", "outcome"),
    [
        ("PreemptionByScheduler", "Preempted", "Preempted"),
        ("DeletionByTaintManager", "NodeLost", "Failed"),
        ("EvictionByEvictionAPI", "Evicted", "Failed"),
        ("TerminationByKubelet", "Evicted", "Failed"),
    ],
)
def test_what_the_cluster_did_to_a_pod_is_named(disruption, reason, outcome):
    async def scenario(world):
        world.create()
        await world.after(30)
        pod = world.pods("train")[1]
        condition = {"type": "DisruptionTarget", "status": "True", "reason": disruption, "message": "why"}
        world.cluster.change(
            PODS,
            NAMESPACE,
            pod["metadata"]["name"],
            lambda seen: seen["status"].update(conditions=[condition]),
        )
        world.nodes.end_pod(pod, 137)
        await world.after(10)
        attempt = world.status().attempts[0]
        assert (attempt.outcome, attempt.failure.reason) == (outcome, reason)
        assert attempt.failure.message == f"{disruption}: why"
        assert world.status().phase in ("Running", "Restarting")

    play(scenario, life_of=endless())


def test_a_pod_on_a_dead_node_is_not_waited_for():
    async def scenario(world):
        world.create()
        await world.after(30)
        pod = world.pods("train")[1]
        condition = {"type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager"}
        world.cluster.change(
            PODS,
            NAMESPACE,
            pod["metadata"]["name"],
            lambda seen: seen["status"].update(conditions=[condition]),
        )
        world.cluster.remove(PODS, NAMESPACE, pod["metadata"]["name"])
        await world.after(5)
        assert world.status().attempts[0].failure.reason == "NodeLost"
        assert len([pod for pod in world.pods("train") if place_of(pod)[1] == 1]) == 2

    play(scenario, life_of=endless(train_0_1=Life(run_seconds=None, stop_seconds=100_000)))


def test_a_failed_preparation_is_repeated_by_a_new_attempt():
    world = play(to_the_end, life_of=lives(prepare_0=Life(run_seconds=3, exit_code=1, message="no space")))
    assert world.status().phase == "Succeeded"
    assert world.status().attempts[0].stage == "Prepare"
    assert world.status().attempts[0].failure.log_tail == "no space"


def test_data_that_cannot_work_ends_the_run_with_the_reason():
    broken = Life(run_seconds=3, exit_code=65, message=exit_record(65, "no text in field body", rank=0))
    world = play(to_the_end, life_of=lives(prepare_0=broken))
    assert world.status().phase == "Failed"
    assert "no text in field body" in world.condition("Failed")[2]
    assert world.pods("train") == []


def test_a_preparation_whose_pod_a_person_deletes_is_repeated():
    async def scenario(world):
        world.create()
        await world.after(5)
        (pod,) = world.pods("prepare")
        world.cluster.erase(PODS, NAMESPACE, pod["metadata"]["name"])
        await world.after(100)
        assert world.status().attempts[0].failure.reason == "PodDeleted"

    assert play(scenario).status().phase == "Succeeded"


def test_a_failed_export_is_repeated_without_training_again():
    world = play(to_the_end, life_of=lives(export_0=Life(run_seconds=3, exit_code=1)))
    assert world.status().phase == "Succeeded"
    assert {place_of(pod)[1] for pod in world.pods("train")} == {0}
    assert [attempt.stage for attempt in world.status().attempts] == ["Export", "Export"]


def end_all_but_the_sidecar(world, pods, exit_code):
    """The training containers end; what podTemplate has put beside them runs on."""
    for pod in pods:
        state = {"terminated": {"exitCode": exit_code, "reason": "Completed" if exit_code == 0 else "Error"}}
        containers = [{"name": "istio-proxy", "state": {"running": {}}}, {"name": "trainer", "state": state}]
        world.cluster.change(
            PODS,
            NAMESPACE,
            pod["metadata"]["name"],
            lambda seen, statuses=containers: seen["status"].update(containerStatuses=statuses),
        )


def test_a_sidecar_that_lives_on_neither_keeps_a_pod_from_being_done_nor_holds_its_devices():
    async def scenario(world):
        world.create()
        await world.after(30)
        end_all_but_the_sidecar(world, world.pods("train"), 0)
        await world.after(10)
        assert world.status().attempts[-1].stage == "Export"
        assert world.pods("train") == []
        end_all_but_the_sidecar(world, world.pods("export"), 0)
        await world.after(10)
        assert world.status().phase == "Succeeded"
        assert world.pods("export") == []
        assert [attempt.outcome for attempt in world.status().attempts] == ["Succeeded"]

    def life(pod):
        return ordinary_life(pod) if place_of(pod)[0] == "prepare" else Life(run_seconds=None)

    play(scenario, life_of=life)


def test_a_failed_gang_makes_room_for_the_next_attempt_though_its_sidecars_live_on():
    async def scenario(world):
        world.create()
        await world.after(30)
        failed = world.pods("train")
        end_all_but_the_sidecar(world, failed, 1)
        await world.after(60)
        assert [attempt.outcome for attempt in world.status().attempts] == ["Failed", "Running"]
        assert {place_of(pod)[1] for pod in world.pods("train")} == {1}

    play(scenario, life_of=endless())
