"""The active deadline: seconds of work, added up over attempts and suspensions."""

from collections.abc import Iterable

from trainyard_api.status import Accounting, Attempt
from trainyard_api.timestamps import parse_timestamp


def active_seconds(accounting: Accounting, attempts: Iterable[Attempt], now: float) -> float:
    """Seconds in which the run had processes; waiting, suspension and back-off do not count.

    Args:
        accounting: the account of the attempts that have ended, which outlives the list of the newest ones.
        attempts: the newest attempts; one that has not finished is active until `now`.
        now: Unix time, in seconds.
    """
    unfinished = (attempt for attempt in attempts if attempt.finished_at is None)
    return accounting.active_seconds + sum(attempt_seconds(attempt, now) for attempt in unfinished)


def seconds_left(active_deadline_seconds: int | None, active: float) -> float | None:
    """Active seconds until the run must end: 0 when it is over, None without a deadline."""
    if active_deadline_seconds is None:
        return None
    return max(0.0, active_deadline_seconds - active)


def is_deadline_exceeded(active_deadline_seconds: int | None, active: float) -> bool:
    """Whether the run has used up its active seconds."""
    return seconds_left(active_deadline_seconds, active) == 0.0


def attempt_seconds(attempt: Attempt, now: float) -> float:
    """Length of an attempt; a clock that was set back counts as no time, never as negative time."""
    end = now if attempt.finished_at is None else parse_timestamp(attempt.finished_at)
    return max(0.0, end - parse_timestamp(attempt.started_at))
