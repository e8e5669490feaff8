"""Where the time of a run on a cluster went, added up as its attempts end."""

from trainyard_api.names import Reason
from trainyard_api.policy.waiting import active_seconds_of
from trainyard_api.progress import WorkSeconds
from trainyard_api.status import Accounting, Attempt, LostSeconds, Timestamp
from trainyard_api.timestamps import parse_timestamp


def add_stage(accounting: Accounting, attempt: Attempt) -> Accounting:
    """The account with the waiting of a stage that has ended.

    Args:
        accounting: the account so far.
        attempt: the attempt while it is still in that stage, or with its end.
    """
    waited_until = attempt.finished_at if _ended_waiting(attempt) else None
    startup = _seconds(attempt.pods_scheduled_at, attempt.pods_running_at or waited_until)
    is_first = attempt.number == 0
    lost = accounting.lost_seconds
    waiting = LostSeconds(
        queue=lost.queue + _seconds(attempt.stage_started_at, attempt.pods_scheduled_at or waited_until),
        startup=lost.startup + (startup if is_first else 0.0),
        restart=lost.restart + (0.0 if is_first else startup),
        recompute=lost.recompute,
        stall=lost.stall,
    )
    return accounting.model_copy(update={"lost_seconds": waiting})


def add_attempt(accounting: Accounting, attempt: Attempt, accelerators_per_node: int) -> Accounting:
    """The account with the work of an attempt that has ended, and the waiting of its last stage.

    Args:
        accounting: the account so far.
        attempt: the attempt, with its end.
        accelerators_per_node: devices of each worker pod.
    """
    active = active_seconds_of(attempt, parse_timestamp(attempt.finished_at or attempt.started_at))
    devices = (attempt.nodes or 1) * accelerators_per_node
    return add_stage(accounting, attempt).model_copy(
        update={
            "active_seconds": accounting.active_seconds + active,
            "accelerator_seconds": accounting.accelerator_seconds + active * devices,
        }
    )


def with_work(accounting: Accounting, work: WorkSeconds) -> Accounting:
    """The account with what the processes tell of their steps; an older report takes nothing back."""
    lost = accounting.lost_seconds
    recompute = max(lost.recompute, work.recompute)
    return accounting.model_copy(
        update={
            "productive_seconds": max(accounting.productive_seconds, work.productive),
            "lost_seconds": lost.model_copy(update={"recompute": recompute}),
        }
    )


def add_stall(accounting: Accounting, seconds: float) -> Accounting:
    """The account with the time since the last step of an attempt that hung."""
    lost = accounting.lost_seconds
    return accounting.model_copy(
        update={"lost_seconds": lost.model_copy(update={"stall": lost.stall + max(0.0, seconds)})}
    )


def _ended_waiting(attempt: Attempt) -> bool:
    """Whether an attempt waited to its end, if its pods were not seen to have nodes, or to run.

    Pods that end soon may never be seen in between; only a stop and these deadlines end what has not begun.
    """
    reason = attempt.failure.reason if attempt.failure is not None else ""
    deadlines = (Reason.QUEUE_DEADLINE_EXCEEDED, Reason.STARTUP_DEADLINE_EXCEEDED)
    return attempt.outcome == "Preempted" or reason in deadlines


def _seconds(start: Timestamp | None, end: Timestamp | None) -> float:
    """Seconds between two moments, 0 when one is missing."""
    if start is None or end is None:
        return 0.0
    return max(0.0, parse_timestamp(end) - parse_timestamp(start))
