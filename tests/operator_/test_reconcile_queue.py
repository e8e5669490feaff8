"""A queue such as Kueue takes back what it admitted: no fault of the run, which stands in the queue again."""

import pytest

from tests.operator_.test_store import pod_object
from tests.support.fake_nodes import Life, ordinary_life, place_of
from tests.support.operator_harness import NAMESPACE, play, run_document
from trainyard_operator.cluster import EVENTS, PODS
from trainyard_operator.evidence import failure_of, is_clear

QUEUE = {"queueName": "team"}


def stopped(reason, kind="TerminationTarget"):
    return {"type": kind, "status": "True", "reason": reason, "message": "a run of higher priority"}


def evict(world, reason="WorkloadEvictedDueToPreempted"):
    """Stop the gang as Kueue does: a condition on each pod, and a deletion."""
    for pod in world.pods("train"):
        name = pod["metadata"]["name"]
        world.cluster.change(
            PODS,
            NAMESPACE,
            name,
            lambda seen: seen["status"].update(
                conditions=[*seen["status"].get("conditions", ()), stopped(reason)]
            ),
        )
        world.cluster.remove(PODS, NAMESPACE, name)


def training(**lives_of_attempts):
    """Lives of training pods by attempt, such as attempt_0; every other pod is ordinary."""

    def life(pod):
        stage, attempt, _ = place_of(pod)
        return (
            lives_of_attempts.get(f"attempt_{attempt}", Life(run_seconds=None))
            if stage == "train"
            else (ordinary_life(pod))
        )

    return life


UNSAVED = Life(run_seconds=None, stop_exit_code=137)


@pytest.mark.parametrize("exit_code", [None, 1, 80, 137, 143])
@pytest.mark.parametrize(
    ("reason", "told"),
    [
        ("WorkloadEvictedDueToPreempted", "Preempted"),
        ("WorkloadEvictedDueToPodsReadyTimeout", "Preempted"),
        ("WorkloadEvictedDueToNodeFailures", "Preempted"),
        ("WorkloadEvictedDueToLocalQueueStopped", "Preempted"),
        ("WorkloadDeleted", "Preempted"),
        ("NotAdmitted", "Preempted"),
        # The pods are not what was admitted: a gang made anew may meet the same, so the budget counts it.
        ("NoMatchingWorkload", "Evicted"),
    ],
)
def test_what_the_queue_does_is_no_failure_of_a_process(exit_code, reason, told):
    status = {"phase": "Failed", "conditions": [stopped(reason)]}
    if exit_code is not None:
        state = {"terminated": {"exitCode": exit_code, "finishedAt": "2027-01-15T08:00:00Z"}}
        status["containerStatuses"] = [{"name": "trainer", "state": state}]
    pod = pod_object(status=status)
    failure = failure_of([pod], [], now=2_000.0)
    assert failure.reason == told
    assert failure.message == f"{reason}: a run of higher priority"
    assert (failure.exit_code == 80) == (told == "Preempted" or exit_code == 80)
    assert is_clear([pod])


def test_a_condition_that_does_not_hold_stops_nothing():
    pod = pod_object(
        status={"phase": "Failed", "conditions": [{**stopped("NotAdmitted"), "status": "False"}]}
    )
    assert pod.disruption == ""


def test_a_gang_that_the_queue_stops_waits_in_the_queue_and_is_not_told_as_a_failure():
    async def scenario(world):
        key = world.create(run_document(scheduling=QUEUE))
        await world.after(30)
        world.report(key, attempt=0, step=40, checkpoint_step=30)
        await world.after(11)
        evict(world)
        await world.after(30)
        status = world.status()
        assert [attempt.outcome for attempt in status.attempts] == ["Preempted", "Running"]
        assert (status.restarts, status.faults_since_checkpoint) == (0, 0)
        assert status.attempts[0].failure.reason == "Preempted"
        assert status.attempts[1].start_checkpoint_step == 30
        assert status.phase == "Pending"
        assert world.condition("Admitted")[:2] == ("False", "WaitingForQuota")
        assert world.condition("Progressing")[:2] == ("False", "Preempted")
        events = world.cluster.objects(EVENTS)
        assert [event["type"] for event in events if event["reason"] == "Preempted"] == ["Normal"]
        assert [event["reason"] for event in events if event["type"] == "Warning"] == []

    play(scenario, life_of=training(attempt_0=UNSAVED, attempt_1=Life(gated=True)))


def test_a_run_is_in_the_queue_from_the_moment_that_it_is_stopped():
    """Also in the status that is written before the new pods are there to be held back."""

    async def scenario(world):
        world.create(run_document(scheduling=QUEUE))
        await world.after(30)
        evict(world)
        written = []
        world.cluster.watchers.append(
            lambda _, kind, stored: (
                written.append(world.condition("Admitted")[0])
                if stored["kind"] == "TrainingRun" and world.condition("Running")[0] == "False"
                else None
            )
        )
        await world.after(2.05)
        assert written
        assert set(written) == {"False"}

    play(scenario, life_of=training(attempt_0=UNSAVED, attempt_1=Life(gated=True)))


def test_no_number_of_evictions_uses_up_the_restarts():
    async def scenario(world):
        world.create(run_document(scheduling=QUEUE, restartPolicy={"maxRestarts": 0}))
        await world.after(30)
        for _ in range(5):
            evict(world)
            await world.after(20)
        status = world.status()
        assert [attempt.outcome for attempt in status.attempts] == ["Preempted"] * 5 + ["Running"]
        await world.after(100)
        assert world.status().phase == "Succeeded"
        assert (world.status().restarts, world.status().faults_since_checkpoint) == (0, 0)

    lives = {f"attempt_{number}": UNSAVED for number in range(5)}
    play(scenario, life_of=training(**lives, attempt_5=Life()))


def test_a_run_in_a_queue_is_not_admitted_before_its_pods_are_seen():
    async def scenario(world):
        world.create(run_document(scheduling=QUEUE))
        await world.after(0.2)
        assert world.condition("Admitted")[:2] == ("False", "WaitingForQuota")
        await world.after(100)
        assert world.status().phase == "Succeeded"
        assert world.condition("Admitted")[:2] == ("True", "Admitted")

    play(scenario)
