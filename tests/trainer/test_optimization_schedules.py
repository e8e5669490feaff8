"""Learning rate and budgets as pure functions."""

from math import cos, pi, sqrt

import pytest

from trainyard_api.errors import ConfigurationError
from trainyard_api.spec import Budget, Schedule, Training
from trainyard_trainer.optimization.budgets import checked_steps, estimated_steps, planned_steps
from trainyard_trainer.optimization.schedules import learning_rate_factor


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (Schedule(name="Constant"), {0: 1.0, 50: 1.0, 99: 1.0}),
        (Schedule(name="Constant", warmup_steps=10), {0: 0.1, 4: 0.5, 9: 1.0, 10: 1.0, 99: 1.0}),
        (Schedule(name="Linear"), {0: 100 / 101, 49: 51 / 101, 99: 1 / 101}),
        (Schedule(name="Linear", warmup_steps=20), {9: 0.5, 19: 1.0, 59: 41 / 81, 99: 1 / 81}),
        (Schedule(name="Linear", minimum_ratio=0.1), {99: 0.1 + 0.9 / 101}),
        (Schedule(name="Cosine"), {49: 0.5 + 0.5 * cos(pi * 50 / 101), 99: 0.5 + 0.5 * cos(pi * 100 / 101)}),
        (Schedule(name="Cosine", minimum_ratio=0.2), {99: 0.2 + 0.4 * (1 + cos(pi * 100 / 101))}),
        (
            Schedule(name="WarmupStableDecay", warmup_steps=10, decay_steps=20, decay_shape="Linear"),
            {0: 0.1, 10: 1.0, 79: 1.0, 80: 20 / 21, 99: 1 / 21},
        ),
        (Schedule(name="WarmupStableDecay", decay_steps=40), {59: 1.0, 99: 1 - sqrt(40 / 41)}),
        (Schedule(name="WarmupStableDecay", decay_shape="Linear"), {89: 1.0, 90: 10 / 11, 99: 1 / 11}),
    ],
)
def test_the_factor_follows_the_schedule(schedule: Schedule, expected: dict[int, float]) -> None:
    assert {step: learning_rate_factor(schedule, step, 100) for step in expected} == pytest.approx(expected)


@pytest.mark.parametrize("name", ["Linear", "Cosine", "WarmupStableDecay"])
@pytest.mark.parametrize("total_steps", [1, 2, 10])
def test_every_step_of_a_run_however_short_learns(name: str, total_steps: int) -> None:
    schedule = Schedule.model_validate({"name": name})
    assert all(learning_rate_factor(schedule, step, total_steps) > 0.01 for step in range(total_steps))


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


@pytest.mark.parametrize(
    ("budget", "warmup_steps", "decay_steps", "steps"),
    [
        ({"epochs": 1.0}, 3, 10, 13),
        ({"epochs": 1.0}, 4, 10, None),
        ({"epochs": 1.0}, 14, None, None),
        ({"tokens": 8_000}, 10, None, 10),
        ({"tokens": 8_000}, 5, 6, None),
        ({"steps": 4}, 5, None, None),
    ],
)
def test_a_schedule_that_is_longer_than_the_budget_on_this_data_is_refused(
    budget: dict[str, float], warmup_steps: int, decay_steps: int | None, steps: int | None
) -> None:
    training = Training.model_validate(
        {
            "budget": budget,
            "globalBatchSize": 8,
            "microBatchSize": 8,
            "optimizer": {"learningRate": 1e-3},
            "schedule": {
                "name": "WarmupStableDecay",
                "warmupSteps": warmup_steps,
                "decaySteps": decay_steps,
            },
        }
    )
    if steps is not None:
        assert checked_steps(training, num_rows=100, num_tokens=10_000) == steps
        return
    needed = warmup_steps + (decay_steps or 0)
    with pytest.raises(ConfigurationError, match=f"together are {needed} steps, and on this data") as caught:
        checked_steps(training, num_rows=100, num_tokens=10_000)
    assert caught.value.where == "spec.training.schedule.warmupSteps"


def test_a_wall_clock_budget_allows_any_schedule() -> None:
    training = Training.model_validate(
        {
            "budget": {"wallClockSeconds": 60},
            "globalBatchSize": 8,
            "microBatchSize": 8,
            "optimizer": {"learningRate": 1e-3},
            "schedule": {"warmupSteps": 1_000_000},
        }
    )
    assert checked_steps(training, num_rows=100, num_tokens=10_000) is None


def test_a_wall_clock_budget_is_estimated_from_the_pace_so_far() -> None:
    assert estimated_steps(100, 25.0, 50) == 200
    assert estimated_steps(100, 99.9, 50) == 51
    assert estimated_steps(100, 150.0, 50) == 51
    assert estimated_steps(100, 0.0, 0) > 1_000_000
