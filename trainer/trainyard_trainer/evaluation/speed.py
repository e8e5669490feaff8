"""How fast models compute: they take turns, so that whatever disturbs the machine disturbs all of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

WARM_UP_CALLS = 3
"""Calls before the first that counts: memory is allocated and kernels are chosen in them."""
SLOW_SECONDS = 1.0
"""A call that takes longer is not warmed up further: what first calls add is small beside it."""


@dataclass(frozen=True)
class Timing:
    """How long is measured.

    Attributes:
        seconds: after these no further turn begins.
        most: turns at most.
        least: turns at least, however long they take.
    """

    seconds: float
    most: int
    least: int = 3


def timed_in_turn(
    calls: Sequence[Callable[[], object]], timing: Timing, clock: Callable[[], float]
) -> list[list[float]]:
    """The seconds of each call in each turn, by call.

    Args:
        calls: what is timed; every turn calls each once.
        timing: how many turns.
        clock: seconds that only grow.
    """
    for call in calls:
        for _ in range(WARM_UP_CALLS):
            before = clock()
            call()
            if clock() - before > SLOW_SECONDS:
                break
    seconds: list[list[float]] = [[] for _ in calls]
    started = clock()
    for turn in range(timing.most):
        if turn >= timing.least and clock() - started >= timing.seconds:
            break
        for call, taken in zip(calls, seconds, strict=True):
            before = clock()
            call()
            taken.append(clock() - before)
    return seconds


def percentile(seconds: Sequence[float], percent: float) -> float:
    """The time within which so many per cent were done, interpolated between neighbours."""
    return float(np.percentile(np.asarray(seconds), percent))
