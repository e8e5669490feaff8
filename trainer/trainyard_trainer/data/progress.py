"""Progress of preparation, told a few times a second at most."""

from collections.abc import Callable
from dataclasses import dataclass

from trainyard_trainer.data.parallel import Advance, stopped

PrepareReport = Callable[[str, int, int | None, str], None]
"""Told (step, done, total or None when it is not known, unit such as bytes)."""

REPORT_SECONDS = 0.25


@dataclass(frozen=True)
class StepProgress:
    """Counts the work of a step and passes it on.

    Attributes:
        report: whom to tell.
        should_stop: whether to give up.
        clock: seconds that only grow.
    """

    report: PrepareReport
    should_stop: Callable[[], bool]
    clock: Callable[[], float]

    def start(self, step: str, total: int | None, unit: str) -> Advance:
        """Begin a step; returns what is to be called with the amount of work done since its last call.

        The returned function raises PreemptedError when the preparation is to stop.
        """
        done = 0
        told_at = self.clock()
        self.report(step, 0, total, unit)

        def advance(amount: int) -> None:
            nonlocal done, told_at
            if self.should_stop():
                raise stopped()
            done += amount
            now = self.clock()
            if now - told_at >= REPORT_SECONDS or (amount and done == total):
                told_at = now
                self.report(step, done, total, unit)

        return advance
