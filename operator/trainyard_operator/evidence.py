"""Why a gang failed: the pods that ended, the one that failed first, and what is known of it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pydantic import ValidationError

from trainyard_api.names import ExitCode, Reason
from trainyard_api.policy.failure import ProcessEnd, first_failure
from trainyard_api.progress import ExitRecord
from trainyard_api.status import Failure
from trainyard_operator.observe import ContainerEnd, ObservedPod

KILLED = 137
"""Exit code of a process that left none, because its pod or node went away: death by SIGKILL."""

_VAGUE = frozenset({ExitCode.RETRYABLE, ExitCode.PREEMPTED, 143, 130})
"""Codes that a process also leaves with when another one was the cause."""

_LOSS_REASONS = {
    "PreemptionByScheduler": Reason.PREEMPTED,
    "EvictionByEvictionAPI": Reason.EVICTED,
    "DeletionByTaintManager": Reason.NODE_LOST,
    "DeletionByPodGC": Reason.NODE_LOST,
    "TerminationByKubelet": Reason.EVICTED,
    "WorkloadDeleted": Reason.PREEMPTED,
    "NotAdmitted": Reason.PREEMPTED,
}
"""What the reasons of a disruption mean; those of Kueue are of its TerminationTarget condition."""

_QUEUE_EVICTION = "WorkloadEvicted"
"""How Kueue's reason begins when it takes back what it admitted, for whatever cause."""


@dataclass(frozen=True, slots=True)
class Loss:
    """What happened to a pod that did not fail by itself."""

    reason: Reason
    message: str


def loss_of(pod: ObservedPod) -> Loss | None:
    """What took a pod away; None when its process ended by itself."""
    if pod.disruption:
        by_queue = pod.disruption.startswith(_QUEUE_EVICTION)
        reason = Reason.PREEMPTED if by_queue else _LOSS_REASONS.get(pod.disruption, Reason.EVICTED)
        return Loss(reason, f"{pod.disruption}: {pod.disruption_message}".removesuffix(": "))
    if pod.reason in ("Evicted", "Preempting", "NodeAffinity", "Shutdown", "NodeShutdown", "Terminated"):
        return Loss(Reason.EVICTED, f"{pod.reason}: {pod.message}".removesuffix(": "))
    if pod.reason == "NodeLost":
        return Loss(Reason.NODE_LOST, pod.message or "The node does not answer any more")
    failed_by_itself = pod.end is not None and pod.end.exit_code not in (*_VAGUE, KILLED)
    if (pod.deleting_until is not None or pod.gone) and not failed_by_itself:
        return Loss(Reason.POD_DELETED, "The pod was deleted, not by the operator")
    return None


def is_clear(pods: Iterable[ObservedPod]) -> bool:
    """Whether the cause of a failure shows already, so that waiting for more evidence has no use."""
    return any(
        loss_of(pod) is not None or pod.end is None or pod.end.exit_code not in _VAGUE
        for pod in pods
        if pod.failed
    )


def failure_of(pods: Sequence[ObservedPod], missing: Sequence[str], now: float) -> Failure:
    """The failure that the others followed from, as it was written; the status draft clears it of secrets.

    Args:
        pods: the pods of the gang; at least one has failed, or one is missing.
        missing: names of pods that are gone without a trace.
        now: Unix time, in seconds.
    """
    ends = [_process_end(pod, now) for pod in pods if pod.failed]
    ends += [ProcessEnd(exit_code=KILLED, ended_at=now, pod=name) for name in missing]
    failure = first_failure(ends)
    if failure is None:
        raise ValueError("a failure needs a pod that failed or is missing")
    if failure.pod in missing:
        return failure.model_copy(
            update={"reason": Reason.POD_DELETED.value, "message": "The pod is gone without a trace"}
        )
    pod = next(pod for pod in pods if pod.name == failure.pod)
    loss = loss_of(pod)
    if loss is not None:
        return failure.model_copy(
            update={
                "exit_code": _exit_code_of_lost(pod, loss),
                "reason": loss.reason.value,
                "message": loss.message,
            }
        )
    if pod.end is None:
        return failure.model_copy(update={"message": pod.message or f"The pod failed ({pod.reason})"})
    if pod.end.init_container:
        return failure.model_copy(
            update={"message": f"Init container {pod.end.init_container}: {failure.message}"}
        )
    return failure


def record_of(end: ContainerEnd) -> ExitRecord | None:
    """What the process itself wrote when it left; None when the message is a log tail."""
    try:
        return ExitRecord.model_validate_json(end.message)
    except ValidationError:
        return None


def _process_end(pod: ObservedPod, now: float) -> ProcessEnd:
    """A failed pod as the policy sees it; one that was taken away counts as killed: it explains the rest."""
    ended_at = pod.ended_at if pod.ended_at is not None else now
    if pod.end is None:
        return ProcessEnd(exit_code=KILLED, ended_at=ended_at, pod=pod.name, node=pod.node)
    record = record_of(pod.end)
    return ProcessEnd(
        exit_code=pod.end.exit_code if loss_of(pod) is None else KILLED,
        ended_at=pod.end.finished_at or ended_at,
        rank=None if record is None else record.rank,
        pod=pod.name,
        node=pod.node,
        log_tail=pod.end.message if record is None else record.log_tail,
        record=record,
        out_of_memory=pod.end.reason == "OOMKilled",
    )


def _exit_code_of_lost(pod: ObservedPod, loss: Loss) -> int:
    """Exit code of a pod that was taken away.

    Preemption, by the scheduler or by a queue, is no fault of the run, whatever the process left with; nor is
    a process that saved its state.
    """
    if loss.reason is Reason.PREEMPTED:
        return ExitCode.PREEMPTED
    return pod.end.exit_code if pod.end is not None else KILLED
