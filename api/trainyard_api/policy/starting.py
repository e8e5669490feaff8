"""How much time a run lost on its way to work: at starts, and on the way back after faults.

The one definition of `lostSeconds.Startup` and `lostSeconds.Restart`, for a cluster and a laptop alike.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Start:
    """A stage of an attempt on its way to work."""

    fault_at: float | None
    """Unix time of the fault that made the start necessary; None for a start that follows no fault."""
    begun_at: float | None
    """Unix time at which its processes had their machines; None when they never had."""
    working_at: float | None
    """Unix time of the first sign of work: in Train the first optimizer step, in other stages that all
    processes run; None when there was none."""
    ended_at: float | None
    """Unix time of its end; None while it goes on, or when nobody saw the end."""
    queued_seconds: float = 0.0
    """How long it waited for admission or machines, which is a loss of its own."""


@dataclass(frozen=True, slots=True)
class Loss:
    """Seconds by cause."""

    startup: float = 0.0
    restart: float = 0.0


def lost_in_start(start: Start) -> Loss:
    """What a start cost: up to its first sign of work, or to its end if it came to none.

    After a fault it counts from the fault on, so that attempts that fail before their first step add up to
    one way back; otherwise from when the processes had their machines.
    """
    until = start.ended_at if start.working_at is None else start.working_at
    if until is None:
        return Loss()
    if start.fault_at is not None:
        return Loss(restart=max(0.0, until - start.fault_at - start.queued_seconds))
    return Loss(startup=0.0 if start.begun_at is None else max(0.0, until - start.begun_at))
