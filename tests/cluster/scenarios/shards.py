"""Runs whose sources are read in shards, by the Job controller of a real control plane."""

from typing import Any

from tests.cluster.director import End, Place, everything_succeeds
from tests.cluster.rest import Object
from tests.cluster.scenarios.lives import PREPARE, record
from tests.cluster.scenarios.registry import scenario
from tests.cluster.scene import USUAL_SECONDS, Scene, attempts_of, condition_of, gang

SHARDS: dict[str, Any] = {"preparation": {"shards": 2}}


def everything_but_reading(place: Place) -> End | None:
    """The script of shards that take long."""
    return None if place.stage == "read" else everything_succeeds(place)


def wait_for_shards(scene: Scene, attempt: int) -> None:
    """Wait until the pods of both shards run."""

    def run(pods: dict[Place, Object]) -> bool:
        places = [Place("read", attempt, index) for index in range(2)]
        return all(place in pods and pods[place]["status"]["phase"] == "Running" for place in places)

    scene.wait_for_pods(run, "both shards are being read")


@scenario()
def a_shard_that_fails_is_repeated_alone_and_training_starts_when_all_are_read(scene: Scene) -> None:
    failed: set[Place] = set()

    def first_pod_of_a_shard_fails(place: Place) -> End | None:
        if place.stage != "read":
            return everything_succeeds(place)
        if place.index == 1 and place not in failed:
            failed.add(place)
            return End(75, record(75, "ProcessFailed"))
        return End() if place.index == 0 else None

    scene.play(first_pod_of_a_shard_fails)
    run = scene.create(data=SHARDS)
    status = scene.wait_for(
        lambda status: status.get("progress", {}).get("detail") == "1 of 2 shards", "one shard is read"
    )
    assert (status["progress"]["stage"], status["progress"]["percent"]) == ("Read", 50)
    assert status["phase"] == "Running"
    scene.wait_for_pods(
        lambda pods: pods.get(Place("read", 0, 1), {}).get("status", {}).get("phase") == "Running",
        "the second pod of the shard that failed",
    )
    scene.play(everything_succeeds)
    status = scene.wait_for_phase("Succeeded")
    assert (attempts_of(status), status["restarts"]) == (["Succeeded"], 0)
    made = scene.director.pods_at(scene.namespace, run["metadata"]["uid"])
    assert {place: len(uids) for place, uids in made.items() if place.stage == "read"} == {
        Place("read", 0, 0): 1,
        Place("read", 0, 1): 2,
    }
    assert len(scene.children("jobs")) == 1
    stories = [*["StageStarted"] * 4, "RunSucceeded"]
    assert sorted(scene.wait_for_events(*stories)) == sorted(stories)


@scenario()
def a_shard_that_cannot_be_read_ends_the_run_at_once_with_its_evidence(scene: Scene) -> None:
    scene.fail("read", [0], 1, End(65, record(65, "InvalidData")))
    run = scene.create(data=SHARDS)
    status = scene.wait_for_phase("Failed")
    assert condition_of(status, "Failed")["reason"] == "PermanentFailure"
    assert "the process says why" in condition_of(status, "Failed")["message"]
    failure = status["attempts"][0]["failure"]
    assert (failure["exitCode"], failure["rank"], failure["reason"]) == (65, 1, "InvalidData")
    assert failure["logTail"] == "the last line of the log"
    assert "-1-" in failure["pod"]
    assert len(status["attempts"]) == 1
    scene.wait_for_pods(
        lambda pods: all(pod["status"]["phase"] in ("Failed", "Succeeded") for pod in pods.values()),
        "the other shard is stopped",
    )
    scene.check_places(run, ("read", 0, 0), ("read", 0, 1))


@scenario()
def a_run_that_reads_shards_is_suspended_resumed_and_deleted_like_any_other(scene: Scene) -> None:
    scene.play(everything_but_reading)
    run = scene.create(data=SHARDS)
    wait_for_shards(scene, 0)
    scene.edit(suspend=True)
    status = scene.wait_for_phase("Suspended")
    assert attempts_of(status) == ["Preempted"]
    assert scene.children("jobs") == []
    scene.rest.wait("pods", scene.namespace, lambda pods: not pods, USUAL_SECONDS, "no pod is left")
    scene.edit(suspend=False)
    wait_for_shards(scene, 1)
    scene.play(everything_succeeds)
    status = scene.wait_for_phase("Succeeded")
    assert (attempts_of(status), status["restarts"]) == (["Preempted", "Succeeded"], 0)
    shards = [("read", attempt, index) for attempt in range(2) for index in range(2)]
    scene.check_places(run, *shards, (*PREPARE[:1], 1, 0), *gang(1), ("export", 1, 0))
    scene.delete()
    scene.wait_until_nothing_is_left(run["metadata"]["uid"])
