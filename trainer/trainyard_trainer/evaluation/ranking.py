"""Area under the receiver operating characteristic: how well scores order examples; NumPy only."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainyard_trainer.evaluation.classification import Counts, Numbers


@dataclass(frozen=True)
class RankedScores:
    """Examples grouped by equal score, so that a resample needs no sorting.

    Attributes:
        groups: number of the group of each example, ascending with the score, [n].
        is_positive: 0 or 1, [n].
        num_groups: different scores.
    """

    groups: NDArray[np.int64]
    is_positive: Counts
    num_groups: int

    @classmethod
    def of(cls, is_positive: Numbers, scores: Numbers) -> "RankedScores":
        """Rank examples.

        Args:
            is_positive: whether each belongs to the class, [n].
            scores: higher for those that seem to belong to it, [n].
        """
        different, groups = np.unique(scores, return_inverse=True)
        return cls(groups.astype(np.int64).reshape(-1), is_positive.astype(np.float64), len(different))

    def area(self, weights: Counts | None = None) -> float:
        """Chance that a positive has a higher score than a negative, equal scores counting half.

        NaN where there are no positives or no negatives.

        Args:
            weights: how often each example counts, [n]; once when None.
        """
        each = np.ones(len(self.groups)) if weights is None else weights
        positives = np.bincount(self.groups, each * self.is_positive, self.num_groups)
        negatives = np.bincount(self.groups, each * (1.0 - self.is_positive), self.num_groups)
        pairs = float(positives.sum()) * float(negatives.sum())
        if not pairs:
            return float("nan")
        below = np.cumsum(negatives) - 0.5 * negatives
        return float(positives @ below) / pairs


def mean_area(rankings: list[RankedScores], weights: Counts | None = None) -> float:
    """Mean area over the classes that have both positives and negatives; NaN where none has."""
    areas = np.array([ranking.area(weights) for ranking in rankings])
    known = areas[~np.isnan(areas)]
    return float(known.mean()) if len(known) else float("nan")
