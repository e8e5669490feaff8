"""Where the time of a run went, from its history and events; pure functions."""

from collections.abc import Iterable, Iterator, Sequence

from trainyard_api.names import Stage
from trainyard_api.policy.starting import Start, lost_in_start
from trainyard_api.progress import EventRecord, HistoryRecord, WorkRecord, WorkSeconds
from trainyard_api.status import Accounting, LostSeconds

STARTUP = "Startup"
"""Type of the event of the first optimizer step of an attempt."""

RESTARTING = "Restarting"
"""Type of the event of an attempt that ended in a fault and is followed by another at once."""

_ENDS = ("StageFinished", "AttemptFailed", "AttemptStopped")
"""Types of the events that end a stage."""


class WorkLedger:
    """Adds up the seconds of steps; a step that was done before counts as done again.

    Args:
        history_lines: what was written so far, repeated steps included.
        start: what the lines before those add up to, if there are any.
    """

    def __init__(self, history_lines: Iterable[HistoryRecord] = (), start: WorkRecord | None = None) -> None:
        self._newest_step = start.newest_step if start is not None else 0
        self._productive = start.productive if start is not None else 0.0
        self._recompute = start.recompute if start is not None else 0.0
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

    def record(self, history_bytes: int) -> WorkRecord:
        """The sums over so much of the history."""
        return WorkRecord(
            history_bytes=history_bytes,
            newest_step=self._newest_step,
            productive=self._productive,
            recompute=self._recompute,
        )

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
    losses = [lost_in_start(start) for start in starts_of(events)]
    return Accounting(
        productive_seconds=work.productive,
        lost_seconds=LostSeconds(
            startup=round(sum(loss.startup for loss in losses), 1),
            restart=round(sum(loss.restart for loss in losses), 1),
            recompute=work.recompute,
        ),
    )


def starts_of(events: Iterable[EventRecord]) -> Iterator[Start]:
    """How the stages got to work; a stage that a killed runner left open has no end, and none here.

    A fault counts for the attempt that the runner itself started after it, in the stage that had failed: an
    attempt that a person starts is a first start, because nobody waited between the two.
    """
    fault: EventRecord | None = None
    failed_in = ""
    begun_at, working_at = None, None
    for event in events:
        if event.type == RESTARTING:
            fault = event
        elif event.type == STARTUP:
            working_at = event.time
        elif event.type == "StageStarted":
            begun_at = event.time
            working_at = None if event.stage == Stage.TRAIN else event.time
        elif event.type in _ENDS:
            came_back = event.stage == failed_in
            is_next = fault is not None and event.attempt == fault.attempt + 1
            if fault is not None and is_next and (came_back or event.type != "StageFinished"):
                yield Start(fault.time, begun_at, working_at if came_back else None, event.time)
                fault = None
            else:
                yield Start(None, begun_at, working_at, event.time)
            failed_in = event.stage if event.type == "AttemptFailed" else failed_in
            begun_at, working_at = None, None
