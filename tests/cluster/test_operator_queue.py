"""A queue such as Kueue holds the pods of runs back, admits them, and stops them; the run tells of it."""

from collections.abc import Iterator

import pytest

from tests.cluster.cluster import Cluster
from tests.cluster.director import Director, Place, everything_succeeds, training_goes_on
from tests.cluster.fixtures import give_up
from tests.cluster.operator_process import Installation, OperatorProcess
from tests.cluster.rest import Object, Rest
from tests.cluster.scene import NAME, Scene, attempts_of, condition_of, gang, merged, opened_scene
from tests.cluster.stand_in_queue import FLAVOR, GATE, StandInQueue
from tests.cluster.steering import EXIT_CODE_ON_DELETE
from trainyard_api.names import ExitCode, KueueName

pytestmark = pytest.mark.control_plane

PREPARE = Place("prepare", 0, 0)
SCHEDULING = {"queueName": "team"}


@pytest.fixture(scope="module")
def operator(
    installation: Installation, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[OperatorProcess]:
    log = tmp_path_factory.mktemp("queue") / "operator.log"
    with OperatorProcess(installation, "queue-0", log, leader_election=False) as running:
        yield running.wait_until_leading()
        assert running.stop() == 0
        assert "Traceback" not in running.log


@pytest.fixture
def scene(operator: OperatorProcess, rest: Rest, director: Director) -> Iterator[Scene]:
    with opened_scene(rest, director, "queued") as opened:
        yield opened


@pytest.fixture
def queue(cluster: Cluster, rest: Rest, scene: Scene) -> Iterator[StandInQueue]:
    if cluster.state is None:
        give_up("the queue's webhook needs a cluster on this machine: run without --cluster=existing")
    with StandInQueue(rest, cluster.state.pki, scene.namespace) as running:
        yield running


def wait_for_held(scene: Scene, *places: Place) -> list[Object]:
    """Wait until pods are there and the run tells that they wait for the queue; the pods."""
    pods = scene.wait_for_pods(lambda pods: all(place in pods for place in places), f"the pods {places}")
    status = scene.wait_for_condition("Admitted", "False", "WaitingForQuota", "has not admitted")
    assert status["phase"] in ("Pending", "Restarting")
    assert condition_of(status, "Running")["status"] == "False"
    held = [pods[place] for place in places]
    assert all(pod["spec"]["schedulingGates"] == [{"name": GATE}] for pod in held)
    return held


def test_a_gang_waits_for_the_queue_as_one_group_and_runs_where_the_queue_puts_it(
    scene: Scene, queue: StandInQueue
) -> None:
    run = scene.create(scheduling=SCHEDULING)
    (preparation,) = wait_for_held(scene, PREPARE)
    assert preparation["metadata"]["labels"][KueueName.QUEUE] == "team"
    assert KueueName.POD_GROUP not in preparation["metadata"]["labels"]
    queue.admit([preparation])

    held = wait_for_held(scene, Place("train", 0, 0), Place("train", 0, 1))
    assert len({pod["metadata"]["labels"][KueueName.POD_GROUP] for pod in held}) == 1
    assert [pod["metadata"]["labels"][KueueName.QUEUE] for pod in held] == ["team", "team"]
    assert [pod["metadata"]["annotations"][KueueName.POD_GROUP_TOTAL] for pod in held] == ["2", "2"]
    scene.play(training_goes_on)
    queue.admit(held)
    pods = scene.wait_for_gang(0)
    scene.wait_for_condition("Admitted", "True", "Admitted")
    scene.wait_for_condition("Running", "True", "StageStarted", "Train")
    # What the queue wrote stays: the operator sends pods once and never again.
    for place in (Place("train", 0, 0), Place("train", 0, 1)):
        assert pods[place]["spec"]["nodeSelector"] == FLAVOR
        assert "schedulingGates" not in pods[place]["spec"]

    scene.play(everything_succeeds)
    queue.admit(wait_for_held(scene, Place("export", 0, 0)))
    status = scene.wait_for_phase("Succeeded")
    assert (attempts_of(status), status["restarts"]) == (["Succeeded"], 0)
    scene.check_places(run, ("prepare", 0, 0), *gang(0), ("export", 0, 0))
    scene.delete()
    scene.wait_until_gone()
    queue.release(scene.children("pods"))
    scene.wait_until_nothing_is_left(run["metadata"]["uid"])


def test_a_run_that_the_queue_never_admits_ends_with_its_queue_deadline(
    scene: Scene, queue: StandInQueue
) -> None:
    run = scene.create(scheduling=SCHEDULING)
    wait_for_held(scene, PREPARE)
    scene.edit(queueDeadlineSeconds=2)
    status = scene.wait_for_phase("Failed")
    failed = condition_of(status, "Failed")
    assert (failed["reason"], "queueDeadlineSeconds, 2" in failed["message"]) == (
        "QueueDeadlineExceeded",
        True,
    )
    assert status["accounting"]["lostSeconds"]["Queue"] >= 2
    # Its pods take no place in the queue any more.
    scene.wait_for_pods(
        lambda pods: all("deletionTimestamp" in pod["metadata"] for pod in pods.values()), "deleted pods"
    )
    scene.check_places(run, ("prepare", 0, 0))


def test_a_gang_that_the_queue_stops_for_others_saves_and_waits_in_the_queue_again(
    scene: Scene, queue: StandInQueue
) -> None:
    saves = {EXIT_CODE_ON_DELETE: str(int(ExitCode.PREEMPTED))}
    run = scene.create(
        scheduling=SCHEDULING, workers=merged({}, {"podTemplate": {"metadata": {"annotations": saves}}})
    )
    queue.admit(wait_for_held(scene, PREPARE))
    places = [Place("train", 0, index) for index in range(2)]
    held = wait_for_held(scene, *places)
    scene.play(training_goes_on)
    queue.admit(held)
    scene.wait_for_gang(0)
    scene.wait_for_condition("Running", "True", "StageStarted", "Train")
    queue.evict(held)

    again = wait_for_held(scene, *(Place("train", 1, index) for index in range(2)))
    groups = {pod["metadata"]["labels"][KueueName.POD_GROUP] for pod in (*held, *again)}
    assert len(groups) == 2
    scene.play(everything_succeeds)
    queue.admit(again)
    queue.admit(wait_for_held(scene, Place("export", 1, 0)))
    status = scene.wait_for_phase("Succeeded")
    assert (attempts_of(status), status["restarts"]) == (["Preempted", "Succeeded"], 0)
    assert status["accounting"]["lostSeconds"]["Queue"] >= 0
    scene.check_places(run, ("prepare", 0, 0), *gang(0), *gang(1), ("export", 1, 0))


def test_without_a_queue_nothing_is_held_back(scene: Scene, queue: StandInQueue) -> None:
    scene.create()
    scene.wait_for_phase("Succeeded")
    assert all(NAME in pod["metadata"]["name"] for pod in scene.children("pods"))
