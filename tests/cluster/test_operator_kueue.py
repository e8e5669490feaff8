"""Runs in a queue of the real Kueue, which has room for one gang at a time."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.build import build_programs
from tests.cluster.cluster import Cluster
from tests.cluster.director import Director, Place, everything_succeeds, training_goes_on
from tests.cluster.fixtures import give_up
from tests.cluster.kubectl import Kubectl
from tests.cluster.kueue import QUEUE, URGENT, queues, running_kueue
from tests.cluster.operator_process import Installation, OperatorProcess
from tests.cluster.recipes import BATCH_QUEUE
from tests.cluster.rest import Object, Rest
from tests.cluster.scene import USUAL_SECONDS, Scene, attempts_of, gang, opened_scene
from tests.cluster.steering import EXIT_CODE_ON_DELETE
from trainyard_api.names import KueueName

pytestmark = pytest.mark.control_plane

IS_KILLED = {"metadata": {"annotations": {EXIT_CODE_ON_DELETE: "137"}}}
"""Pods that are stopped say nothing of it: that the queue did it, only the queue tells."""


@pytest.fixture
def kueue(cluster: Cluster, installation: Installation, tmp_path: Path) -> Iterator[Kubectl]:
    """Kueue, and the way to make queues."""
    if cluster.state is None:
        give_up("Kueue's webhooks need a cluster on this machine: run without --cluster=existing")
    build_programs(BATCH_QUEUE)
    folder = tmp_path / "kueue"
    folder.mkdir()
    with running_kueue(cluster.kubectl, installation.helm, folder):
        yield cluster.kubectl


@pytest.fixture
def scene(
    kueue: Kubectl, installation: Installation, rest: Rest, director: Director, tmp_path: Path
) -> Iterator[Scene]:
    log = tmp_path / "operator.log"
    with (
        OperatorProcess(installation, "kueue-0", log, leader_election=False) as operator,
        opened_scene(rest, director, "kueue") as opened,
    ):
        operator.wait_until_leading()
        kueue.apply(queues(opened.namespace, num_pods=2))
        yield opened
        assert operator.stop() == 0
        assert "Traceback" not in operator.log


def create(scene: Scene, name: str, **labels: str) -> Object:
    """A run of two nodes in the queue, which can afford no fault."""
    run = scene.create(
        name=name,
        scheduling={"queueName": QUEUE},
        workers={"podTemplate": IS_KILLED},
        restartPolicy={"maxRestarts": 0},
        suspend=True,
    )
    scene.rest.merge("trainingruns", scene.namespace, name, {"metadata": {"labels": labels}})
    scene.edit(name=name, suspend=False)
    return run


def test_runs_take_turns_and_an_urgent_one_stops_another_which_goes_on_after_it(scene: Scene) -> None:
    scene.play(training_goes_on)
    first = create(scene, "first")
    scene.wait_for_condition("Running", "True", "StageStarted", "Train", name="first")
    scene.wait_for_condition("Admitted", "True", "Admitted", name="first")

    # The room is taken: the second waits without a node, and the first is left alone.
    second = create(scene, "second")
    status = scene.wait_for_condition("Admitted", "False", "WaitingForQuota", name="second")
    assert status["phase"] == "Pending"
    assert attempts_of(scene.status("first")) == ["Running"]

    # An urgent one takes the room: the first waits in the queue as a new group, and no fault is counted.
    urgent = create(scene, "urgent", **{KueueName.PRIORITY_CLASS.value: URGENT})
    scene.wait_for_condition("Running", "True", "StageStarted", "Train", name="urgent")
    stopped = scene.wait_for(
        lambda status: attempts_of(status) == ["Preempted", "Running"], "a second attempt", name="first"
    )
    assert (stopped["restarts"], stopped.get("faultsSinceCheckpoint", 0)) == (0, 0)
    failure = stopped["attempts"][0]["failure"]
    assert failure["reason"] == "Preempted"
    assert failure["message"].startswith("WorkloadEvictedDueToPreempted: ")
    scene.wait_for_condition("Admitted", "False", "WaitingForQuota", name="first")

    scene.play(everything_succeeds)
    for name in ("urgent", "first", "second"):
        scene.wait_for_phase("Succeeded", name=name)
    assert attempts_of(scene.status("first")) == ["Preempted", "Succeeded"]
    scene.check_places(first, ("prepare", 0, 0), *gang(0), *gang(1), ("export", 1, 0))
    for run in (second, urgent):
        scene.check_places(run, ("prepare", 0, 0), *gang(0), ("export", 0, 0))
    trained = scene.wait_for_pods(lambda pods: Place("train", 1, 0) in pods, "the pods are kept")
    assert trained[Place("train", 1, 0)]["spec"]["nodeSelector"] == {"type": "kwok"}

    for name, run in (("first", first), ("second", second), ("urgent", urgent)):
        scene.delete(name)
        scene.wait_until_nothing_is_left(run["metadata"]["uid"])
    # Kueue's own objects go with the pods, when the garbage collector comes.
    scene.rest.wait(
        "workloads", scene.namespace, lambda workloads: not workloads, USUAL_SECONDS, "no workload is left"
    )
