"""The operator dies at every write, a fifth of its requests fail, and its watches break: the end is the same.

The kinds of trouble are those of Sieve (OSDI '22): intermediate, unobserved and stale states. A proxy between
the operator and a real API server makes them.
"""

import itertools
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.cluster.director import Director, End, Place, everything_succeeds, training_goes_on
from tests.cluster.operator_process import Installation, OperatorProcess, kubeconfig_through
from tests.cluster.rest import Object, Rest
from tests.cluster.scene import NAME, Scene, attempts_of, gang, opened_scene
from tests.support.api_proxy import ApiProxy, Call, Fault, never

pytestmark = pytest.mark.control_plane

PLACES = [("prepare", 0, 0), *gang(0), *gang(1), ("export", 1, 0)]
"""Every pod of a run whose first gang fails once."""
AT_ONCE = 4
LEAST_WRITES = 15
UNCERTAIN_WRITES = 6
"""Writes more or less from one life to the next: statuses and their events are put together by time."""
NOTICED_SECONDS = 30.0
SLACK = 2.0
"""How much longer things may take because others use the machine too."""
CONVERGENCE_SECONDS = 240.0
REQUEST_SECONDS = 2.0

Through = Callable[..., AbstractContextManager[tuple[ApiProxy, OperatorProcess]]]


@dataclass
class EndsAt:
    """Lets nothing through any more from the n-th write on: the process that sent it is as good as dead.

    Attributes:
        number: n, from 1.
        is_committed: whether that write takes effect.
        at: that write, once it has come.
        has_come: tells that it has.
    """

    number: int
    is_committed: bool
    at: Call | None = None
    has_come: threading.Event = field(default_factory=threading.Event)
    count: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def __call__(self, call: Call) -> Fault:
        if self.at is not None:
            return Fault.CUT_BEFORE
        if not call.is_write or next(self.count) != self.number:
            return Fault.NONE
        self.at = call
        self.has_come.set()
        return Fault.CUT_AFTER if self.is_committed else Fault.CUT_BEFORE


@pytest.fixture
def through(installation: Installation, tmp_path: Path) -> Through:
    """Makes an operator that acts in one namespace, through a proxy of its own."""

    @contextmanager
    def make(
        namespace: str, fault_of: Callable[[Call], Fault] = never, **settings: object
    ) -> Iterator[tuple[ApiProxy, OperatorProcess]]:
        with ApiProxy(installation.kubeconfig, fault_of, lost_seconds=2 * REQUEST_SECONDS) as proxy:
            kubeconfig = kubeconfig_through(
                proxy.url, installation.kubeconfig, tmp_path / f"{namespace}.kubeconfig"
            )
            with OperatorProcess(
                installation,
                namespace,
                tmp_path / f"{namespace}.log",
                kubeconfig=kubeconfig,
                leader_election=False,
                settings={"namespaces": namespace, **settings},
            ) as operator:
                yield proxy, operator

    return make


def first_gang_fails(place: Place) -> End | None:
    """The script of a run whose second pod dies once."""
    if (place.stage, place.attempt) == ("train", 0):
        return End(137) if place.index == 1 else None
    return everything_succeeds(place)


def check_the_end(scene: Scene, run: Object) -> None:
    """Check what every run with one fault ends in: nothing twice, nothing left over, nothing forgotten."""
    status = scene.wait_for_phase("Succeeded", CONVERGENCE_SECONDS)
    assert attempts_of(status) == ["Failed", "Succeeded"]
    assert (status["restarts"], status["faultsSinceCheckpoint"]) == (1, 1)
    assert status["attempts"][0]["failure"]["exitCode"] == 137
    scene.check_places(run, *PLACES)
    scene.wait_for_pods(
        lambda pods: all(pod["status"]["phase"] in ("Succeeded", "Failed") for pod in pods.values()),
        "nothing runs any more",
    )
    assert [len(scene.children(plural)) for plural in ("services", "configmaps")] == [1, 2]


