"""When a status that has changed is written: ends at once, the rest together with what follows soon.

A status is the costliest thing to write: the API server needs several times as long as for a pod. So one
write tells as much as it can. Progress comes in reports a few seconds apart; a write that does not fall just
before the next report but just after the last one that it can wait for tells the same in fewer writes.
"""

import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace

from trainyard_operator.keys import RunKey
from trainyard_operator.settings import Settings
from trainyard_operator.status import Urgency

UNHURRIED_PER_SECOND = 25.0
"""Status writes that tell of no end and no decision, when many runs wait for one."""
TOLERANCE = 0.05
"""Part of `progress_seconds` by which a write of progress may come early or late, to meet a report."""


def patience(settings: Settings, num_waiting: int) -> float:
    """How many seconds such a write may wait: longer in a rush, so that telling does not hold up doing."""
    rush = min(settings.progress_seconds, num_waiting / UNHURRIED_PER_SECOND)
    return max(settings.status_seconds, rush)


@dataclass(frozen=True, slots=True)
class Unwritten:
    """Reports of a run that its status does not tell of yet."""

    first_at: float
    """Unix time of the first of them."""
    last_at: float
    """Unix time of the last of them."""
    gap_seconds: float | None
    """From the report before to the last one; None when it is the only one that is known."""
    limit_at: float
    """Unix time until which they may wait in a rush."""

    def due_at(self, written_at: float, settings: Settings, *, is_rush: bool) -> float:
        """When they are to be written, in Unix time.

        The last report that comes before the latest time is the best one to write. In a rush that time is
        the limit of these reports; otherwise it counts from the last write.

        Args:
            written_at: Unix time of the last write of the status, minus infinity before any.
            settings: waiting times.
            is_rush: whether many runs wait.
        """
        tolerance = TOLERANCE * settings.progress_seconds
        earliest = written_at + settings.progress_seconds - tolerance
        latest = (self.limit_at if is_rush else written_at + settings.progress_seconds) + tolerance
        another_comes = is_rush if self.gap_seconds is None else self.last_at + self.gap_seconds <= latest
        return latest if another_comes or self.last_at < earliest else self.last_at


class StatusPace:
    """Keeps the times of what was written and of what waits.

    Args:
        settings: waiting times.
        clock: Unix time in seconds.
    """

    def __init__(self, settings: Settings, clock: Callable[[], float]) -> None:
        self._settings = settings
        self._clock = clock
        self._written_at: dict[RunKey, float] = {}
        self._noticed_at: dict[RunKey, float] = {}
        self._reported_at: dict[RunKey, float] = {}
        self._unwritten: dict[RunKey, Unwritten] = {}

    def report(self, key: RunKey) -> float:
        """The processes of a run told something; seconds until its status is to be written."""
        now = self._clock()
        before = self._reported_at.get(key)
        self._reported_at[key] = now
        known = self._unwritten.get(key)
        gap_seconds = None if before is None else now - before
        if known is not None:
            self._unwritten[key] = replace(known, last_at=now, gap_seconds=gap_seconds)
        else:
            share = 1.0 if before is not None else _first_share(key)
            limit_at = now + share * self._settings.progress_seconds
            self._unwritten[key] = Unwritten(now, now, gap_seconds, limit_at)
        return self._seconds_until_progress(key, now)

    def seconds_until_due(self, key: RunKey, need: Urgency) -> float:
        """How long a status may wait that was found to have changed."""
        now = self._clock()
        if need is Urgency.SOON:
            unwritten = self._unwritten.get(key)
            noticed_at = self._noticed_at.setdefault(key, now if unwritten is None else unwritten.first_at)
            wait = noticed_at + patience(self._settings, len(self._noticed_at)) - now
            is_spread = unwritten is not None and self._is_rush()
            return min(wait, self._seconds_until_progress(key, now)) if is_spread else wait
        return self._seconds_until_progress(key, now) if need is Urgency.PROGRESS else 0.0

    def settle(self, key: RunKey, gathered_at: float, *, was_written: bool) -> None:
        """The status tells everything that was known at a time.

        Args:
            key: the run.
            gathered_at: that time, in Unix time; later reports may not be in the status.
            was_written: whether it was written just now; otherwise it told all of that already.
        """
        if was_written:
            self._written_at[key] = self._clock()
        self._noticed_at.pop(key, None)
        later = self._unwritten.pop(key, None)
        if later is not None and later.last_at > gathered_at:
            limit_at = later.last_at + self._settings.progress_seconds
            self._unwritten[key] = replace(later, first_at=later.last_at, limit_at=limit_at)

    def forget(self, key: RunKey) -> None:
        """Free what is kept of a run that is gone."""
        for times in (self._written_at, self._noticed_at, self._reported_at, self._unwritten):
            times.pop(key, None)

    def _seconds_until_progress(self, key: RunKey, now: float) -> float:
        """How long figures and wording wait."""
        written_at = self._written_at.get(key, float("-inf"))
        unwritten = self._unwritten.get(key)
        if unwritten is None:
            return max(0.0, written_at + self._settings.progress_seconds - now)
        return max(0.0, unwritten.due_at(written_at, self._settings, is_rush=self._is_rush()) - now)

    def _is_rush(self) -> bool:
        """Whether the reports of many runs wait."""
        return len(self._unwritten) > UNHURRIED_PER_SECOND * self._settings.progress_seconds


def _first_share(key: RunKey) -> float:
    """Part of the longest wait that the first reports of a run may take, from 0 to 1.

    Runs that begin to report together would be written together ever after. Two writes are up to half as long
    again apart as a report may wait; over so long a time their first writes are spread.
    """
    return min(1.0, 1.5 * zlib.crc32(key.uid.encode()) / 2**32)
