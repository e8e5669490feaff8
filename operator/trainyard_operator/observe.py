"""What the operator keeps of the objects it sees: only what decisions read, so that memory stays small."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from trainyard_api.errors import ConfigurationError
from trainyard_api.names import API_VERSION, KIND, TRAINER_CONTAINER, KueueName, Label, Stage
from trainyard_api.status import TrainingRunStatus
from trainyard_api.timestamps import parse_timestamp
from trainyard_operator.cluster import Object
from trainyard_operator.keys import RunKey

_STAGES = {stage.lower(): stage for stage in Stage}


@dataclass(frozen=True, slots=True)
class ObservedRun:
    """A TrainingRun."""

    key: RunKey
    resource_version: str
    generation: int
    created_at: float
    """Unix time, in seconds."""
    deleting: bool
    """Whether it is being deleted."""
    document: bytes
    """JSON of the parts that a person writes: identity and spec."""
    written: TrainingRunStatus
    """The status that the API server has."""
    status: TrainingRunStatus
    """The status as it is by now; it may wait to be written, see `Store.believe`."""
    upstream_names: tuple[str, ...]
    """Runs whose models it starts from."""


@dataclass(frozen=True, slots=True)
class ContainerEnd:
    """How the training container ended, or the init container for which it never started."""

    exit_code: int
    reason: str
    """The kubelet's word, such as OOMKilled."""
    message: str
    """What the process left as its termination message."""
    finished_at: float
    """Unix time of the node's clock, in seconds; whole seconds."""
    init_container: str = ""
    """Name of the init container; empty for the training container."""


@dataclass(frozen=True, slots=True)
class ObservedPod:
    """A pod of a run."""

    name: str
    uid: str
    resource_version: str
    run: RunKey
    job_uid: str
    """Job that made it; empty for a pod of the run's own."""
    stage: Stage
    attempt: int
    index: int
    """Number in its gang."""
    phase: str
    node: str
    """Node it was bound to; empty before."""
    deleting_until: float | None
    """Unix time at which its grace period ends, when it is being deleted."""
    gated: bool
    """Whether a scheduling gate, such as Kueue's, holds it back."""
    unschedulable: str
    """What the scheduler said, when it found no node."""
    waiting_reason: str
    """Why its containers do not start, in the kubelet's word; empty when nothing is wrong."""
    waiting_message: str
    running: bool
    """Whether the training container runs."""
    end: ContainerEnd | None
    """How the training container ended."""
    reason: str
    """Why the pod failed, in the kubelet's word, such as Evicted."""
    message: str
    disruption: str
    """Why it is taken away, by the condition of whoever does: PreemptionByScheduler, WorkloadDeleted, ..."""
    disruption_message: str
    ended_at: float | None
    """Unix time of the operator's clock at which it was seen to have ended."""
    gone: bool = False
    """Whether it was seen to be deleted; kept for its evidence."""

    @property
    def has_ended(self) -> bool:
        """Whether its own work is over; sidecars may run on."""
        return self.gone or self.end is not None or self.phase in ("Succeeded", "Failed")

    @property
    def lingers(self) -> bool:
        """Whether only containers of podTemplate run on in it, which hold its devices for nothing."""
        return self.end is not None and self.phase == "Running" and not self.gone

    @property
    def succeeded(self) -> bool:
        """Whether the training container did its work."""
        return self.end.exit_code == 0 if self.end is not None else self.phase == "Succeeded"

    @property
    def failed(self) -> bool:
        """Whether it ended without having done its work."""
        return self.has_ended and not self.succeeded


@dataclass(frozen=True, slots=True)
class ObservedJob:
    """The Job of a stage that is no gang."""

    name: str
    uid: str
    resource_version: str
    run: RunKey
    stage: Stage
    attempt: int
    size: int
    """Pods that have to succeed."""
    deleting: bool
    suspended: bool
    """Whether it waits, such as for Kueue."""
    succeeded: int
    """Pods that have done so."""
    complete: bool
    failed: bool
    """Whether it has failed, or is about to once its pods have ended."""
    reason: str
    """Why it failed, in the Job controller's word, such as PodFailurePolicy."""
    message: str
    """The same for people."""


@dataclass(frozen=True, slots=True)
class ObservedObject:
    """A Service or a ConfigMap of a run; what is in it is never read again, only whether it is there."""

    name: str
    resource_version: str
    run: RunKey


