"""The deadlines of an attempt on a cluster: for the queue, the start-up, the work, and the next step."""

from collections.abc import Iterator
from dataclasses import dataclass

from trainyard_api.names import Reason, Stage
from trainyard_api.spec import TrainingRunSpec
from trainyard_api.status import Attempt, Timestamp
from trainyard_api.timestamps import parse_timestamp


@dataclass(frozen=True, slots=True)
class Deadline:
    """A limit that applies now."""

    reason: Reason
    """What it means when it is over."""
    message: str
    """The same for people, with the field."""
    seconds_left: float
    """Seconds until then; 0 or less when it is over."""


@dataclass(frozen=True, slots=True)
class Work:
    """What is known of an attempt's work."""

    active_before: float
    """Seconds of work of the stages and attempts before the stage that it is in."""
    last_step_at: float | None
    """Unix time at which it last told of a further optimizer step; None before the first."""


def deadlines(spec: TrainingRunSpec, attempt: Attempt, work: Work, now: float) -> list[Deadline]:
    """The limits that apply to an open attempt, the one that is over first coming first.

    Args:
        spec: the desired state.
        attempt: the attempt, not ended.
        work: what is known of its work.
        now: Unix time, in seconds.
    """
    return sorted(_deadlines(spec, attempt, work, now), key=lambda deadline: deadline.seconds_left)


def _deadlines(spec: TrainingRunSpec, attempt: Attempt, work: Work, now: float) -> Iterator[Deadline]:
    """The limits that are set and have begun."""
    if spec.queue_deadline_seconds is not None and attempt.pods_scheduled_at is None:
        yield Deadline(
            Reason.QUEUE_DEADLINE_EXCEEDED,
            f"The pods had no nodes after queueDeadlineSeconds, {spec.queue_deadline_seconds}",
            _left(spec.queue_deadline_seconds, attempt.stage_started_at, now),
        )
    is_starting = attempt.pods_scheduled_at is not None and not _has_started(attempt, work)
    if spec.startup_deadline_seconds is not None and is_starting:
        yield Deadline(
            Reason.STARTUP_DEADLINE_EXCEEDED,
            f"No work was seen startupDeadlineSeconds, {spec.startup_deadline_seconds}, "
            "after the pods had nodes",
            _left(spec.startup_deadline_seconds, attempt.pods_scheduled_at, now),
        )
    if spec.active_deadline_seconds is not None and attempt.pods_running_at is not None:
        active = work.active_before + max(0.0, now - parse_timestamp(attempt.pods_running_at))
        yield Deadline(
            Reason.DEADLINE_EXCEEDED,
            f"activeDeadlineSeconds, {spec.active_deadline_seconds}, is over",
            spec.active_deadline_seconds - active,
        )
    last_step_at = work.last_step_at if attempt.stage == Stage.TRAIN else None
    if spec.stall_timeout_seconds is not None and last_step_at is not None:
        yield Deadline(
            Reason.STALLED,
            f"No further optimizer step for stallTimeoutSeconds, {spec.stall_timeout_seconds}",
            last_step_at + spec.stall_timeout_seconds - now,
        )


def _has_started(attempt: Attempt, work: Work) -> bool:
    """Whether work was seen: in training an optimizer step, in the other stages running pods."""
    if attempt.stage == Stage.TRAIN:
        return work.last_step_at is not None
    return attempt.pods_running_at is not None


def _left(limit: int, since: Timestamp | None, now: float) -> float:
    """Seconds left of a limit that began at a time, or begins now."""
    return limit - max(0.0, now - (now if since is None else parse_timestamp(since)))
