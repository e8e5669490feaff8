"""A run in a namespace of its own: how a scenario makes it, changes it, and waits for what becomes of it."""

import copy
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from tests.cluster.director import Director, End, Place, Script, everything_succeeds, place_of
from tests.cluster.real_pods import shared_folder_claim
from tests.cluster.reporter import Reporter, report_of, token_of
from tests.cluster.rest import AnswerError, Object, Rest
from tests.support.operator_harness import MANIFEST
from trainyard_api.names import Label

CLAIM = "trainyard"
NAME = "speeches"
USUAL_SECONDS = 150.0
"""Within seconds on an idle machine; more, because others may use it too."""

_CHILDREN = ("pods", "jobs", "services", "configmaps")


def merged(document: Object, patch: Mapping[str, Any]) -> Object:
    """A document with a JSON merge patch (RFC 7386) applied."""
    result = copy.deepcopy(document)
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        elif isinstance(value, Mapping):
            known = result.get(name)
            result[name] = merged(known if isinstance(known, dict) else {}, value)
        else:
            result[name] = value
    return result


class Scene:
    """One namespace.

    Args:
        rest: the API server, as an administrator.
        director: plays the processes.
        namespace: the namespace.
        reporter: the way from its pods to the operator; None where nothing is reported.
    """

    def __init__(
        self, rest: Rest, director: Director, namespace: str, reporter: Reporter | None = None
    ) -> None:
        self.rest = rest
        self.director = director
        self.namespace = namespace
        self.reporter = reporter

    def play(self, script: Script) -> None:
        """Play a script for the pods from now on."""
        self.director.direct(self.namespace, script)

    def fail(self, stage: str, attempts: Sequence[int], index: int, end: End) -> None:
        """Let one pod of some attempts fail while the others run on; all else succeeds."""

        def script(place: Place) -> End | None:
            if (place.stage, place.attempt in attempts) != (stage, True):
                return everything_succeeds(place)
            return end if place.index == index else None

        self.play(script)

    def create(self, name: str = NAME, **spec: Any) -> Object:
        """Create a run; `spec` is merged into that of a small run of two nodes."""
        document = yaml.safe_load(MANIFEST)
        document["metadata"] = {"name": name}
        document["spec"] = merged(document["spec"], spec)
        return self.rest.create("trainingruns", self.namespace, document)

    def edit(self, name: str = NAME, **spec: Any) -> None:
        """Merge into the spec of a run."""
        self.rest.merge("trainingruns", self.namespace, name, {"spec": spec})

    def delete(self, name: str = NAME) -> None:
        """Delete a run."""
        self.rest.delete("trainingruns", self.namespace, name)

    def run(self, name: str = NAME) -> Object:
        """A run as it is now."""
        return self.rest.get("trainingruns", self.namespace, name)

    def status(self, name: str = NAME) -> Object:
        """Its status."""
        status: Object = self.run(name).get("status", {})
        return status

    def wait_for(
        self,
        holds: Callable[[Object], object],
        what: str,
        seconds: float = USUAL_SECONDS,
        name: str = NAME,
    ) -> Object:
        """Wait until something holds for the status of a run, and return the status."""

        def found(runs: Sequence[Object]) -> Object | None:
            for run in runs:
                status: Object = run.get("status", {})
                if run["metadata"]["name"] == name and status and holds(status):
                    return status
            return None

        status = self.rest.wait("trainingruns", self.namespace, found, seconds, what)
        assert status is not None
        return status

    def wait_for_phase(self, phase: str, seconds: float = USUAL_SECONDS, name: str = NAME) -> Object:
        """Wait for the phase of a run, and return the status."""
        return self.wait_for(lambda status: status.get("phase") == phase, f"phase {phase}", seconds, name)

    def wait_for_condition(  # noqa: PLR0917 - what makes a condition
        self,
        kind: str,
        truth: str,
        reason: str,
        message: str = "",
        seconds: float = USUAL_SECONDS,
        name: str = NAME,
    ) -> Object:
        """Wait for a condition with a reason and a part of a message, and return the status."""

        def holds(status: Object) -> bool:
            condition = condition_of(status, kind)
            seen = (condition.get("status"), condition.get("reason"))
            return seen == (truth, reason) and message in condition.get("message", "")

        return self.wait_for(holds, f"{kind}={truth} {reason} {message!r}", seconds, name)

    def wait_for_pods(
        self,
        holds: Callable[[dict[Place, Object]], object],
        what: str,
        seconds: float = USUAL_SECONDS,
    ) -> dict[Place, Object]:
        """Wait until something holds for the pods that are there, the newest of each place; return them."""

        def found(pods: Sequence[Object]) -> dict[Place, Object] | None:
            by_age = sorted(pods, key=lambda pod: str(pod["metadata"]["creationTimestamp"]))
            by_place = {place_of(pod): pod for pod in by_age}
            return by_place if holds(by_place) else None

        pods = self.rest.wait("pods", self.namespace, found, seconds, what)
        return pods or {}

    def wait_for_gang(
        self, attempt: int, nodes: int = 2, seconds: float = USUAL_SECONDS
    ) -> dict[Place, Object]:
        """Wait until the training pods of an attempt run, and return all pods."""

        def runs(pods: dict[Place, Object]) -> bool:
            places = [Place("train", attempt, index) for index in range(nodes)]
            return all(
                place in pods and pods[place].get("status", {}).get("phase") == "Running" for place in places
            )

        return self.wait_for_pods(runs, f"{nodes} running pods of attempt {attempt}", seconds)

    def report(self, pod: Object, step: int, checkpoint_step: int | None = None) -> int:
        """Report a step of training as a pod; the status code of the answer."""
        assert self.reporter is not None
        run, attempt = pod["metadata"]["labels"][Label.RUN], place_of(pod).attempt
        token = token_of(self.rest, self.namespace, pod)
        return self.reporter.post(self.namespace, run, token, report_of(attempt, step, checkpoint_step)).code

    def wait_until_gone(self, name: str = NAME, seconds: float = USUAL_SECONDS) -> None:
        """Wait until a run is deleted."""
        self.rest.wait(
            "trainingruns",
            self.namespace,
            lambda runs: all(run["metadata"]["name"] != name for run in runs),
            seconds,
            f"{name} is gone",
        )

    def wait_until_nothing_is_left(self, uid: str, seconds: float = USUAL_SECONDS) -> None:
        """Wait until every object of a run is gone, by the label that all of them have."""
        for plural in _CHILDREN:
            self.rest.wait(
                plural,
                self.namespace,
                lambda found: all(
                    each["metadata"].get("labels", {}).get(Label.RUN_UID) != uid for each in found
                ),
                seconds,
                f"no {plural} of {uid}",
            )

    def children(self, plural: str) -> list[Object]:
        """The objects of a kind that belong to runs."""
        return [
            each
            for each in self.rest.list(plural, self.namespace)
            if Label.RUN_UID in each["metadata"].get("labels", {})
        ]

    def wait_for_events(self, *reasons: str, name: str = NAME, seconds: float = USUAL_SECONDS) -> list[str]:
        """Wait until a run has events of all these reasons, as often as given; the reasons of all of them.

        Events follow the status, so they may come a little later.
        """

        def found(events: Sequence[Object]) -> list[str] | None:
            told = [event for event in events if _is_about(event, name)]
            told.sort(key=lambda event: int(event["metadata"]["resourceVersion"]))
            seen = [str(event["reason"]) for event in told]
            return seen if not Counter(reasons) - Counter(seen) else None

        return self.rest.wait("events", self.namespace, found, seconds, f"events {reasons}") or []

    def events(self, name: str = NAME) -> list[str]:
        """The reasons of the events that a run has now."""
        found = self.rest.list("events", self.namespace)
        return [str(event["reason"]) for event in found if _is_about(event, name)]

    def check_places(self, run: Object, *places: tuple[str, int, int]) -> None:
        """Check that exactly these pods were ever made for a run, each of them once."""
        made = self.director.pods_at(self.namespace, run["metadata"]["uid"])
        assert sorted(made) == sorted(Place(*place) for place in places)
        doubled = {place: uids for place, uids in made.items() if len(uids) > 1}
        assert doubled == {}


