"""Lives of runs: from their creation to an end, with faults, changes and deletions by people on the way."""

from tests.cluster.director import MODEL, End, Place, everything_succeeds, training_goes_on
from tests.cluster.scenarios.registry import scenario
from tests.cluster.scene import NAME, Scene, attempts_of, condition_of, gang
from trainyard_api.names import Label
from trainyard_api.progress import ExitRecord

PREPARE = ("prepare", 0, 0)


def record(exit_code: int, reason: str) -> str:
    """What a process of the trainer leaves as its termination message."""
    return ExitRecord(
        rank=1,
        exit_code=exit_code,
        reason=reason,
        message="the process says why",
        log_tail="the last line of the log",
        time="2026-11-25T00:00:00Z",
    ).model_dump_json(by_alias=True)


@scenario()
def a_run_is_prepared_trained_exported_and_told_of_once(scene: Scene) -> None:
    ended: set[str] = set()

    def stage_by_stage(place: Place) -> End | None:
        return everything_succeeds(place) if place.stage in ended else None

    scene.play(stage_by_stage)
    run = scene.create()
    for stage in ("prepare", "train", "export"):
        scene.wait_for_events(*["StageStarted"] * (len(ended) + 1))
        ended.add(stage)
        scene.play(stage_by_stage)
    status = scene.wait_for_phase("Succeeded")
    assert attempts_of(status) == ["Succeeded"]
    assert status["model"]["uri"] in MODEL
    assert status["observedGeneration"] == 1
    scene.check_places(run, PREPARE, *gang(0), ("export", 0, 0))
    stories = [*["StageStarted"] * 3, "RunSucceeded"]
    assert scene.wait_for_events(*stories) == stories
    assert [len(scene.children(plural)) for plural in ("services", "configmaps")] == [1, 1]
    scene.delete()
    scene.wait_until_nothing_is_left(run["metadata"]["uid"])


@scenario()
def a_failed_pod_ends_its_gang_and_the_next_one_finishes(scene: Scene) -> None:
    scene.fail("train", [0], 1, End(137, record(137, "ProcessKilled"), "Error"))
    run = scene.create()
    status = scene.wait_for_phase("Succeeded")
    assert attempts_of(status) == ["Failed", "Succeeded"]
    assert (status["restarts"], status["attempt"]) == (1, 1)
    failure = status["attempts"][0]["failure"]
    assert (failure["exitCode"], failure["rank"]) == (137, 1)
    assert failure["logTail"] == "the last line of the log"
    assert failure["node"].startswith("fake-")
    assert failure["pod"].startswith(NAME)
    scene.check_places(run, PREPARE, *gang(0), *gang(1), ("export", 1, 0))
    assert scene.wait_for_events("Restarting", "RunSucceeded").count("Restarting") == 1


@scenario()
def a_run_that_fails_again_and_again_ends_when_its_restarts_are_used_up(scene: Scene) -> None:
    scene.fail("train", range(9), 0, End(1, record(1, "ProcessFailed")))
    run = scene.create(restartPolicy={"maxRestarts": 2})
    status = scene.wait_for_phase("Failed")
    assert attempts_of(status) == ["Failed"] * 3
    assert condition_of(status, "Failed")["reason"] == "RestartsExhausted"
    scene.wait_for_pods(
        lambda pods: all(pod["status"]["phase"] in ("Failed", "Succeeded") for pod in pods.values()),
        "nothing runs any more",
    )
    scene.check_places(run, PREPARE, *gang(0), *gang(1), *gang(2))


@scenario()
def a_permanent_exit_code_ends_the_run_at_once(scene: Scene) -> None:
    scene.fail("train", [0], 1, End(65, record(65, "InvalidData")))
    run = scene.create()
    status = scene.wait_for_phase("Failed")
    assert condition_of(status, "Failed")["reason"] == "PermanentFailure"
    assert "the process says why" in condition_of(status, "Failed")["message"]
    assert status["restarts"] == 0
    scene.check_places(run, PREPARE, *gang(0))


@scenario()
def preparation_that_cannot_succeed_ends_the_run(scene: Scene) -> None:
    scene.fail("prepare", [0], 0, End(65, record(65, "InvalidData")))
    run = scene.create()
    status = scene.wait_for_phase("Failed")
    assert condition_of(status, "Failed")["reason"] == "PermanentFailure"
    assert status["attempts"][0]["failure"]["logTail"] == "the last line of the log"
    scene.check_places(run, PREPARE)


@scenario()
def a_pod_that_a_person_deletes_costs_one_attempt(scene: Scene) -> None:
    scene.play(training_goes_on)
    run = scene.create()
    pod = scene.wait_for_gang(0)[Place("train", 0, 1)]
    scene.rest.delete("pods", scene.namespace, pod["metadata"]["name"])
    scene.wait_for_gang(1)
    scene.play(everything_succeeds)
    status = scene.wait_for_phase("Succeeded")
    failure = status["attempts"][0]["failure"]
    assert (failure["reason"], failure["pod"]) == ("PodDeleted", pod["metadata"]["name"])
    scene.check_places(run, PREPARE, *gang(0), *gang(1), ("export", 1, 0))


