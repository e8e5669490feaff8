"""Losses of the fine-tuning tasks: sums in nats and fp32, whose divisor is known outside.

The divisor is the sum of the weights of all predictions of an optimizer step, over all micro-batches and
ranks; only so does a step not depend on how its batch is divided.
"""

import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own convention

IGNORED = -100
"""Label of a place where nothing is predicted."""


def class_loss_sum(
    logits: torch.Tensor,
    labels: torch.Tensor,
    *,
    class_weights: torch.Tensor | None = None,
    focal_gamma: float = 0.0,
    label_smoothing: float = 0.0,
) -> torch.Tensor:
    """Sum over predictions of one class each.

    Plain: w[y] x -log p[y]. Smoothed, as PyTorch does it: (1 - e) x w[y] x -log p[y] + e / k x the sum over
    classes c of w[c] x -log p[c]. Focal (Lin et al. 2017, arXiv 1708.02002, equation 5):
    w[y] x (1 - p[y]) ** gamma x -log p[y].

    Args:
        logits: [m, k].
        labels: int64 [m]; IGNORED where nothing is predicted.
        class_weights: fp32 [k]; 1 each when None.
        focal_gamma: exponent; 0 is plain cross-entropy.
        label_smoothing: fraction e of the target that is spread over all classes.
    """
    logits = logits.float()
    if focal_gamma == 0.0:
        return F.cross_entropy(
            logits,
            labels,
            weight=class_weights,
            ignore_index=IGNORED,
            reduction="sum",
            label_smoothing=label_smoothing,
        )
    is_predicted = labels != IGNORED
    targets = labels.masked_fill(~is_predicted, 0)
    log_probabilities = logits.log_softmax(-1).gather(-1, targets[:, None])[:, 0]
    weights = is_predicted.float() if class_weights is None else class_weights[targets] * is_predicted
    return (-weights * (1.0 - log_probabilities.exp()) ** focal_gamma * log_probabilities).sum()


def multi_label_loss_sum(
    logits: torch.Tensor,
    labels: torch.Tensor,
    *,
    class_weights: torch.Tensor | None = None,
    focal_gamma: float = 0.0,
    label_smoothing: float = 0.0,
) -> torch.Tensor:
    """Sum over rows and classes of w[c] x binary cross-entropy, each class by itself.

    Args:
        logits: [m, k].
        labels: [m, k], 0 or 1.
        class_weights: fp32 [k]; 1 each when None.
        focal_gamma: exponent of the factor (1 - probability of the truth); 0 is plain cross-entropy.
        label_smoothing: how far both targets move towards 1/2, as a fraction of the way.
    """
    logits, labels = logits.float(), labels.float()
    targets = labels * (1.0 - label_smoothing) + 0.5 * label_smoothing
    losses = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    if focal_gamma > 0.0:
        truth = torch.where(labels > 0.5, logits, -logits).sigmoid()
        losses = losses * (1.0 - truth) ** focal_gamma
    return (losses if class_weights is None else losses * class_weights).sum()


def regression_loss_sum(predictions: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Sum of squared errors of [m, 1] numbers."""
    return F.mse_loss(predictions.float(), labels.float(), reduction="sum")