def _is_about(event: Object, name: str) -> bool:
    """Whether an event is about a run of that name."""
    about = event["involvedObject"]
    return (about.get("kind"), about.get("name")) == ("TrainingRun", name)


def condition_of(status: Object, kind: str) -> Object:
    """A condition of a status; empty when it was never set."""
    conditions: Sequence[Object] = status.get("conditions", ())
    return next((condition for condition in conditions if condition["type"] == kind), {})


def attempts_of(status: Object) -> list[str]:
    """The outcomes of the attempts."""
    return [attempt.get("outcome", "") for attempt in status.get("attempts", ())]


def gang(attempt: int, nodes: int = 2) -> list[tuple[str, int, int]]:
    """The places of a training gang."""
    return [("train", attempt, index) for index in range(nodes)]


@contextmanager
def opened_scene(
    rest: Rest,
    director: Director,
    words: str,
    *,
    reporter: Reporter | None = None,
    claim: bool = True,
    labels: Mapping[str, str] | None = None,
) -> Iterator[Scene]:
    """A scene in a new namespace, which is deleted at its end, in the background.

    Args:
        rest: the API server.
        director: plays the processes.
        words: what the namespace is named after.
        reporter: the way from its pods to the operator.
        claim: whether it has the claim that runs use when they name none.
        labels: labels of the namespace.
    """
    namespace = f"{words[:40].strip('-')}-{uuid.uuid4().hex[:8]}"
    rest.create("namespaces", "", {"metadata": {"name": namespace, "labels": dict(labels or {})}})
    scene = Scene(rest, director, namespace, reporter)
    try:
        # Pods are refused until a controller has made the account that they run as.
        rest.wait("serviceaccounts", namespace, bool, USUAL_SECONDS, "the default account")
        if claim:
            add_claim(scene)
        yield scene
    finally:
        rest.delete("namespaces", "", namespace)
        _delete_volume(rest, namespace)


def add_claim(scene: Scene) -> None:
    """Make the claim that runs use when they name none, and wait until it is bound."""
    volume, claim = shared_folder_claim(CLAIM, scene.namespace, Path("/tmp"))  # noqa: S108 - fake pods write nothing
    scene.rest.create("persistentvolumes", "", volume)
    scene.rest.create("persistentvolumeclaims", scene.namespace, claim)
    scene.rest.wait(
        "persistentvolumeclaims",
        scene.namespace,
        lambda claims: [each for each in claims if each.get("status", {}).get("phase") == "Bound"],
        USUAL_SECONDS,
        "a bound claim",
    )


def _delete_volume(rest: Rest, namespace: str) -> None:
    try:
        rest.delete("persistentvolumes", "", f"{namespace}-{CLAIM}")
    except AnswerError as error:
        if error.code != 404:
            raise
