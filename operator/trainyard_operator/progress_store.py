"""The newest progress of every run, in memory: metrics read it at full rate, status more seldom."""

from collections.abc import Callable
from dataclasses import dataclass

from trainyard_api.progress import ProgressReport
from trainyard_operator.keys import RunKey


@dataclass(frozen=True, slots=True)
class ReceivedReport:
    """A report and when it came."""

    report: ProgressReport
    """What the processes told."""
    received_at: float
    """Unix time by the operator's clock; the sender's may be wrong."""


class ProgressStore:
    """Holds one report per run.

    It does no I/O and keeps no time. It grows only with runs that are known, because only their pods may
    post, and whoever learns of a run's end forgets it here.

    Args:
        on_change: called with the run after each new report; it decides how often status follows.
    """

    def __init__(self, on_change: Callable[[RunKey], None] | None = None) -> None:
        self.on_change = on_change
        self._newest: dict[RunKey, ReceivedReport] = {}

    def __len__(self) -> int:
        """Number of runs that have told something."""
        return len(self._newest)

    def record(self, key: RunKey, report: ProgressReport, received_at: float) -> bool:
        """Take a report over, unless a later attempt has told something already; says whether it did."""
        newest = self._newest.get(key)
        if newest is not None and newest.report.attempt > report.attempt:
            return False
        self._newest[key] = ReceivedReport(report, received_at)
        if self.on_change is not None:
            self.on_change(key)
        return True

    def newest(self, key: RunKey) -> ReceivedReport | None:
        """What the run told last; None before it told anything to this process."""
        return self._newest.get(key)

    def forget(self, key: RunKey) -> None:
        """Drop a run that is gone."""
        self._newest.pop(key, None)
