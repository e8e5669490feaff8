"""Two replicas and one lease: takeovers, handovers, and what happens while no operator is there at all."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.cluster.director import Director, Place, everything_succeeds, training_goes_on
from tests.cluster.operator_process import LEASE, Installation, OperatorProcess
from tests.cluster.rest import Object, Rest
from tests.cluster.scene import Scene, attempts_of, gang, opened_scene
from trainyard_api.names import Label, OperatorMetric

pytestmark = pytest.mark.control_plane

SLACK = 2.0
"""How much longer things may take because others use the machine too."""
TAKEOVER_SECONDS = 20.0 * SLACK
HANDOVER_SECONDS = 5.0 * SLACK
PREPARE = ("prepare", 0, 0)


@pytest.fixture
def replica(
    installation: Installation, log_file: Callable[[str], Path]
) -> Iterator[Callable[[str], OperatorProcess]]:
    """Starts replicas by name; they are killed after the test."""
    with ExitStack() as stack:
        yield lambda name: stack.enter_context(OperatorProcess(installation, name, log_file(name)))


@pytest.fixture
def scene(rest: Rest, director: Director, request: pytest.FixtureRequest) -> Iterator[Scene]:
    words = request.node.name.removeprefix("test_").replace("_", "-")
    with opened_scene(rest, director, words) as opened:
        yield opened


def holder(rest: Rest, installation: Installation) -> str:
    """Who holds the lease."""
    lease = rest.get("leases", installation.namespace, LEASE)
    name: str = lease["spec"].get("holderIdentity") or ""
    return name


def wait_for_holder(rest: Rest, installation: Installation, name: str, seconds: float) -> None:
    """Wait until somebody holds the lease."""

    def is_held(leases: list[Object]) -> bool:
        return any(
            lease["metadata"]["name"] == LEASE and lease["spec"].get("holderIdentity") == name
            for lease in leases
        )

    rest.wait("leases", installation.namespace, is_held, seconds, f"{name} holds the lease")


def test_a_killed_leader_is_replaced_and_a_stopped_one_hands_over_at_once(
    rest: Rest,
    installation: Installation,
    replica: Callable[[str], OperatorProcess],
    scene: Scene,
) -> None:
    scene.play(training_goes_on)
    first = replica("replica-0").wait_until_leading()
    second = replica("replica-1")
    second.wait_for_metric(OperatorMetric.LEADER, 0.0, TAKEOVER_SECONDS)
    run = scene.create()
    scene.wait_for_gang(0)

    first.kill()
    wait_for_holder(rest, installation, "replica-1", TAKEOVER_SECONDS)
    pod = scene.wait_for_gang(0)[Place("train", 0, 0)]
    scene.rest.delete("pods", scene.namespace, pod["metadata"]["name"], grace_seconds=0)
    scene.wait_for_gang(1)

    first.start()
    first.wait_for_metric(OperatorMetric.LEADER, 0.0, TAKEOVER_SECONDS)
    assert holder(rest, installation) == "replica-1"
    assert second.stop() == 0
    wait_for_holder(rest, installation, "replica-0", HANDOVER_SECONDS)
    first.wait_until_leading()
    scene.play(everything_succeeds)
    status = scene.wait_for_phase("Succeeded")
    assert (attempts_of(status), status["restarts"]) == (["Failed", "Succeeded"], 1)
    scene.check_places(run, PREPARE, *gang(0), *gang(1), ("export", 1, 0))
    assert first.stop() == 0
    assert "Traceback" not in first.log + second.log


def test_what_happened_while_no_operator_was_there_is_found_by_the_next_one(
    rest: Rest, replica: Callable[[str], OperatorProcess], scene: Scene
) -> None:
    scene.play(training_goes_on)
    operator = replica("alone").wait_until_leading()
    runs = {name: scene.create(name=name) for name in ("deleted", "replaced", "failed", "finished")}
    for name in runs:
        scene.wait_for_condition("Running", "True", "StageStarted", "Train", name=name)
    operator.kill()

    for name in ("deleted", "replaced"):
        scene.delete(name)
    successor = scene.create(name="replaced")
    for name in ("deleted", "replaced"):
        # No operator is needed for that: nothing holds the run back, and its children go with it.
        scene.wait_until_nothing_is_left(runs[name]["metadata"]["uid"])
    victim = pod_of(scene, runs["failed"], 1)
    scene.rest.delete("pods", scene.namespace, victim["metadata"]["name"], grace_seconds=0)

    operator.start().wait_until_leading()
    scene.play(everything_succeeds)
    for name in ("replaced", "failed", "finished"):
        scene.wait_for_phase("Succeeded", name=name)
    assert attempts_of(scene.status("failed")) == ["Failed", "Succeeded"]
    failure = scene.status("failed")["attempts"][0]["failure"]
    assert (failure["reason"], failure["pod"]) == ("PodDeleted", victim["metadata"]["name"])
    assert attempts_of(scene.status("finished")) == ["Succeeded"]
    scene.check_places(runs["finished"], PREPARE, *gang(0), ("export", 0, 0))
    scene.check_places(runs["failed"], PREPARE, *gang(0), *gang(1), ("export", 1, 0))
    scene.check_places(successor, PREPARE, *gang(0), ("export", 0, 0))
    scene.check_places(runs["deleted"], PREPARE, *gang(0))
    scene.check_places(runs["replaced"], PREPARE, *gang(0))
    assert operator.stop() == 0


def pod_of(scene: Scene, run: Object, index: int) -> Object:
    """A training pod of a run."""
    labels = {
        Label.RUN_UID: run["metadata"]["uid"],
        Label.STAGE: "train",
        Label.NODE_INDEX: str(index),
    }
    pods = scene.children("pods")
    return next(pod for pod in pods if labels.items() <= pod["metadata"]["labels"].items())
