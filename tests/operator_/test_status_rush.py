"""What becomes of the reports of a thousand runs when the API server takes only so many statuses a second."""

import heapq
import itertools
import uuid
from collections import deque

import pytest

from trainyard_operator.keys import RunKey
from trainyard_operator.settings import Settings
from trainyard_operator.status import Urgency
from trainyard_operator.status_pace import StatusPace

EVERY_SECONDS = 5.0
"""Between two reports of a run."""
SECONDS = 60.0


class Rush:
    """Runs that all begin to report within five seconds, their first report being a condition too.

    Args:
        num_runs: how many.
        per_second: statuses that the API server writes, one after the other.
    """

    def __init__(self, num_runs: int, per_second: float) -> None:
        self.now = 0.0
        self.waited: list[float] = []
        self._service_seconds = 1.0 / per_second
        self._server_free_at = 0.0
        self._pace = StatusPace(Settings(), lambda: self.now)
        self._keys = [
            RunKey("research", f"run-{number}", str(uuid.UUID(int=number * 7919)))
            for number in range(num_runs)
        ]
        self._unwritten: list[deque[float]] = [deque() for _ in self._keys]
        self._gathered_at: dict[int, float] = {}
        self._told: set[int] = set()
        self._at_work: set[int] = set()
        self._order = itertools.count()
        self._events = [
            (EVERY_SECONDS * (turn + number / num_runs), next(self._order), "report", number)
            for turn in range(int(SECONDS / EVERY_SECONDS))
            for number in range(num_runs)
        ]
        heapq.heapify(self._events)

    def play(self) -> None:
        """Until every report is in a status."""
        while self._events:
            self.now, _, kind, number = heapq.heappop(self._events)
            if kind == "report":
                self._unwritten[number].append(self.now)
                self._later(self._pace.report(self._keys[number]), "look", number)
            elif kind == "look":
                self._look(number)
            else:
                self._written(number)

    def _later(self, seconds: float, kind: str, number: int) -> None:
        heapq.heappush(self._events, (self.now + seconds, next(self._order), kind, number))

    def _look(self, number: int) -> None:
        """A pass, as `Reconciler` does it: wait, or have the API server write what is known now."""
        if number in self._at_work or not self._unwritten[number]:
            return
        need = Urgency.PROGRESS if number in self._told else Urgency.SOON
        wait = self._pace.seconds_until_due(self._keys[number], need)
        if wait > 0.0:
            self._later(wait, "look", number)
            return
        self._at_work.add(number)
        self._gathered_at[number] = self.now
        self._server_free_at = max(self._server_free_at, self.now) + self._service_seconds
        self._later(self._server_free_at - self.now, "written", number)

    def _written(self, number: int) -> None:
        """The API server has written a status."""
        gathered_at = self._gathered_at[number]
        while self._unwritten[number] and self._unwritten[number][0] <= gathered_at:
            self.waited.append(self.now - self._unwritten[number].popleft())
        self._pace.settle(self._keys[number], gathered_at, was_written=True)
        self._told.add(number)
        self._at_work.discard(number)
        self._look(number)


@pytest.mark.parametrize(("per_second", "limit_seconds"), [(200.0, 11.0), (90.0, 12.0)])
def test_reports_of_a_thousand_runs_are_in_the_status_within_twelve_seconds(per_second, limit_seconds):
    rush = Rush(1_000, per_second)
    rush.play()
    assert len(rush.waited) == 12_000
    assert sorted(rush.waited)[int(0.99 * 12_000)] <= limit_seconds
