"""An API server in memory, with the behaviour that a controller depends on, and faults on demand."""

import asyncio
import copy
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from trainyard_api.status import TrainingRunStatus
from trainyard_api.timestamps import format_timestamp
from trainyard_operator.cluster import (
    CLAIMS,
    CONFIG_MAPS,
    EVENTS,
    JOBS,
    LEASES,
    PODS,
    RUNS,
    SERVICES,
    Deletion,
    Object,
    Resource,
)
from trainyard_operator.errors import AlreadyExistsError, ConflictError, InvalidError, NotFoundError

KNOWN = {
    resource.plural: resource
    for resource in (CLAIMS, CONFIG_MAPS, EVENTS, JOBS, LEASES, PODS, RUNS, SERVICES)
}

Watcher = Callable[[Resource, str, Object], None]
"""Told of every change: kind of object, ADDED, MODIFIED or DELETED, and the object."""


@dataclass(frozen=True)
class Call:
    """A request that was made."""

    verb: str
    resource: str
    name: str

    @property
    def is_write(self) -> bool:
        """Whether it changes something."""
        return self.verb not in ("get", "list")


Fault = Callable[[Call, bool], None]
"""Called before (False) and after (True) each request takes effect; raises to make it fail there."""


def no_fault(call: Call, committed: bool) -> None:
    """Everything works."""


@dataclass
class FakeCluster:
    """Implements trainyard_operator.cluster.Cluster.

    Attributes:
        clock: Unix time in seconds.
        fault: makes requests fail.
        latency_seconds: how long each request takes.
    """

    clock: Callable[[], float]
    fault: Fault = no_fault
    latency_seconds: float = 0.001
    calls: list[Call] = field(default_factory=list)
    watchers: list[Watcher] = field(default_factory=list)
    _objects: dict[tuple[str, str, str], Object] = field(default_factory=dict)
    _version: int = 0

    # What the operator may ask.

    async def get(self, resource: Resource, namespace: str, name: str) -> Object:
        async with _Request(self, Call("get", resource.plural, name)):
            return copy.deepcopy(self._existing(resource, namespace, name))

    async def pages(
        self, resource: Resource, namespace: str | None, label_selector: str = ""
    ) -> AsyncIterator[list[Object]]:
        async with _Request(self, Call("list", resource.plural, label_selector)):
            found = list(self._selected(resource, namespace, label_selector))
        for start in range(0, max(1, len(found)), 3):
            yield copy.deepcopy(found[start : start + 3])

    async def create(
        self, resource: Resource, namespace: str, body: Object, *, dry_run: bool = False
    ) -> Object:
        async with _Request(self, Call("create", resource.plural, body["metadata"]["name"])):
            return copy.deepcopy(body) if dry_run else self.put_new(resource, namespace, body)

    async def apply(self, resource: Resource, namespace: str, body: Object) -> Object:
        name = body["metadata"]["name"]
        async with _Request(self, Call("apply", resource.plural, name)):
            if (resource.plural, namespace, name) not in self._objects:
                return self.put_new(resource, namespace, body)
            return self.change(resource, namespace, name, lambda stored: _merge(stored, body))

    async def replace(self, resource: Resource, namespace: str, body: Object) -> Object:
        name = body["metadata"]["name"]
        async with _Request(self, Call("replace", resource.plural, name)):
            stored = self._existing(resource, namespace, name)
            _check_version(stored, body["metadata"])
            kept = {key: stored["metadata"][key] for key in ("uid", "creationTimestamp")}

            def replaced(stored: Object) -> None:
                stored.clear()
                stored.update(copy.deepcopy(body))
                stored["metadata"].update(kept)

            return self.change(resource, namespace, name, replaced)

    async def patch_status(self, resource: Resource, namespace: str, name: str, patch: Object) -> Object:
        assert set(patch) <= {"metadata", "status"}
        async with _Request(self, Call("patch_status", resource.plural, name)):
            stored = self._existing(resource, namespace, name)
            _check_version(stored, patch.get("metadata", {}))

            def patched(stored: Object) -> None:
                stored.setdefault("status", {})
                _merge(stored["status"], patch["status"])
                TrainingRunStatus.model_validate(stored["status"])

            return self.change(resource, namespace, name, patched)

    async def delete(self, resource: Resource, namespace: str, name: str, deletion: Deletion) -> None:
        async with _Request(self, Call("delete", resource.plural, name)):
            stored = self._existing(resource, namespace, name)
            if deletion.uid is not None and stored["metadata"]["uid"] != deletion.uid:
                raise ConflictError(f"the UID of {name} is another one", "Conflict")
            self.remove(resource, namespace, name, deletion.grace_seconds)

    async def delete_all(
        self, resource: Resource, namespace: str, label_selector: str, deletion: Deletion
    ) -> None:
        assert label_selector
        async with _Request(self, Call("delete_all", resource.plural, label_selector)):
            for stored in list(self._selected(resource, namespace, label_selector)):
                self.remove(resource, namespace, stored["metadata"]["name"], deletion.grace_seconds)

    # What tests and the fakes of other components do; no faults, no time.

    def objects(self, resource: Resource, namespace: str | None = None) -> list[Object]:
        """All objects of a kind."""
        return list(self._selected(resource, namespace, ""))

    def stored(self, resource: Resource, namespace: str, name: str) -> Object:
        """One object, as it is stored."""
        return self._existing(resource, namespace, name)

    def put_new(self, resource: Resource, namespace: str, body: Object) -> Object:
        """Store a new object as the API server would."""
        assert resource.plural in KNOWN, f"unexpected kind {resource.plural}"
        name = body["metadata"]["name"]
        if (resource.plural, namespace, name) in self._objects:
            raise AlreadyExistsError(f'{resource.plural} "{name}" already exists', "AlreadyExists")
        for owner in body["metadata"].get("ownerReferences", ()):
            assert owner["uid"], "an owner needs a UID"
        stored = copy.deepcopy(body)
        metadata = stored["metadata"]
        metadata.setdefault("namespace", namespace)
        assert metadata["namespace"] == namespace
        metadata["uid"] = str(uuid.uuid4())
        metadata["creationTimestamp"] = format_timestamp(self.clock())
        metadata["generation"] = 1
        if resource == PODS:
            stored["status"] = {"phase": "Pending"}
        self._objects[resource.plural, namespace, name] = stored
        self._stamp(stored)
        self._tell(resource, "ADDED", stored)
        return copy.deepcopy(stored)

    def change(self, resource: Resource, namespace: str, name: str, edit: Callable[[Object], Any]) -> Object:
        """Change an object; nothing happens when it stays equal, as in the API server."""
        key = (resource.plural, namespace, name)
        stored = self._existing(resource, namespace, name)
        edited = copy.deepcopy(stored)
        edit(edited)
        if edited == stored:
            return copy.deepcopy(stored)
        if edited.get("spec") != stored.get("spec"):
            edited["metadata"]["generation"] += 1
        self._objects[key] = edited
        self._stamp(edited)
        self._tell(resource, "MODIFIED", edited)
        return copy.deepcopy(edited)

    def remove(self, resource: Resource, namespace: str, name: str, grace_seconds: int | None = None) -> None:
        """Delete an object: a pod on a node gets its grace period, the rest goes with what it owns."""
        stored = self._existing(resource, namespace, name)
        if resource == PODS and stored.get("spec", {}).get("nodeName") and _is_live(stored):
            grace = stored["spec"].get("terminationGracePeriodSeconds", 30)
            grace = grace if grace_seconds is None else grace_seconds
            if "deletionTimestamp" not in stored["metadata"]:
                until = format_timestamp(self.clock() + grace)
                self.change(
                    resource, namespace, name, lambda pod: pod["metadata"].update(deletionTimestamp=until)
                )
            return
        self.erase(resource, namespace, name)

    def erase(self, resource: Resource, namespace: str, name: str) -> None:
        """Take an object away at once, and what it owns: the garbage collector."""
        stored = self._objects.pop((resource.plural, namespace, name), None)
        if stored is None:
            return
        self._stamp(stored)
        self._tell(resource, "DELETED", stored)
        uid = stored["metadata"]["uid"]
        for kind, place, child in list(self._objects):
            owned = self._objects.get((kind, place, child))
            owners = owned["metadata"].get("ownerReferences", ()) if owned is not None else ()
            if any(owner["uid"] == uid for owner in owners):
                self.remove(KNOWN[kind], place, child)

    def writes(self, but: tuple[str, ...] = ("pods", "events")) -> Counter[str]:
        """How many writes the operator made, by kind of object."""
        return Counter(call.resource for call in self.calls if call.is_write and call.resource not in but)

    def _existing(self, resource: Resource, namespace: str, name: str) -> Object:
        try:
            return self._objects[resource.plural, namespace, name]
        except KeyError:
            raise NotFoundError(f'{resource.plural} "{name}" not found', "NotFound") from None

    def _selected(self, resource: Resource, namespace: str | None, selector: str) -> Iterator[Object]:
        for (kind, place, _), stored in list(self._objects.items()):
            if kind == resource.plural and namespace in (None, place) and _matches(stored, selector):
                yield stored

    def _stamp(self, stored: Object) -> None:
        self._version += 1
        stored["metadata"]["resourceVersion"] = str(self._version)

    def _tell(self, resource: Resource, kind: str, stored: Object) -> None:
        for watcher in list(self.watchers):
            watcher(resource, kind, copy.deepcopy(stored))


