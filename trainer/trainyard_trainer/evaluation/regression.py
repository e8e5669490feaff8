"""Metrics of predicted numbers; NumPy only."""

import numpy as np

from trainyard_trainer.evaluation.classification import Counts


def mean_squared_error(labels: Counts, predictions: Counts, weights: Counts | None = None) -> float:
    """Mean of the squared differences, in the square of the labels' unit.

    Args:
        labels: [n].
        predictions: [n].
        weights: how often each counts, [n]; once when None.
    """
    return float(np.average((predictions - labels) ** 2, weights=weights))


def pearson(labels: Counts, predictions: Counts, weights: Counts | None = None) -> float:
    """Pearson's correlation, -1 to 1; NaN where labels or predictions are all equal. Arguments as above."""
    from_labels = labels - np.average(labels, weights=weights)
    from_predictions = predictions - np.average(predictions, weights=weights)
    each = np.ones(len(labels)) if weights is None else weights
    variances = float(each @ from_labels**2) * float(each @ from_predictions**2)
    covariance = float(each @ (from_labels * from_predictions))
    return covariance / variances**0.5 if variances > 0.0 else float("nan")