@scenario()
def a_suspended_run_leaves_no_pods_and_goes_on_when_it_is_resumed(scene: Scene) -> None:
    scene.play(training_goes_on)
    run = scene.create()
    scene.wait_for_gang(0)
    scene.edit(suspend=True)
    status = scene.wait_for_phase("Suspended")
    assert attempts_of(status) == ["Preempted"]
    scene.wait_for_pods(lambda pods: all(place.stage != "train" for place in pods), "no pod is left")
    scene.edit(suspend=False)
    scene.wait_for_gang(1)
    scene.play(everything_succeeds)
    status = scene.wait_for_phase("Succeeded")
    assert (attempts_of(status), status["restarts"]) == (["Preempted", "Succeeded"], 0)
    told = scene.wait_for_events("RunSuspended", "Resumed", "RunSucceeded")
    assert [reason for reason in told if reason in ("RunSuspended", "Resumed")] == ["RunSuspended", "Resumed"]
    scene.check_places(run, PREPARE, *gang(0), *gang(1), ("export", 1, 0))


@scenario()
def a_run_that_is_created_suspended_makes_nothing(scene: Scene) -> None:
    run = scene.create(suspend=True)
    scene.wait_for_phase("Suspended")
    assert [scene.children(plural) for plural in ("pods", "jobs", "services", "configmaps")] == [[]] * 4
    scene.edit(suspend=False)
    scene.wait_for_phase("Succeeded")
    scene.check_places(run, PREPARE, *gang(0), ("export", 0, 0))


@scenario()
def another_number_of_nodes_is_taken_over_by_a_new_attempt(scene: Scene) -> None:
    scene.play(training_goes_on)
    run = scene.create()
    scene.wait_for_gang(0)
    scene.edit(workers={"nodes": 4})
    scene.wait_for_gang(1, nodes=4)
    scene.play(everything_succeeds)
    status = scene.wait_for_phase("Succeeded")
    assert [attempt["nodes"] for attempt in status["attempts"]] == [2, 4]
    assert (attempts_of(status), status["restarts"]) == (["Preempted", "Succeeded"], 0)
    scene.check_places(run, PREPARE, *gang(0), *gang(1, 4), ("export", 1, 0))


@scenario()
def a_finished_run_never_starts_again(scene: Scene) -> None:
    run = scene.create()
    scene.wait_for_phase("Succeeded")
    for pod in scene.children("pods"):
        scene.rest.delete("pods", scene.namespace, pod["metadata"]["name"])
    scene.edit(workers={"nodes": 4}, suspend=True)
    scene.edit(suspend=False, training={"budget": {"steps": 400}})
    # A later run of the namespace has gone through all its stages: the first one was looked at long ago.
    scene.create(name="later")
    scene.wait_for_phase("Succeeded", name="later")
    assert scene.status()["phase"] == "Succeeded"
    scene.check_places(run, PREPARE, *gang(0), ("export", 0, 0))


@scenario()
def a_run_is_deleted_some_time_after_its_end(scene: Scene) -> None:
    run = scene.create(ttlSecondsAfterFinished=3)
    scene.wait_for_phase("Succeeded")
    scene.wait_until_gone()
    scene.wait_until_nothing_is_left(run["metadata"]["uid"])


@scenario()
def a_run_of_the_same_name_shares_nothing_with_the_one_before(scene: Scene) -> None:
    scene.play(training_goes_on)
    first = scene.create()
    scene.wait_for_gang(0)
    scene.delete()
    second = scene.create()
    scene.wait_for(lambda status: status.get("preparedAt"), "the second run is prepared")
    scene.wait_until_nothing_is_left(first["metadata"]["uid"])
    scene.play(everything_succeeds)
    status = scene.wait_for_phase("Succeeded")
    assert attempts_of(status) == ["Succeeded"]
    for run in (first, second):
        places = [PREPARE, *gang(0)]
        scene.check_places(run, *places, *([("export", 0, 0)] if run is second else []))
    uids = {each["metadata"]["labels"][Label.RUN_UID] for each in scene.children("pods")}
    assert uids == {second["metadata"]["uid"]}


@scenario()
def a_run_that_is_deleted_while_it_trains_leaves_nothing(scene: Scene) -> None:
    scene.play(training_goes_on)
    run = scene.create()
    scene.wait_for_gang(0)
    scene.delete()
    scene.wait_until_gone()
    scene.wait_until_nothing_is_left(run["metadata"]["uid"])
    scene.check_places(run, PREPARE, *gang(0))


@scenario()
def a_run_waits_for_the_run_whose_model_it_starts_from(scene: Scene) -> None:
    scene.play(training_goes_on)
    scene.create(name="downstream", model={"architecture": None, "fromRun": {"name": NAME}}, tokenizer=None)
    scene.wait_for_condition("Validated", "False", "UpstreamMissing", NAME, name="downstream")
    scene.create()
    scene.wait_for_condition("Admitted", "False", "WaitingForRun", NAME, name="downstream")
    assert all(pod["metadata"]["labels"][Label.RUN] == NAME for pod in scene.children("pods"))
    scene.play(everything_succeeds)
    scene.wait_for_phase("Succeeded")
    scene.wait_for_phase("Succeeded", name="downstream")
