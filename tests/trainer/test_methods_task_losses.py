"""Losses of the tasks against sums that are computed by hand."""

import math

import pytest
import torch

from trainyard_trainer.methods.task_losses import (
    IGNORED,
    class_loss_sum,
    multi_label_loss_sum,
    regression_loss_sum,
)

LOGITS = [[2.0, -1.0, 0.5], [0.0, 0.3, -0.7], [1.0, 1.0, 3.0], [-2.0, 0.1, 0.0]]
LABELS = [0, 2, IGNORED, 1]
WEIGHTS = [0.5, 1.0, 1.5]


def log_probability(row: list[float], label: int) -> float:
    return row[label] - math.log(sum(math.exp(value) for value in row))


@pytest.mark.parametrize("gamma", [0.0, 2.0])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_the_class_loss_is_the_weighted_sum_over_what_is_predicted(
    gamma: float, weights: list[float] | None
) -> None:
    expected = 0.0
    for row, label in zip(LOGITS, LABELS, strict=True):
        if label != IGNORED:
            of_label = log_probability(row, label)
            weight = 1.0 if weights is None else weights[label]
            expected -= weight * (1.0 - math.exp(of_label)) ** gamma * of_label
    found = class_loss_sum(
        torch.tensor(LOGITS),
        torch.tensor(LABELS),
        class_weights=None if weights is None else torch.tensor(weights),
        focal_gamma=gamma,
    )
    assert float(found) == pytest.approx(expected, rel=1e-6)


def test_smoothing_spreads_a_fraction_of_the_target_over_all_classes() -> None:
    fraction, expected = 0.1, 0.0
    for row, label in zip(LOGITS, LABELS, strict=True):
        if label != IGNORED:
            everywhere = sum(WEIGHTS[other] * log_probability(row, other) for other in range(3))
            expected -= (1.0 - fraction) * WEIGHTS[label] * log_probability(row, label)
            expected -= fraction / 3 * everywhere
    found = class_loss_sum(
        torch.tensor(LOGITS),
        torch.tensor(LABELS),
        class_weights=torch.tensor(WEIGHTS),
        label_smoothing=fraction,
    )
    assert float(found) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("gamma", [0.0, 1.5])
def test_the_multi_label_loss_judges_each_class_by_itself(gamma: float) -> None:
    labels, expected = [[1, 0, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0]], 0.0
    for row, truths in zip(LOGITS, labels, strict=True):
        for value, truth, weight in zip(row, truths, WEIGHTS, strict=True):
            of_truth = 1.0 / (1.0 + math.exp(-value if truth else value))
            expected -= weight * (1.0 - of_truth) ** gamma * math.log(of_truth)
    found = multi_label_loss_sum(
        torch.tensor(LOGITS),
        torch.tensor(labels),
        class_weights=torch.tensor(WEIGHTS),
        focal_gamma=gamma,
    )
    assert float(found) == pytest.approx(expected, rel=1e-6)


def test_the_regression_loss_sums_squared_errors() -> None:
    found = regression_loss_sum(torch.tensor([[1.0], [3.0]]), torch.tensor([[2.0], [0.0]]))
    assert float(found) == 10.0


@pytest.mark.parametrize("gamma", [0.0, 2.0])
def test_a_batch_without_predictions_gives_0_and_gradients_of_0(gamma: float) -> None:
    logits = torch.tensor(LOGITS, requires_grad=True)
    loss = class_loss_sum(logits, torch.full((4,), IGNORED), focal_gamma=gamma)
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert logits.grad is not None
    assert not logits.grad.any()
