"""Where the time of a run on a cluster went, added up as its attempts end."""

from trainyard_api.names import GANG_STAGES, Reason, Stage
from trainyard_api.policy.starting import Start, lost_in_start
from trainyard_api.progress import WorkSeconds
from trainyard_api.status import Accounting, Attempt, Timestamp
from trainyard_api.timestamps import parse_timestamp


def add_stage(
    accounting: Accounting,
    attempt: Attempt,
    before: Attempt | None,
    *,
    ended_at: Timestamp,
    accelerators_per_node: int,
) -> Accounting:
    """The account with a stage that has ended: its waiting, its start, its work, and what it held.

    What lies between two stages, such as waiting for a queue, is no work. Only gangs have accelerators.

    Args:
        accounting: the account so far.
        attempt: the attempt while it is still in that stage, or with its end.
        before: the attempt before it; None for the first.
        ended_at: when the stage ended.
        accelerators_per_node: devices of each worker pod.
    """
    waited_until = attempt.finished_at if _ended_waiting(attempt) else None
    queue = _seconds(attempt.stage_started_at, attempt.pods_scheduled_at or waited_until)
    loss = lost_in_start(_start_of(attempt, before, queue))
    lost = accounting.lost_seconds
    waiting = lost.model_copy(
        update={
            "queue": lost.queue + queue,
            "startup": lost.startup + loss.startup,
            "restart": lost.restart + loss.restart,
        }
    )
    devices = (attempt.nodes or 1) * accelerators_per_node if attempt.stage in GANG_STAGES else 0
    held = devices * _seconds(attempt.pods_scheduled_at, ended_at)
    return accounting.model_copy(
        update={
            "active_seconds": accounting.active_seconds + _seconds(attempt.pods_running_at, ended_at),
            "accelerator_seconds": accounting.accelerator_seconds + held,
            "lost_seconds": waiting,
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


def _start_of(attempt: Attempt, before: Attempt | None, queued_seconds: float) -> Start:
    """The way of an attempt to work in the stage that it is in.

    It is a way back in the stage in which the attempt before it failed, because that is where it starts.
    """
    is_way_back = before is not None and before.outcome == "Failed" and before.stage == attempt.stage
    return Start(
        fault_at=_time(before.finished_at) if before is not None and is_way_back else None,
        begun_at=_time(attempt.pods_scheduled_at),
        working_at=_time(_first_work_of(attempt)),
        ended_at=_time(attempt.finished_at),
        queued_seconds=queued_seconds,
    )


def _first_work_of(attempt: Attempt) -> Timestamp | None:
    """The first sign of work of the stage that an attempt is in.

    Training that ended well has made steps; when nobody told of them, it is only known since when it ran.
    """
    if attempt.stage != Stage.TRAIN:
        return attempt.pods_running_at
    ended_badly = attempt.outcome in ("Failed", "Preempted")
    return attempt.first_step_at or (None if ended_badly else attempt.pods_running_at)


def _ended_waiting(attempt: Attempt) -> bool:
    """Whether an attempt waited to its end, if its pods were not seen to have nodes, or to run.

    Pods that end soon may never be seen in between; only a stop and these deadlines end what has not begun.
    """
    reason = attempt.failure.reason if attempt.failure is not None else ""
    deadlines = (Reason.QUEUE_DEADLINE_EXCEEDED, Reason.STARTUP_DEADLINE_EXCEEDED)
    return attempt.outcome == "Preempted" or reason in deadlines


def _time(timestamp: Timestamp | None) -> float | None:
    """Unix time of a moment that may be missing."""
    return None if timestamp is None else parse_timestamp(timestamp)


def _seconds(start: Timestamp | None, end: Timestamp | None) -> float:
    """Seconds between two moments, 0 when one is missing."""
    if start is None or end is None:
        return 0.0
    return max(0.0, parse_timestamp(end) - parse_timestamp(start))