def test_an_operator_that_dies_at_any_write_comes_to_the_same_end(
    installation: Installation, rest: Rest, director: Director, through: Through, tmp_path: Path
) -> None:
    def live(number: int, *, is_committed: bool) -> tuple[Scene, Object, Call | None, int]:
        """One run with an operator that ends at a write."""
        scene = stack.enter_context(opened_scene(rest, director, f"dies-at-{number}"))
        scene.play(first_gang_fails)
        ending = EndsAt(number, is_committed)
        with through(scene.namespace, ending) as (proxy, operator):
            run = scene.create()
            deadline = time.monotonic() + CONVERGENCE_SECONDS
            while not ending.has_come.wait(0.2) and "RunSucceeded" not in scene.events():
                assert time.monotonic() < deadline, f"write {number} never came: {scene.status()}"
                assert operator.is_running
            operator.kill()
            return scene, run, ending.at, len(proxy.writes)

    with ExitStack() as stack:
        scene, run, _, num_writes = live(0, is_committed=False)
        check_the_end(scene, run)
        assert num_writes >= LEAST_WRITES
        numbers = range(1, num_writes + 1)
        with ThreadPoolExecutor(AT_ONCE) as threads:
            before = threads.map(lambda number: live(number, is_committed=False), numbers)
            after = threads.map(lambda number: live(number, is_committed=True), numbers)
            lives = [*before, *after]
        assert sum(at is not None for _, _, at, _ in lives) >= 2 * (num_writes - UNCERTAIN_WRITES)
        log = tmp_path / "second-life.log"
        with OperatorProcess(installation, "second-life", log, leader_election=False) as operator:
            for scene, run, at, _ in lives:
                try:
                    check_the_end(scene, run)
                except AssertionError as error:
                    raise AssertionError(f"after a death at {at}") from error
            assert operator.stop() == 0
            assert "Traceback" not in operator.log


@pytest.mark.parametrize("seed", [1, 2])
def test_with_a_fifth_of_all_requests_failing_runs_come_to_the_same_end(
    rest: Rest, director: Director, through: Through, seed: int
) -> None:
    chance = random.Random(seed)

    def fault_of(call: Call) -> Fault:
        if chance.random() >= 0.2:
            return Fault.NONE
        faults = [Fault.THROTTLED, Fault.FAILED, *([Fault.CONFLICT, Fault.LOST] if call.is_write else [])]
        return chance.choice(faults)

    with opened_scene(rest, director, f"fails-{seed}") as scene:
        scene.play(first_gang_fails)
        with through(scene.namespace, fault_of, request_timeout_seconds=REQUEST_SECONDS) as (proxy, operator):
            runs = [scene.create(name=f"{NAME}-{number}") for number in range(4)]
            for run in runs:
                name = run["metadata"]["name"]
                status = scene.wait_for_phase("Succeeded", CONVERGENCE_SECONDS, name=name)
                assert (attempts_of(status), status["restarts"]) == (["Failed", "Succeeded"], 1)
                scene.check_places(run, *PLACES)
            assert [len(scene.children(plural)) for plural in ("services", "configmaps")] == [4, 8]
            assert operator.is_running
            assert len(proxy.writes) > 4 * LEAST_WRITES
            proxy.fault_of = never
            for run in runs:
                scene.delete(run["metadata"]["name"])
            for run in runs:
                scene.wait_until_nothing_is_left(run["metadata"]["uid"])


def silent(proxy: ApiProxy) -> None:
    """The watches that are open say nothing any more, and do not end."""
    proxy.silence_watches()


def broken(code: int) -> Callable[[ApiProxy], None]:
    """The watches end with an event that reports an error."""
    return lambda proxy: proxy.break_watches(code)


def refused(code: int) -> Callable[[ApiProxy], None]:
    """The watches end, and new ones are refused for a while."""

    def make(proxy: ApiProxy) -> None:
        proxy.refused_watches = code
        proxy.break_watches(code)

    return make


