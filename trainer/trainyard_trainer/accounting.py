"""Where the time of a run went, from its history and events; pure functions."""

from collections.abc import Iterable, Sequence

from trainyard_api.progress import EventRecord, HistoryRecord
from trainyard_api.status import Accounting, LostSeconds

STARTUP = "Startup"
"""Type of the event of the first optimizer step of an attempt."""

RESTARTING = "Restarting"
"""Type of the event of an attempt that ended in a fault and is followed by another at once."""


def account(history_lines: Iterable[HistoryRecord], events: Sequence[EventRecord]) -> Accounting:
    """Seconds of steps that lasted, of steps done again, of starting, and of coming back from faults.

    Args:
        history_lines: every line that was written, repeated steps included.
        events: every event.
    """
    newest: dict[int, float] = {}
    total = 0.0
    for record in history_lines:
        if record.step_seconds is not None:
            total += record.step_seconds
            newest[record.step] = record.step_seconds
    productive = sum(newest.values())
    startup, restart = startup_and_restart_seconds(events)
    return Accounting(
        productive_seconds=round(productive, 1),
        lost_seconds=LostSeconds(
            startup=round(startup, 1), restart=round(restart, 1), recompute=round(total - productive, 1)
        ),
    )


def startup_and_restart_seconds(events: Sequence[EventRecord]) -> tuple[float, float]:
    """Seconds of first starts, and seconds from each fault to the first optimizer step after it.

    A start after a stop or after the end of the runner is a first start: nobody waited between the two. When
    several attempts in a row fail before their first step, all of their time counts as one way back.
    """
    startup, restart = 0.0, 0.0
    fault_time: float | None = None
    for event in events:
        if event.type == RESTARTING:
            fault_time = event.time if fault_time is None else fault_time
        elif event.type == "AttemptStopped":
            fault_time = None
        elif event.type == STARTUP and fault_time is None:
            startup += event.seconds or 0.0
        elif event.type == STARTUP and fault_time is not None:
            restart += max(0.0, event.time - fault_time)
            fault_time = None
    return startup, restart
