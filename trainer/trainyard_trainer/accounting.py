"""Where the time of a run went, from its history and events; pure functions."""

from collections.abc import Iterable, Sequence

from trainyard_api.progress import EventRecord, HistoryRecord, WorkSeconds
from trainyard_api.status import Accounting, LostSeconds

STARTUP = "Startup"
"""Type of the event of the first optimizer step of an attempt."""

RESTARTING = "Restarting"
"""Type of the event of an attempt that ended in a fault and is followed by another at once."""


class WorkLedger:
    """Adds up the seconds of steps; a step that was done before counts as done again.

    Args:
        history_lines: what was written so far, repeated steps included.
    """

    def __init__(self, history_lines: Iterable[HistoryRecord] = ()) -> None:
        self._newest_step = 0
        self._productive = 0.0
        self._recompute = 0.0
        for record in history_lines:
            self.add(record)

    def add(self, record: HistoryRecord) -> None:
        """Take over a line; one of an evaluation has no seconds."""
        if record.step_seconds is None:
            return
        if record.step > self._newest_step:
            self._newest_step = record.step
            self._productive += record.step_seconds
        else:
            self._recompute += record.step_seconds

    @property
    def work(self) -> WorkSeconds:
        """The sums."""
        return WorkSeconds(productive=round(self._productive, 1), recompute=round(self._recompute, 1))


def account(history_lines: Iterable[HistoryRecord], events: Sequence[EventRecord]) -> Accounting:
    """Seconds of steps that lasted, of steps done again, of starting, and of coming back from faults.

    Args:
        history_lines: every line that was written, repeated steps included.
        events: every event.
    """
    work = WorkLedger(history_lines).work
    startup, restart = startup_and_restart_seconds(events)
    return Accounting(
        productive_seconds=work.productive,
        lost_seconds=LostSeconds(
            startup=round(startup, 1), restart=round(restart, 1), recompute=work.recompute
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