BREAKS = {
    "silence": silent,
    **{f"error {code}": broken(code) for code in (500, 403, 504, 410)},
    **{f"refusal {code}": refused(code) for code in (500, 403, 429, 410)},
}


@pytest.mark.parametrize("name", BREAKS)
def test_broken_watches_are_noticed_and_repaired(
    rest: Rest, director: Director, through: Through, name: str
) -> None:
    with opened_scene(rest, director, f"watches-{name.replace(' ', '-')}") as scene:
        scene.play(training_goes_on)
        with through(scene.namespace) as (proxy, operator):
            scene.create()
            pod = scene.wait_for_gang(0)[Place("train", 0, 1)]
            scene.wait_for_condition("Running", "True", "StageStarted", "Train")
            # What happens from here on is not told by the watches that are open.
            BREAKS[name](proxy)
            scene.rest.delete("pods", scene.namespace, pod["metadata"]["name"], grace_seconds=0)
            if proxy.refused_watches is not None:
                threading.Timer(NOTICED_SECONDS / 3, setattr, (proxy, "refused_watches", None)).start()
            scene.wait_for_gang(1, seconds=NOTICED_SECONDS * SLACK)
            # And the watches work again: what happens now is told by them at once.
            scene.play(everything_succeeds)
            scene.wait_for_phase("Succeeded")
            assert operator.is_running


def test_a_deletion_that_watch_and_list_both_miss_is_noticed(
    rest: Rest, director: Director, through: Through
) -> None:
    with opened_scene(rest, director, "missed-deletion") as scene:
        scene.play(training_goes_on)
        with through(scene.namespace) as (proxy, operator):
            run = scene.create()
            pod = scene.wait_for_gang(0)[Place("train", 0, 1)]
            scene.wait_for_condition("Running", "True", "StageStarted", "Train")
            proxy.silence_watches()
            scene.rest.delete("pods", scene.namespace, pod["metadata"]["name"], grace_seconds=0)
            scene.wait_for_pods(lambda pods: Place("train", 0, 1) not in pods, "the pod is gone")
            # The list that follows does not have the pod, and no event tells of its end.
            proxy.break_watches(410)
            scene.wait_for_gang(1, seconds=NOTICED_SECONDS * SLACK)
            # The same with the run itself: everything that is kept of it is dropped.
            proxy.silence_watches()
            scene.delete()
            scene.wait_until_gone()
            proxy.break_watches(410)
            # Its list is empty now, so that the watch that is opened again tells nothing at all.
            operator.wait_until_untold(scene.namespace, NOTICED_SECONDS * SLACK)
            scene.wait_until_nothing_is_left(run["metadata"]["uid"])


@pytest.mark.parametrize("is_told", [True, False], ids=["watched", "missed by the watch"])
def test_a_deleted_service_or_plan_is_back_while_the_gang_works(
    rest: Rest, director: Director, through: Through, is_told: bool
) -> None:
    with opened_scene(rest, director, f"deleted-{is_told}".lower()) as scene:
        scene.play(training_goes_on)
        with through(scene.namespace) as (proxy, operator):
            scene.create()
            scene.wait_for_gang(0)
            scene.wait_for_condition("Running", "True", "StageStarted", "Train")
            children = {plural: scene.children(plural) for plural in ("services", "configmaps")}
            if not is_told:
                proxy.silence_watches()
            for plural, (child,) in children.items():
                scene.rest.delete(plural, scene.namespace, child["metadata"]["name"])
            if not is_told:
                proxy.break_watches(410)
            for plural, (child,) in children.items():
                gone = child["metadata"]
                scene.rest.wait(
                    plural,
                    scene.namespace,
                    lambda found, gone=gone: any(
                        each["metadata"]["name"] == gone["name"] and each["metadata"]["uid"] != gone["uid"]
                        for each in found
                    ),
                    NOTICED_SECONDS * SLACK,
                    f"{gone['name']} is back",
                )
            assert operator.is_running
            assert "Traceback" not in operator.log