class _Request:
    """One request: recorded, taking time, and failing where the test wants it to."""

    def __init__(self, cluster: FakeCluster, call: Call) -> None:
        self._cluster = cluster
        self._call = call

    async def __aenter__(self) -> None:
        self._cluster.calls.append(self._call)
        await asyncio.sleep(self._cluster.latency_seconds)
        self._cluster.fault(self._call, False)

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._cluster.fault(self._call, True)


def _check_version(stored: Object, wanted: Object) -> None:
    for name in ("resourceVersion", "uid"):
        if name in wanted and wanted[name] != stored["metadata"][name]:
            raise ConflictError(f"{name} is {stored['metadata'][name]}, not {wanted[name]}", "Conflict")


def _merge(target: Object, patch: Object) -> None:
    """JSON merge patch."""
    for name, value in patch.items():
        if value is None:
            target.pop(name, None)
        elif isinstance(value, dict) and isinstance(target.get(name), dict):
            _merge(target[name], value)
        else:
            target[name] = copy.deepcopy(value)


def _is_live(pod: Object) -> bool:
    return pod["status"].get("phase") not in ("Succeeded", "Failed")


def _matches(stored: Object, selector: str) -> bool:
    """Equality and set selectors, as far as the operator uses them."""
    labels = stored["metadata"].get("labels", {})
    rest = selector
    while rest:
        if " in (" in rest.split(",")[0]:
            name, _, tail = rest.partition(" in (")
            values, _, rest = tail.partition(")")
            if labels.get(name) not in values.split(","):
                return False
        else:
            requirement, _, rest = rest.partition(",")
            name, _, value = requirement.partition("=")
            if not value:
                raise InvalidError(f"selector {requirement!r} is none that the fake knows")
            if labels.get(name) != value:
                return False
        rest = rest.removeprefix(",")
    return True
