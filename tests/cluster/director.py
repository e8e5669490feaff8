"""Plays the processes of runs on fake nodes: when a pod runs, a script of its namespace says how it ends."""

import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from tests.cluster.rest import AnswerError, Object, Rest, path_of
from tests.cluster.steering import EXIT_CODE, EXIT_REASON, TERMINATION_MESSAGE
from trainyard_api.names import FIELD_MANAGER, Label

SELECTOR = f"{Label.MANAGED_BY}={FIELD_MANAGER}"
_WATCH_SECONDS = 5.0
MODEL = json.dumps({"uri": "file:///data/runs/model", "format": "safetensors", "parameters": 4_400_000})


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """Which pod of a run."""

    stage: str
    """prepare, train or export."""
    attempt: int
    index: int


@dataclass(frozen=True, slots=True)
class End:
    """How a pod's container ends."""

    exit_code: int = 0
    message: str = ""
    """Its termination message."""
    reason: str = ""
    """The kubelet's word, such as OOMKilled."""


Script = Callable[[Place], End | None]
"""How the pod at a place ends; None while it is to run on."""


def everything_succeeds(place: Place) -> End:
    """The script of a run without trouble."""
    return End(message=MODEL if place.stage == "export" else "")


def training_goes_on(place: Place) -> End | None:
    """The script of a run whose training takes long."""
    return None if place.stage == "train" else everything_succeeds(place)


def place_of(pod: Object) -> Place:
    """Which pod it is."""
    labels: Mapping[str, str] = pod["metadata"]["labels"]
    index = labels.get(Label.NODE_INDEX) or labels.get("batch.kubernetes.io/job-completion-index", "0")
    return Place(labels[Label.STAGE], int(labels[Label.ATTEMPT]), int(index))


class Director:
    """Watches the pods of all runs and lets them end; a context.

    Args:
        rest: the API server.
    """

    def __init__(self, rest: Rest) -> None:
        self._rest = rest
        self._scripts: dict[str, Script] = {}
        self._pods: dict[str, Object] = {}
        self._seen: dict[tuple[str, str, Place], set[str]] = {}
        self._told: set[str] = set()
        self._lock = threading.Lock()
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="director")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._is_over.set()
        self._thread.join()

    def direct(self, namespace: str, script: Script) -> None:
        """Play a script from now on, also for the pods that run already."""
        with self._lock:
            self._scripts[namespace] = script
            pods = [pod for pod in self._pods.values() if pod["metadata"]["namespace"] == namespace]
        for pod in pods:
            self._play(pod)

    def pods_at(self, namespace: str, run_uid: str) -> dict[Place, set[str]]:
        """The UIDs of all pods that were ever seen of a run, by their place."""
        with self._lock:
            return {
                place: set(uids)
                for (where, uid, place), uids in self._seen.items()
                if (where, uid) == (namespace, run_uid)
            }

    def _watch(self) -> None:
        while not self._is_over.is_set():
            path = path_of("pods")
            listing = self._rest.send("GET", f"{path}?labelSelector={SELECTOR.replace('=', '%3D')}")
            with self._lock:
                self._pods.clear()
            for pod in listing["items"]:
                self._take(pod)
            version = listing["metadata"]["resourceVersion"]
            for event in self._rest.watch(path, version, _WATCH_SECONDS, SELECTOR):
                if event["type"] == "ERROR" or self._is_over.is_set():
                    break
                if event["type"] == "DELETED":
                    with self._lock:
                        self._pods.pop(event["object"]["metadata"]["uid"], None)
                else:
                    self._take(event["object"])

    def _take(self, pod: Object) -> None:
        """Look at a pod."""
        metadata = pod["metadata"]
        with self._lock:
            self._pods[metadata["uid"]] = pod
            where = (metadata["namespace"], metadata["labels"][Label.RUN_UID], place_of(pod))
            self._seen.setdefault(where, set()).add(metadata["uid"])
        self._play(pod)

    def _play(self, pod: Object) -> None:
        """Let a pod end, if its script wants that."""
        metadata = pod["metadata"]
        script = self._scripts.get(metadata["namespace"], everything_succeeds)
        runs = pod.get("status", {}).get("phase") == "Running" and "deletionTimestamp" not in metadata
        end = script(place_of(pod)) if runs and metadata["uid"] not in self._told else None
        if end is None:
            return
        annotations = {EXIT_CODE: str(end.exit_code), TERMINATION_MESSAGE: end.message}
        if end.reason:
            annotations[EXIT_REASON] = end.reason
        patch = {"metadata": {"uid": metadata["uid"], "annotations": annotations}}
        try:
            self._rest.merge("pods", metadata["namespace"], metadata["name"], patch)
        except AnswerError as error:
            if error.code not in (404, 409):
                raise
        else:
            self._told.add(metadata["uid"])
