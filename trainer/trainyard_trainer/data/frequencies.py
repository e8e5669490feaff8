"""What token frequencies alone tell of a text: the losses that a model has to beat to have learnt context."""

import numpy as np
from numpy.typing import NDArray

MASKED_FRACTION = 0.8
"""Of the tokens that a masked model has to predict, those it sees as the mask token."""
RANDOM_FRACTION = 0.1
"""Those it sees as a random token; the rest it sees as they are."""


def entropy(frequencies: NDArray[np.int64]) -> float:
    """Entropy in nats of a distribution given by counts; 0 when there are none."""
    counted = frequencies[frequencies > 0].astype(np.float64)
    if not len(counted):
        return 0.0
    probabilities = counted / counted.sum()
    return float(-(probabilities * np.log(probabilities)).sum())


def masked_frequency_loss(frequencies: NDArray[np.int64]) -> float:
    """Lowest loss of a masked model without context, in nats per predicted token; 0 when nothing is counted.

    Such a model knows how frequent tokens are, and sees what stands at the place: the mask in 80 % of the
    cases, the token itself in 10 %, and a random one in 10 %. At a mask it pays the entropy. A shown token x
    is the right one with the probability k(x) = p(x) / (p(x) + 1/v) by Bayes' rule, so it predicts x with
    k(x) + (1 - k(x)) p(x), and any other token y with (1 - k(x)) p(y).

    Args:
        frequencies: int64 [v], how often each token stands in the training text.
    """
    total = frequencies.sum()
    if not total:
        return 0.0
    share = frequencies / total
    right = share / (share + 1.0 / len(share))
    seen = share > 0
    kept = -(share[seen] * np.log(right[seen] + (1.0 - right[seen]) * share[seen])).sum()
    replaced = entropy(frequencies) - np.log1p(-right).mean()
    masked = MASKED_FRACTION * entropy(frequencies)
    return float(masked + RANDOM_FRACTION * replaced + (1.0 - MASKED_FRACTION - RANDOM_FRACTION) * kept)
