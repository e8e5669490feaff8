"""Which documents are held out, and how often each training document occurs: pure functions of its hash.

The first 64 bits of the hash decide the split, the last 64 the fraction of a weight, so that the two are
independent. A larger validationFraction holds out all documents that a smaller one does.
"""

import numpy as np
from numpy.typing import NDArray

TWO_TO_64 = float(1 << 64)


def is_validation(hashes: NDArray[np.uint64], validation_fraction: float) -> NDArray[np.bool_]:
    """Whether each document is held out.

    Args:
        hashes: uint64 [documents, 2].
        validation_fraction: fraction of the documents to hold out.
    """
    return _as_fraction(hashes[:, 0]) < validation_fraction


def copies_per_epoch(hashes: NDArray[np.uint64], weight: float) -> NDArray[np.int64]:
    """How often each training document occurs in an epoch: the whole part of the weight, plus one by hash.

    Args:
        hashes: uint64 [documents, 2].
        weight: occurrences on average.
    """
    whole = int(weight)
    return whole + (_as_fraction(hashes[:, 1]) < weight - whole).astype(np.int64)


def _as_fraction(values: NDArray[np.uint64]) -> NDArray[np.float64]:
    return values.astype(np.float64) / TWO_TO_64
