"""How many optimizer steps a budget allows; pure functions."""

import math

from trainyard_api.errors import ConfigurationError
from trainyard_api.spec import Budget, Training


def planned_steps(budget: Budget, *, num_rows: int, num_tokens: int, global_batch_size: int) -> int | None:
    """Optimizer steps of the whole run, or None under a wall-clock budget.

    Epochs are rounded up to whole steps (the last batch is completed by the first rows of the next epoch). A
    token budget is turned into steps by the mean number of tokens of a row.

    Args:
        budget: exactly one member set.
        num_rows: rows of an epoch.
        num_tokens: tokens of an epoch, padding not counted.
        global_batch_size: rows per optimizer step.
    """
    if budget.steps is not None:
        return budget.steps
    if budget.epochs is not None:
        return max(1, math.ceil(budget.epochs * num_rows / global_batch_size))
    if budget.tokens is not None:
        return max(1, math.ceil(budget.tokens * num_rows / (num_tokens * global_batch_size)))
    return None


def checked_steps(training: Training, *, num_rows: int, num_tokens: int) -> int | None:
    """The planned steps, which hold the warm-up and the decay; under epochs or tokens only the data tells.

    Args:
        training: budget, schedule and batch.
        num_rows: rows of an epoch.
        num_tokens: tokens of an epoch, padding not counted.

    Returns:
        Optimizer steps of the whole run, or None under a wall-clock budget, which any schedule may use.

    Raises:
        ConfigurationError: warm-up and decay need more steps than there are.
    """
    num_steps = planned_steps(
        training.budget,
        num_rows=num_rows,
        num_tokens=num_tokens,
        global_batch_size=training.global_batch_size,
    )
    schedule = training.schedule
    needed_steps = schedule.warmup_steps + (schedule.decay_steps or 0)
    if num_steps is not None and needed_steps > num_steps:
        raise ConfigurationError(
            "spec.training.schedule.warmupSteps",
            f"warmupSteps and decaySteps together are {needed_steps} steps, "
            f"and on this data the budget gives {num_steps}",
            "Lower them, raise training.budget, or lower globalBatchSize for more steps",
        )
    return num_steps


def estimated_steps(wall_clock_seconds: int, elapsed_seconds: float, steps_done: int) -> int:
    """Steps that a wall-clock budget will have allowed, from the pace so far; at least one more than done."""
    if steps_done == 0 or elapsed_seconds <= 0.0:
        return 1_000_000_000
    return max(steps_done + 1, int(steps_done * wall_clock_seconds / elapsed_seconds))
