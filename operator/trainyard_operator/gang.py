"""The pods of a stage as one thing: whether they are there, have nodes, run, are done, or have failed."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from trainyard_api.names import FIRST_SHARD, GANG_STAGES, ConditionType, Reason, Stage
from trainyard_api.policy.conditions import find_condition
from trainyard_api.status import Attempt, Progress
from trainyard_api.timestamps import parse_timestamp
from trainyard_operator.observe import ObservedJob, ObservedPod, version_number
from trainyard_operator.status import StatusDraft

OVERDUE_SECONDS = 10.0
"""How long after its grace period a pod that is being deleted still counts as there; its node may be dead."""

PODLESS_SECONDS = 3.0
"""How long a Job may have no pods before the API server is asked whether it would take one."""

_KNOWN_REASONS = {reason.value: reason for reason in Reason}


@dataclass(frozen=True, slots=True)
class Gang:
    """What is seen of one stage of one attempt."""

    stage: Stage
    size: int
    """Pods that belong to it."""
    pods: tuple[ObservedPod, ...]
    """Those that are there or were seen to go, by index; of a Job, all that it started."""
    job: ObservedJob | None
    """The Job, for a stage that is one."""

    @property
    def is_job(self) -> bool:
        """Whether a Job makes its pods."""
        return self.job is not None

    @property
    def present(self) -> tuple[ObservedPod, ...]:
        """The pods that are there."""
        return tuple(pod for pod in self.pods if not pod.gone)

    @property
    def missing(self) -> tuple[int, ...]:
        """Indices of pods that are not there and were not seen to go."""
        seen = {pod.index for pod in self.pods}
        return tuple(index for index in range(self.size) if index not in seen)

    @property
    def is_partial(self) -> bool:
        """Whether only a part of its pods is there; a Job sees to its own."""
        return self.job is None and bool(self.present and self.missing)

    @property
    def succeeded(self) -> bool:
        """Whether the stage is done."""
        if self.job is not None:
            return self.job.complete
        return len({pod.index for pod in self.pods if pod.succeeded}) == self.size

    def failed(self, now: float) -> bool:
        """Whether a part of it can no longer do its work."""
        if self.job is not None:
            return self.job.failed
        return any(pod.failed or is_overdue(pod, now) for pod in self.pods)

    def ended(self, now: float) -> bool:
        """Whether nothing of it runs any more."""
        return all(pod.has_ended or is_overdue(pod, now) for pod in self.pods)


def is_overdue(pod: ObservedPod, now: float) -> bool:
    """Whether a pod should have been gone for a while; nobody answers for it."""
    if pod.deleting_until is None or pod.has_ended:
        return False
    return pod.disruption == "DeletionByTaintManager" or now >= pod.deleting_until + OVERDUE_SECONDS


def gang_of(attempt: Attempt, pods: Iterable[ObservedPod], jobs: Iterable[ObservedJob]) -> Gang:
    """What is seen of the stage that an attempt is in."""
    stage = Stage(attempt.stage)
    own = (pod for pod in pods if pod.attempt == attempt.number and pod.stage is stage)
    job = next((job for job in jobs if job.attempt == attempt.number and job.stage is stage), None)
    sizes = {Stage.READ: attempt.shards, **dict.fromkeys(GANG_STAGES, attempt.nodes)}
    size = sizes.get(stage) or 1
    return Gang(stage, size if job is None else job.size, tuple(sorted(own, key=lambda pod: pod.index)), job)


def podless_seconds_left(gang: Gang, attempt: Attempt, now: float) -> float | None:
    """Seconds until it has to be asked why a Job makes no pods; None when it has some, or is to have none."""
    if gang.job is None or gang.present or attempt.pods_created_at is None:
        return None
    if gang.job.suspended or gang.job.deleting or gang.job.complete or gang.job.failed:
        return None
    return parse_timestamp(attempt.pods_created_at) + PODLESS_SECONDS - now


def tell_gang(draft: StatusDraft, gang: Gang, queue: str) -> None:
    """Set the conditions of a gang that is at work or on its way, and note when it got where.

    Args:
        draft: the status in the making, with an open attempt.
        gang: what is seen of the attempt's stage.
        queue: name of the queue that the run is in; empty for none.
    """
    attempt = draft.attempt
    if attempt is None:
        raise ValueError("no attempt is open, so there is no gang to tell of")
    _tell_admission(draft, gang, queue)
    if gang.job is not None:
        _tell_shards(draft, gang.stage, gang.job)
    is_scheduled = _tell_scheduling(draft, gang)
    is_running = _tell_running(draft, gang)
    noted: dict[str, object] = {}
    if is_scheduled and attempt.pods_scheduled_at is None:
        noted["pods_scheduled_at"] = draft.timestamp
    if is_running and attempt.pods_running_at is None:
        noted["pods_running_at"] = draft.timestamp
    if noted:
        draft.change_attempt(**noted)


def _tell_admission(draft: StatusDraft, gang: Gang, queue: str) -> None:
    """Admitted: whether a queue lets the pods through; it has not yet what it has not even seen."""
    if gang.job is not None:
        is_held = gang.job.suspended or any(pod.gated for pod in gang.present)
    else:
        is_held = any(pod.gated for pod in gang.present) or bool(queue and gang.missing)
    if is_held:
        draft.condition(
            ConditionType.ADMITTED,
            "False",
            Reason.WAITING_FOR_QUOTA,
            "The queue has not admitted the pods yet",
        )
    else:
        draft.condition(ConditionType.ADMITTED, "True", Reason.ADMITTED)


def _tell_shards(draft: StatusDraft, stage: Stage, job: ObservedJob) -> None:
    """How many shards are done, and until one is, how far the first one is, whose pod alone reports."""
    told, detail = draft.status.progress, f"{job.succeeded} of {job.size} shards"
    percent = round(100.0 * job.succeeded / max(1, job.size), 1)
    own = "" if told is None or told.stage != stage else told.detail.rpartition("; ")[2]
    if told is not None and own.startswith(FIRST_SHARD):
        words = detail if job.succeeded else f"{detail}; {own}"
        changes = {"detail": words, "percent": percent, "eta_seconds": None}
        draft.update(progress=told.model_copy(update=changes))
    elif told is None or (told.stage, told.detail) != (stage, detail):
        progress = Progress(stage=stage, detail=detail, percent=percent, updated_at=draft.timestamp)
        draft.update(progress=progress)


def _tell_scheduling(draft: StatusDraft, gang: Gang) -> bool:
    """PodsScheduled: whether all pods have nodes; of a Job whether one has, since each works for itself."""
    current = _current(gang)
    without_node = [pod for pod in current if not pod.node and not pod.has_ended]
    num_placed = len(current) - len(without_node)
    is_scheduled = num_placed >= (1 if gang.is_job else gang.size)
    stuck = next((pod for pod in without_node if pod.unschedulable), None)
    if is_scheduled:
        message = "" if num_placed == gang.size else f"{num_placed} of {gang.size} pods have nodes"
        draft.condition(ConditionType.PODS_SCHEDULED, "True", Reason.PODS_SCHEDULED, message)
    elif stuck is not None:
        draft.condition(
            ConditionType.PODS_SCHEDULED,
            "False",
            Reason.UNSCHEDULABLE,
            f"{stuck.name}: {stuck.unschedulable}",
        )
    else:
        found = sum(1 for pod in current if pod.node)
        message = f"{found} of {gang.size} pods have nodes"
        draft.condition(ConditionType.PODS_SCHEDULED, "False", Reason.PODS_PENDING, message)
    return is_scheduled


def _tell_running(draft: StatusDraft, gang: Gang) -> bool:
    """Running: whether all pods run, or have done their part; of a Job whether one does."""
    current = _current(gang)
    at_work = [pod for pod in current if pod.running or pod.succeeded]
    stuck = next((pod for pod in current if pod.waiting_reason), None)
    if len(at_work) >= (1 if gang.is_job else gang.size):
        part = "" if len(at_work) == gang.size else f"{len(at_work)} of "
        message = f"{gang.stage}: {part}{_pods(gang.size)}"
        draft.condition(ConditionType.RUNNING, "True", Reason.STAGE_STARTED, message)
        return True
    if stuck is not None:
        reason = _KNOWN_REASONS.get(stuck.waiting_reason, Reason.PODS_PENDING)
        text = f"{stuck.name}: {stuck.waiting_reason}: {stuck.waiting_message}".removesuffix(": ")
        draft.condition(ConditionType.RUNNING, "False", reason, text)
    else:
        condition = find_condition(draft.status.conditions, ConditionType.RUNNING)
        is_restart = condition is not None and condition.reason == Reason.RESTARTING
        message = f"{gang.stage}: {len(at_work)} of {_pods(gang.size)} run"
        pending = Reason.RESTARTING if is_restart else Reason.PODS_PENDING
        draft.condition(ConditionType.RUNNING, "False", pending, message)
    return False


def _current(gang: Gang) -> Sequence[ObservedPod]:
    """The pods that count now: of a Job, the newest at each index."""
    if not gang.is_job:
        return gang.present
    newest: dict[int, ObservedPod] = {}
    for pod in sorted(gang.present, key=lambda pod: (not pod.failed, version_number(pod.resource_version))):
        newest[pod.index] = pod
    return list(newest.values())


def _pods(number: int) -> str:
    """A number of pods for people."""
    return f"{number} pod{'' if number == 1 else 's'}"
