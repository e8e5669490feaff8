"""Intervals of metrics by resampling the held-out examples; pure functions of a seed; NumPy only."""

import math
from collections.abc import Callable, Mapping

import numpy as np

from trainyard_trainer.evaluation.classification import Counts

Measure = Callable[[Counts | None], Mapping[str, float]]
"""Metrics by name when each example counts as often as its weight says, [n]; once when None."""

Interval = tuple[float, float]
MINIMUM_KNOWN = 0.5
"""Fraction of the resamples in which a metric must be defined; below it, it has no interval."""


def bootstrap_intervals(
    measure: Measure, num_examples: int, *, samples: int, confidence: float, seed: int
) -> dict[str, Interval]:
    """Percentile intervals (Efron and Tibshirani 1993, chapter 13): examples are drawn with replacement.

    One resample is held at a time, so memory does not grow with their number.

    Args:
        measure: the metrics of weighted examples.
        num_examples: n, at least 1.
        samples: resamples; 0 gives no intervals.
        confidence: coverage, between 0 and 1.
        seed: decides the resamples.
    """
    if not samples:
        return {}
    generator = np.random.default_rng(seed)
    values: dict[str, list[float]] = {}
    for _ in range(samples):
        drawn = generator.integers(0, num_examples, num_examples)
        weights = np.bincount(drawn, minlength=num_examples).astype(np.float64)
        for name, value in measure(weights).items():
            values.setdefault(name, []).append(value)
    tail = (1.0 - confidence) / 2.0
    intervals = {}
    for name, found in values.items():
        known = [value for value in found if math.isfinite(value)]
        if len(known) >= MINIMUM_KNOWN * samples:
            low, high = np.quantile(known, [tail, 1.0 - tail])
            intervals[name] = (float(low), float(high))
    return intervals
