"""Everything the operator has seen, in memory: filled by watches, by its own writes, and by the resync."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from trainyard_api.status import TrainingRunStatus
from trainyard_operator.keys import RunKey
from trainyard_operator.observe import (
    ObservedJob,
    ObservedObject,
    ObservedPod,
    ObservedRun,
    version_number,
)

Child = ObservedPod | ObservedJob | ObservedObject
Identity = RunKey | tuple[RunKey, str]
"""A run, or a child by its run and its own UID, or its name where only that is kept."""


@dataclass(slots=True)
class Children:
    """The objects of one run, by name."""

    pods: dict[str, ObservedPod] = field(default_factory=dict)
    jobs: dict[str, ObservedJob] = field(default_factory=dict)
    objects: dict[str, str] = field(default_factory=dict)
    """The resourceVersion of each Service and ConfigMap."""
    job_uids: set[str] = field(default_factory=set)
    """Every Job of the run that was seen, those that are gone too."""

    def has(self, pod: ObservedPod) -> bool:
        """Whether a pod is the run's: made by the operator, or by a Job that it made."""
        return not pod.job_uid or pod.job_uid in self.job_uids


class Store:
    """The newest version of every run, pod and Job, and which Services and ConfigMaps are there.

    An older version never replaces a newer one, because watches lag behind the operator's own writes. Each
    `put_` and `remove_` returns the runs that have to be looked at because of it.
    """

    def __init__(self) -> None:
        self._runs: dict[RunKey, ObservedRun] = {}
        self._keys: dict[tuple[str, str], RunKey] = {}
        self._children: dict[RunKey, Children] = {}
        self._dependents: dict[tuple[str, str], set[RunKey]] = {}
        self._owners: dict[tuple[str, str], tuple[str, RunKey]] = {}

    def __len__(self) -> int:
        """Number of runs."""
        return len(self._runs)

    def all_keys(self) -> list[RunKey]:
        """All runs."""
        return list(self._runs)

    def run(self, key: RunKey) -> ObservedRun | None:
        """A run; None when it is gone or not seen yet."""
        return self._runs.get(key)

    def has_run(self, metadata: Mapping[str, Any]) -> bool:
        """Whether the version of a run that its metadata names, or a later one, is known."""
        known = self._runs.get(RunKey(metadata["namespace"], metadata["name"], metadata["uid"]))
        return known is not None and not _is_newer(metadata["resourceVersion"], known.resource_version)

    def run_by_name(self, namespace: str, name: str) -> ObservedRun | None:
        """The run that has a name now."""
        key = self._keys.get((namespace, name))
        return None if key is None else self._runs.get(key)

    def pods(self, key: RunKey) -> Iterator[ObservedPod]:
        """The pods of a run, and those that were seen to go in its current attempts."""
        children = self._children.get(key)
        return iter(()) if children is None else filter(children.has, list(children.pods.values()))

    def jobs(self, key: RunKey) -> Iterator[ObservedJob]:
        """The Jobs of a run."""
        children = self._children.get(key)
        return iter(()) if children is None else iter(list(children.jobs.values()))

    def has_objects(self, key: RunKey, names: Iterable[str]) -> bool:
        """Whether Services and ConfigMaps of a run are all there."""
        children = self._children.get(key)
        return children is not None and all(name in children.objects for name in names)

    def run_of_pod(self, namespace: str, pod_name: str, pod_uid: str) -> RunKey | None:
        """The run that a pod belongs to; None for a pod that is not there or is no pod of a known run."""
        uid, key = self._owners.get((namespace, pod_name), ("", None))
        if uid != pod_uid or key is None or key not in self._runs:
            return None
        children = self._children[key]
        return key if children.has(children.pods[pod_name]) else None

    def put_run(self, run: ObservedRun) -> set[RunKey]:
        """Take over a version of a run."""
        known = self._runs.get(run.key)
        if known is not None and not _is_newer(run.resource_version, known.resource_version):
            return set()
        self._forget_upstreams(run.key)
        self._runs[run.key] = run
        place = (run.key.namespace, run.key.name)
        holder = self._runs.get(self._keys.get(place, run.key))
        if holder is None or _is_newer(run.resource_version, holder.resource_version) or holder is run:
            self._keys[place] = run.key
        for name in run.upstream_names:
            self._dependents.setdefault((run.key.namespace, name), set()).add(run.key)
        return {run.key} | self._dependents.get(place, set())

    def believe(self, key: RunKey, status: TrainingRunStatus) -> None:
        """Have later passes go on from a status that is not written yet, until the run has a new version."""
        run = self._runs.get(key)
        if run is not None:
            self._runs[key] = replace(run, status=status)

    def remove_run(self, key: RunKey) -> set[RunKey]:
        """A run is gone; its children are the garbage collector's."""
        place = (key.namespace, key.name)
        self._forget_upstreams(key)
        self._runs.pop(key, None)
        if self._keys.get(place) == key:
            del self._keys[place]
        return {key} | self._dependents.get(place, set())

    def forget(self, key: RunKey) -> None:
        """Drop the children of a run that is gone."""
        children = self._children.pop(key, Children())
        for name in children.pods:
            self._owners.pop((key.namespace, name), None)

    def put_pod(self, pod: ObservedPod) -> set[RunKey]:
        """Take over a version of a pod."""
        children = self._children.setdefault(pod.run, Children())
        known = children.pods.get(pod.name)
        if known is not None and not _supersedes(pod, known):
            return set()
        if known is not None and known.uid == pod.uid and known.ended_at is not None:
            pod = replace(pod, ended_at=known.ended_at)
        children.pods[pod.name] = pod
        self._owners[pod.run.namespace, pod.name] = (pod.uid, pod.run)
        return {pod.run}

    def remove_pod(self, pod: ObservedPod, now: float) -> set[RunKey]:
        """A pod is gone; what was last seen of it stays as evidence until its attempt is settled."""
        children = self._children.get(pod.run)
        known = None if children is None else children.pods.get(pod.name)
        if children is None or known is None or known.uid != pod.uid:
            return set()
        children.pods[pod.name] = replace(pod, gone=True, ended_at=known.ended_at or now)
        self._owners.pop((pod.run.namespace, pod.name), None)
        return {pod.run}

    def put_job(self, job: ObservedJob) -> set[RunKey]:
        """Take over a version of a Job."""
        children = self._children.setdefault(job.run, Children())
        known = children.jobs.get(job.name)
        if known is not None and not _is_newer(job.resource_version, known.resource_version):
            return set()
        children.jobs[job.name] = job
        children.job_uids.add(job.uid)
        return {job.run}

    def remove_job(self, job: ObservedJob) -> set[RunKey]:
        """A Job is gone."""
        children = self._children.get(job.run)
        known = None if children is None else children.jobs.get(job.name)
        if children is None or known is None or known.uid != job.uid:
            return set()
        del children.jobs[job.name]
        return {job.run}

    def put_object(self, seen: ObservedObject) -> set[RunKey]:
        """Take over that a Service or ConfigMap is there; nothing follows from that."""
        objects = self._children.setdefault(seen.run, Children()).objects
        known = objects.get(seen.name)
        if known is None or _is_newer(seen.resource_version, known):
            objects[seen.name] = seen.resource_version
        return set()

    def remove_object(self, seen: ObservedObject) -> set[RunKey]:
        """A Service or ConfigMap is gone, unless another one of its name has been made since."""
        children = self._children.get(seen.run)
        known = None if children is None else children.objects.get(seen.name)
        if children is None or known is None or _is_newer(known, seen.resource_version):
            return set()
        del children.objects[seen.name]
        return {seen.run}

    def drop_evidence(self, key: RunKey, before_attempt: int) -> None:
        """Drop what was kept of pods that are gone, for attempts that are settled."""
        children = self._children.get(key)
        if children is None:
            return
        for name, pod in list(children.pods.items()):
            if pod.gone and pod.attempt < before_attempt:
                del children.pods[name]

    def versions(self) -> dict[Identity, str]:
        """The resourceVersion of everything that is known and not known to be gone."""
        known: dict[Identity, str] = {key: run.resource_version for key, run in self._runs.items()}
        for key, children in self._children.items():
            for pod in children.pods.values():
                if not pod.gone:
                    known[key, pod.uid] = pod.resource_version
            for job in children.jobs.values():
                known[key, job.uid] = job.resource_version
            for name, version in children.objects.items():
                known[key, name] = version
        return known

    def compare(
        self,
        runs: Iterable[ObservedRun],
        children: Iterable[Child],
        before: Mapping[Identity, str],
        now: float,
    ) -> set[RunKey]:
        """Take over complete lists: what is newer in them, and that what is not in them is gone.

        Args:
            runs: every run of the namespaces that are served.
            children: every pod, Job, Service and ConfigMap of theirs.
            before: `versions()` from before the lists were asked for; what has changed since is left alone.
            now: Unix time, in seconds.
        """
        changed: set[RunKey] = set()
        listed: set[Identity] = set()
        for run in runs:
            listed.add(run.key)
            changed |= self.put_run(run)
        for child in children:
            listed.add(_identity(child))
            changed |= self._put(child)
        known = self.versions()
        for identity, version in before.items():
            if identity not in listed and known.get(identity) == version:
                changed |= self._remove(identity, now)
        return changed

    def _put(self, child: Child) -> set[RunKey]:
        """Take over a version of a child."""
        match child:
            case ObservedPod():
                return self.put_pod(child)
            case ObservedJob():
                return self.put_job(child)
            case ObservedObject():
                return self.put_object(child)

    def _remove(self, identity: Identity, now: float) -> set[RunKey]:
        """Something is gone."""
        if isinstance(identity, RunKey):
            return self.remove_run(identity)
        key, uid = identity
        version = self._children[key].objects.get(uid)
        if version is not None:
            return self.remove_object(ObservedObject(uid, version, key))
        for pod in self.pods(key):
            if pod.uid == uid:
                return self.remove_pod(pod, now)
        for job in self.jobs(key):
            if job.uid == uid:
                return self.remove_job(job)
        return set()

    def _forget_upstreams(self, key: RunKey) -> None:
        """A run refers to no other any more."""
        known = self._runs.get(key)
        for name in known.upstream_names if known is not None else ():
            dependents = self._dependents.get((key.namespace, name), set())
            dependents.discard(key)
            if not dependents:
                self._dependents.pop((key.namespace, name), None)


def _identity(child: Child) -> Identity:
    """What tells a child from all others."""
    return child.run, child.name if isinstance(child, ObservedObject) else child.uid


def _is_newer(version: str, known: str) -> bool:
    """Whether a resourceVersion is later than another."""
    return version_number(version) > version_number(known)


def _supersedes(pod: ObservedPod, known: ObservedPod) -> bool:
    """Whether a pod replaces what is known under its name: a later version of it, or a later pod."""
    if known.gone and known.uid == pod.uid:
        return False
    return _is_newer(pod.resource_version, known.resource_version)
