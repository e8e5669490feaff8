"""The losses that token frequencies alone can give."""

import numpy as np
import pytest

from trainyard_trainer.data.frequencies import (
    MASKED_FRACTION,
    RANDOM_FRACTION,
    entropy,
    masked_frequency_loss,
)


def test_the_entropy_of_equal_frequencies_is_the_logarithm_of_their_number():
    assert entropy(np.array([5, 5, 0, 5, 5])) == pytest.approx(np.log(4))
    assert entropy(np.zeros(4, dtype=np.int64)) == 0.0
    assert masked_frequency_loss(np.zeros(4, dtype=np.int64)) == 0.0


@pytest.mark.parametrize("size", [50, 400])
def test_no_predictor_without_context_does_better_and_the_best_one_reaches_the_loss(size):
    """The best predictor by Bayes' rule, summed over all tokens that may be shown and be right."""
    generator = np.random.default_rng(3)
    frequencies = np.sort(generator.zipf(1.3, size=size).clip(max=10_000))[::-1]
    share = frequencies / frequencies.sum()
    kept_fraction = 1.0 - MASKED_FRACTION - RANDOM_FRACTION
    # joint[x, y]: x is shown in place of y.
    joint = RANDOM_FRACTION * np.outer(np.full(size, 1.0 / size), share) + kept_fraction * np.diag(share)
    posterior = joint / joint.sum(axis=1, keepdims=True)
    best = MASKED_FRACTION * entropy(frequencies) - (joint * np.log(posterior)).sum()
    assert masked_frequency_loss(frequencies) == pytest.approx(best, abs=0.02)
    assert masked_frequency_loss(frequencies) < entropy(frequencies)
