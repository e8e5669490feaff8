"""Whether an attempt has ended, and how."""

from dataclasses import dataclass, replace

from pydantic import ValidationError

from trainyard_api.names import PERMANENT_EXIT_CODES, ExitCode, Reason, Stage
from trainyard_api.status import Attempt, Failure, ModelStatus
from trainyard_operator.evidence import failure_of, is_clear, loss_of
from trainyard_operator.gang import OVERDUE_SECONDS, Gang, is_overdue
from trainyard_operator.keys import RunKey
from trainyard_operator.observe import ObservedJob, ObservedPod, version_number
from trainyard_operator.resources import Owner, pod_name

BY_POLICY = "PodFailurePolicy"
"""Why a Job failed that a permanent exit code of one pod ended at once."""


@dataclass(frozen=True, slots=True)
class End:
    """How an attempt ended, if it did."""

    failure: Failure | None = None
    """What failed first; None while nothing did."""
    wake_after: float | None = None
    """Seconds until the answer may be another one without any event."""


def end_of(key: RunKey | None, attempt: Attempt, gang: Gang, settle_seconds: float, now: float) -> End:
    """How an attempt failed, if it did.

    Args:
        key: the run; None when pods that are missing are no fault, because the operator stopped them.
        attempt: the attempt, whose stage has not succeeded.
        gang: what is seen of its stage.
        settle_seconds: how long evidence is collected while the cause is not clear.
        now: Unix time, in seconds.
    """
    are_expected = key is not None and attempt.pods_created_at is not None
    if gang.job is not None:
        return _end_of_job(gang, gang.job, now)
    missing = (
        [_name(key, gang.stage, attempt.number, index) for index in gang.missing]
        if key and are_expected
        else []
    )
    if not missing and not gang.failed(now):
        return End(wake_after=_overdue_after(gang, now))
    pods = [replace(pod, gone=True, ended_at=now) if is_overdue(pod, now) else pod for pod in gang.pods]
    since = min((pod.ended_at for pod in pods if pod.failed and pod.ended_at is not None), default=now)
    left = min(settle_seconds, since + settle_seconds - now)
    if left > 0.0 and not missing and not is_clear(pods) and not gang.ended(now):
        return End(wake_after=left)
    return End(failure_of(pods, missing, now))


def model_of(gang: Gang) -> ModelStatus | None:
    """What the export told of the model; None when it told nothing that can be read."""
    for pod in gang.pods:
        if pod.succeeded and pod.end is not None:
            try:
                return ModelStatus.model_validate_json(pod.end.message)
            except ValidationError:
                return None
    return None


def _end_of_job(gang: Gang, job: ObservedJob, now: float) -> End:
    """How a Job failed, if it did; its pods tell more than it does."""
    if not job.failed:
        return End()
    causes = _causes(gang, job)
    if causes:
        return End(failure_of(causes, [], now))
    if not gang.ended(now):
        return End(wake_after=_overdue_after(gang, now))
    failed = [pod for pod in gang.pods if pod.failed]
    if failed:
        return End(failure_of(failed, [], now))
    return End(Failure(exit_code=ExitCode.RETRYABLE, reason=Reason.PROCESS_FAILED.value, message=job.message))


def _causes(gang: Gang, job: ObservedJob) -> list[ObservedPod]:
    """The pods whose end is why a Job failed; none while the one that matters has not been seen to end.

    Pods fail that are no cause: those that were repeated with success, and those that the Job controller
    deletes once the Job has failed.
    """
    failed = [pod for pod in gang.pods if pod.failed]
    permanent = [pod for pod in failed if pod.end is not None and pod.end.exit_code in PERMANENT_EXIT_CODES]
    if permanent or job.reason == BY_POLICY:
        return permanent
    newest = {pod.index: pod for pod in sorted(gang.pods, key=_age)}
    return [pod for pod in newest.values() if pod.failed and loss_of(pod) is None]


def _age(pod: ObservedPod) -> tuple[bool, float, int]:
    """Sorts the pods of an index: those that run come last, as they replace those that have ended."""
    return not pod.has_ended, pod.ended_at or 0.0, version_number(pod.resource_version)


def _overdue_after(gang: Gang, now: float) -> float | None:
    """Seconds until a pod that is being deleted counts as gone."""
    times = [pod.deleting_until for pod in gang.pods if pod.deleting_until is not None and not pod.has_ended]
    return max(0.1, min(times) + OVERDUE_SECONDS - now) if times else None


def _name(key: RunKey, stage: Stage, attempt: int, index: int) -> str:
    """Name that a missing pod had."""
    return pod_name(Owner(key.name, key.namespace, key.uid), stage, attempt, index, 0)
