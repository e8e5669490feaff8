"""Where the time of a run went, from its history and events; pure functions."""

from collections.abc import Iterable, Sequence

from trainyard_api.progress import EventRecord, HistoryRecord
from trainyard_api.status import Accounting, LostSeconds


def account(history_lines: Iterable[HistoryRecord], events: Sequence[EventRecord]) -> Accounting:
    """Seconds of steps that lasted, of steps done again, and of starting.

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
    startups = [(event.attempt, event.seconds or 0.0) for event in events if event.type == "Startup"]
    first = min((attempt for attempt, _ in startups), default=0)
    productive = sum(newest.values())
    return Accounting(
        productive_seconds=round(productive, 1),
        lost_seconds=LostSeconds(
            startup=round(sum(seconds for attempt, seconds in startups if attempt == first), 1),
            restart=round(sum(seconds for attempt, seconds in startups if attempt != first), 1),
            recompute=round(total - productive, 1),
        ),
    )