def observe_run(raw: Object) -> ObservedRun:
    """The run in an object of the API server.

    Fields of the status that are not known are passed over: an operator of another version wrote them,
    before an upgrade or a roll-back.

    Raises:
        ConfigurationError: its status is none of ours, so nothing about it can be trusted.
    """
    metadata = raw["metadata"]
    spec = raw.get("spec")
    document = {
        "apiVersion": raw.get("apiVersion", API_VERSION),
        "kind": raw.get("kind", KIND),
        "metadata": {
            "name": metadata["name"],
            "namespace": metadata["namespace"],
            "labels": {
                name: value
                for name, value in (metadata.get("labels") or {}).items()
                if name == KueueName.PRIORITY_CLASS
            },
        },
        "spec": spec,
    }
    try:
        status = TrainingRunStatus.model_validate(raw.get("status") or {}, extra="ignore")
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ConfigurationError(
            f"status.{place}",
            first["msg"],
            "The status belongs to the operator; delete the run and create it again",
        ) from error
    return ObservedRun(
        key=RunKey(metadata["namespace"], metadata["name"], metadata["uid"]),
        resource_version=metadata["resourceVersion"],
        generation=metadata.get("generation", 1),
        created_at=parse_timestamp(metadata["creationTimestamp"]),
        deleting="deletionTimestamp" in metadata,
        document=json.dumps(document, separators=(",", ":")).encode(),
        written=status,
        status=status,
        upstream_names=tuple(_upstream_names(spec)),
    )


def observe_pod(raw: Object, now: float) -> ObservedPod | None:
    """The pod in an object of the API server; None when it is no pod of a run."""
    place = _place(raw)
    if place is None:
        return None
    run, job_uid, stage, attempt, index = place
    metadata, spec, status = raw["metadata"], raw.get("spec") or {}, raw.get("status") or {}
    conditions = {condition["type"]: condition for condition in status.get("conditions") or ()}
    state = _container_state(status)
    waiting = _waiting(status)
    scheduled = conditions.get("PodScheduled", {})
    is_unschedulable = scheduled.get("status") == "False" and scheduled.get("reason") == "Unschedulable"
    disruption = _disruption(conditions)
    phase = status.get("phase", "Pending")
    end = _end(state.get("terminated")) or (_end_before_start(status) if phase == "Failed" else None)
    return ObservedPod(
        name=metadata["name"],
        uid=metadata["uid"],
        resource_version=metadata["resourceVersion"],
        run=run,
        job_uid=job_uid,
        stage=stage,
        attempt=attempt,
        index=index,
        phase=phase,
        node=spec.get("nodeName", ""),
        deleting_until=_time(metadata.get("deletionTimestamp")),
        gated=bool(spec.get("schedulingGates")),
        unschedulable=scheduled.get("message", "") if is_unschedulable else "",
        waiting_reason=waiting.get("reason", ""),
        waiting_message=waiting.get("message", ""),
        running="running" in state,
        end=end,
        reason=status.get("reason", ""),
        message=status.get("message", ""),
        disruption=disruption.get("reason", ""),
        disruption_message=disruption.get("message", ""),
        ended_at=now if end is not None or phase in ("Succeeded", "Failed") else None,
    )


def observe_job(raw: Object) -> ObservedJob | None:
    """The Job in an object of the API server; None when it is no Job of a run."""
    place = _place(raw)
    if place is None:
        return None
    run, job_uid, stage, attempt, _ = place
    if job_uid:
        return None
    metadata, status = raw["metadata"], raw.get("status") or {}
    true = {
        condition["type"]: condition
        for condition in status.get("conditions") or ()
        if condition.get("status") == "True"
    }
    failure = true.get("Failed") or true.get("FailureTarget")
    return ObservedJob(
        name=metadata["name"],
        uid=metadata["uid"],
        resource_version=metadata["resourceVersion"],
        run=run,
        stage=stage,
        attempt=attempt,
        size=(raw.get("spec") or {}).get("completions", 1),
        deleting="deletionTimestamp" in metadata,
        suspended="Suspended" in true or bool((raw.get("spec") or {}).get("suspend")),
        succeeded=status.get("succeeded") or 0,
        complete="Complete" in true,
        failed=failure is not None,
        reason=failure.get("reason", "") if failure else "",
        message=failure.get("message", "") if failure else "",
    )


