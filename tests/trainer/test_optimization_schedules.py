"""Learning rate and budgets as pure functions."""

import pytest

from trainyard_api.spec import Budget, Schedule
from trainyard_trainer.optimization.budgets import estimated_steps, planned_steps
from trainyard_trainer.optimization.schedules import learning_rate_factor


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (Schedule(name="Constant"), {0: 1.0, 50: 1.0, 99: 1.0}),
        (Schedule(name="Constant", warmup_steps=10), {0: 0.1, 4: 0.5, 9: 1.0, 10: 1.0, 99: 1.0}),
        (Schedule(name="Linear"), {0: 0.99, 49: 0.5, 99: 0.0}),
        (Schedule(name="Linear", warmup_steps=20), {9: 0.5, 19: 1.0, 59: 0.5, 99: 0.0}),
        (Schedule(name="Linear", minimum_ratio=0.1), {49: 0.55, 99: 0.1}),
        (Schedule(name="Cosine"), {49: 0.5, 99: 0.0}),
        (Schedule(name="Cosine", minimum_ratio=0.2), {49: 0.6, 99: 0.2}),
        (
            Schedule(name="WarmupStableDecay", warmup_steps=10, decay_steps=20, decay_shape="Linear"),
            {0: 0.1, 10: 1.0, 79: 1.0, 89: 0.5, 99: 0.0},
        ),
        (Schedule(name="WarmupStableDecay", decay_steps=40), {59: 1.0, 69: 0.5, 99: 0.0}),
        (Schedule(name="WarmupStableDecay", decay_shape="Linear"), {89: 1.0, 94: 0.5, 99: 0.0}),
    ],
)
def test_the_factor_follows_the_schedule(schedule: Schedule, expected: dict[int, float]) -> None:
    assert {step: learning_rate_factor(schedule, step, 100) for step in expected} == pytest.approx(expected)


def test_the_factor_stays_at_its_end_after_the_last_step() -> None:
    assert learning_rate_factor(Schedule(name="Linear", minimum_ratio=0.1), 250, 100) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("budget", "steps"),
    [
        (Budget(steps=7), 7),
        (Budget(epochs=1.0), 13),
        (Budget(epochs=2.5), 32),
        (Budget(epochs=0.01), 1),
        (Budget(tokens=8_000), 10),
        (Budget(tokens=8_001), 11),
        (Budget(tokens=1), 1),
        (Budget(wall_clock_seconds=60), None),
    ],
)
def test_a_budget_becomes_steps(budget: Budget, steps: int | None) -> None:
    assert planned_steps(budget, num_rows=100, num_tokens=10_000, global_batch_size=8) == steps


def test_a_wall_clock_budget_is_estimated_from_the_pace_so_far() -> None:
    assert estimated_steps(100, 25.0, 50) == 200
    assert estimated_steps(100, 99.9, 50) == 51
    assert estimated_steps(100, 150.0, 50) == 51
    assert estimated_steps(100, 0.0, 0) > 1_000_000
