"""Deadlines that depend on what the processes report."""

from functools import partial

from tests.cluster.director import Place, everything_succeeds, training_goes_on
from tests.cluster.rest import Object
from tests.cluster.scenarios.registry import scenario
from tests.cluster.scene import Scene, attempts_of, condition_of


@scenario()
def a_gang_that_reports_no_further_step_is_restarted_as_stalled(scene: Scene) -> None:
    scene.play(training_goes_on)
    scene.create(stallTimeoutSeconds=5)
    pod = scene.wait_for_gang(0)[Place("train", 0, 0)]
    assert scene.report(pod, step=3, checkpoint_step=2) == 200
    scene.wait_for_gang(1)
    # Pods come before the status that tells of them.
    status = scene.wait_for(lambda status: len(status.get("attempts", [])) == 2, "a second attempt")
    assert status["restarts"] == 1
    failure = status["attempts"][0]["failure"]
    assert (failure["reason"], status["attempts"][0]["exitCode"]) == ("Stalled", 75)
    assert status["attempts"][1]["startCheckpointStep"] == 2
    # The new gang has reported nothing, so it is not stalled yet.
    scene.play(everything_succeeds)
    assert attempts_of(scene.wait_for_phase("Succeeded")) == ["Failed", "Succeeded"]
    assert scene.wait_for_events("Restarting", "RunSucceeded").count("Restarting") == 1


@scenario()
def training_that_reports_nothing_ends_with_the_start_up_deadline(scene: Scene) -> None:
    scene.play(training_goes_on)
    scene.create()
    scene.wait_for_gang(0)
    # Set only now: it holds for the preparation too, whose start may take long on a busy machine.
    scene.edit(startupDeadlineSeconds=2)
    status = scene.wait_for_phase("Failed")
    assert condition_of(status, "Failed")["reason"] == "StartupDeadlineExceeded"


@scenario()
def what_the_processes_report_is_in_the_status_within_seconds(scene: Scene) -> None:
    scene.play(training_goes_on)
    scene.create()
    pod = scene.wait_for_gang(0)[Place("train", 0, 0)]
    assert scene.report(pod, step=7, checkpoint_step=5) == 200
    status = scene.wait_for(lambda status: status.get("progress", {}).get("step") == 7, "step 7")
    assert status["checkpoint"]["step"] == 5
    scene.wait_for_condition("Progressing", "True", "StepsReported")
    scene.play(everything_succeeds)
    scene.wait_for_phase("Succeeded")


def has_checkpoint(step: int, status: Object) -> bool:
    """Whether a status tells of a checkpoint."""
    return bool(status.get("checkpoint", {}).get("step") == step)


@scenario()
def a_fault_after_a_newer_checkpoint_does_not_count_with_older_ones(scene: Scene) -> None:
    scene.play(training_goes_on)
    scene.create(restartPolicy={"maxRestarts": 1})
    for attempt in range(3):
        pod = scene.wait_for_gang(attempt)[Place("train", attempt, 0)]
        step = 10 * attempt + 10
        assert scene.report(pod, step=step, checkpoint_step=step) == 200
        scene.wait_for(partial(has_checkpoint, step), f"the checkpoint of step {step}")
        scene.rest.delete("pods", scene.namespace, pod["metadata"]["name"])
    scene.wait_for_gang(3)
    scene.play(everything_succeeds)
    status = scene.wait_for_phase("Succeeded")
    assert (status["restarts"], attempts_of(status)) == (3, ["Failed"] * 3 + ["Succeeded"])
    assert [attempt.get("startCheckpointStep") for attempt in status["attempts"]] == [None, 10, 20, 30]
