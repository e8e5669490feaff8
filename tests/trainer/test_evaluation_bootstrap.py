"""Intervals by resampling: pure, and as wide as theory says."""

import math

import numpy as np
import pytest

from trainyard_trainer.evaluation.bootstrap import bootstrap_intervals


def mean_of(values):
    def measure(weights):
        return {"mean": float(np.average(values, weights=weights))}

    return measure


VALUES = np.random.default_rng(5).normal(3.0, 2.0, 400)


def intervals(measure=None, values=VALUES, samples=2000, confidence=0.95, seed=1):
    return bootstrap_intervals(
        measure or mean_of(values), len(values), samples=samples, confidence=confidence, seed=seed
    )


def test_the_interval_of_a_mean_is_as_wide_as_its_standard_error_says():
    low, high = intervals()["mean"]
    error = 1.96 * VALUES.std() / math.sqrt(len(VALUES))
    assert low == pytest.approx(VALUES.mean() - error, abs=0.03)
    assert high == pytest.approx(VALUES.mean() + error, abs=0.03)


def test_intervals_are_a_function_of_the_seed():
    assert intervals(samples=50) == intervals(samples=50)
    assert intervals(samples=50) != intervals(samples=50, seed=2)


def test_a_higher_confidence_gives_a_wider_interval():
    narrow, wide = intervals(confidence=0.8)["mean"], intervals(confidence=0.99)["mean"]
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


def test_no_resamples_give_no_intervals():
    assert intervals(samples=0) == {}


@pytest.mark.parametrize(("every", "has_interval"), [(3, True), (1, False)])
def test_a_metric_that_most_resamples_do_not_define_has_no_interval(every, has_interval):
    calls = iter(range(1000))

    def measure(weights):
        return {"rare": math.nan if next(calls) % every == 0 else float(weights.sum())}

    assert ("rare" in intervals(measure, samples=300)) is has_interval