def observe_object(raw: Object) -> ObservedObject | None:
    """The Service or ConfigMap whose metadata this is; None when no run owns it."""
    metadata = raw["metadata"]
    for owner in metadata.get("ownerReferences") or ():
        if (owner.get("apiVersion"), owner.get("kind")) == (API_VERSION, KIND):
            run = RunKey(metadata["namespace"], owner["name"], owner["uid"])
            return ObservedObject(metadata["name"], metadata["resourceVersion"], run)
    return None


def version_number(resource_version: str) -> int:
    """A resourceVersion as a number that grows with time; 0 for one that is none, which then never wins."""
    return int(resource_version) if resource_version.isdigit() else 0


def _place(raw: Object) -> tuple[RunKey, str, Stage, int, int] | None:
    """Whose child an object is, by which Job, and where it belongs; None for what only looks like a child.

    Labels alone are no proof, because whoever may create pods may set them: the owner reference has to name
    the run, or a Job, of which `Store` knows whether it is the run's.
    """
    metadata = raw["metadata"]
    labels: Mapping[str, str] = metadata.get("labels") or {}
    name, uid = labels.get(Label.RUN), labels.get(Label.RUN_UID)
    stage, attempt = _STAGES.get(labels.get(Label.STAGE, "")), labels.get(Label.ATTEMPT, "")
    if not name or not uid or stage is None or not attempt.isdigit():
        return None
    owners: Iterable[Mapping[str, Any]] = metadata.get("ownerReferences") or ()
    is_own = any(owner.get("uid") == uid for owner in owners)
    job_uid = "" if is_own else next((owner["uid"] for owner in owners if owner.get("kind") == "Job"), "")
    if not is_own and not job_uid:
        return None
    index = labels.get(Label.NODE_INDEX) or labels.get("batch.kubernetes.io/job-completion-index") or "0"
    return (
        RunKey(metadata["namespace"], name, uid),
        job_uid,
        stage,
        int(attempt),
        int(index) if index.isdigit() else 0,
    )


def _disruption(conditions: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any]:
    """The condition that tells why a pod is taken away; empty when none does.

    Kueue sets TerminationTarget on the pods that it stops, Kubernetes itself DisruptionTarget. What Kueue
    says comes first: it stops no pod that is being deleted already.
    """
    for kind in ("TerminationTarget", "DisruptionTarget"):
        condition = conditions.get(kind, {})
        if condition.get("status") == "True":
            return condition
    return {}


def _container_state(status: Mapping[str, Any]) -> Mapping[str, Any]:
    """State of the training container; its end is the pod's, a sidecar that lives on changes nothing."""
    for container in status.get("containerStatuses") or ():
        if container.get("name") == TRAINER_CONTAINER:
            state: Mapping[str, Any] = container.get("state") or {}
            return state
    return {}


def _waiting(status: Mapping[str, Any]) -> Mapping[str, Any]:
    """The first container that waits for something that is wrong; starting and pulling are not wrong."""
    statuses = [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]
    for container in statuses:
        waiting: Mapping[str, Any] = (container.get("state") or {}).get("waiting") or {}
        if waiting.get("reason", "") not in ("", "ContainerCreating", "PodInitializing"):
            return waiting
    return {}


def _end_before_start(status: Mapping[str, Any]) -> ContainerEnd | None:
    """How the init container ended for which a failed pod never started its training, if one did."""
    for container in status.get("initContainerStatuses") or ():
        end = _end((container.get("state") or {}).get("terminated"))
        if end is not None and end.exit_code != 0:
            return replace(end, init_container=container.get("name", ""))
    return None


def _end(terminated: Mapping[str, Any] | None) -> ContainerEnd | None:
    """How a container ended."""
    if terminated is None:
        return None
    return ContainerEnd(
        exit_code=terminated.get("exitCode", 0),
        reason=terminated.get("reason", ""),
        message=terminated.get("message", ""),
        finished_at=_time(terminated.get("finishedAt")) or 0.0,
    )


def _time(timestamp: str | None) -> float | None:
    """Unix time of an optional timestamp."""
    return parse_timestamp(timestamp) if timestamp else None


def _upstream_names(spec: Any) -> Iterable[str]:
    """Names of the runs that a spec refers to; it is not validated yet, so anything may be anything."""
    spec = spec if isinstance(spec, dict) else {}
    distillation = spec.get("distillation")
    teacher = distillation.get("teacher") if isinstance(distillation, dict) else None
    for model in (spec.get("model"), teacher):
        reference = model.get("fromRun") if isinstance(model, dict) else None
        name = reference.get("name") if isinstance(reference, dict) else None
        if isinstance(name, str):
            yield name
