"""Learning-rate schedules: pure functions of the step."""

import math

from trainyard_api.spec import Schedule


def learning_rate_factor(schedule: Schedule, step: int, total_steps: int) -> float:
    """The factor of the peak learning rate for optimizer step `step`, counted from 0.

    Warm-up rises linearly to 1 at step `warmupSteps`. Then: Constant stays; Linear and Cosine fall;
    WarmupStableDecay stays and falls over the last `decaySteps`, linearly or as 1 - sqrt(x) (Haegele et al.
    2024, arXiv 2405.18392, section 4). A fall would reach `minimumRatio` one step after the last, so that no
    step is wasted on a rate of 0.

    Args:
        schedule: shape and constants.
        step: optimizer steps done before this one.
        total_steps: optimizer steps of the run, or its newest estimate.
    """
    if step < schedule.warmup_steps:
        return (step + 1) / schedule.warmup_steps
    decay_start = schedule.warmup_steps
    if schedule.name == "WarmupStableDecay":
        decay_steps = schedule.decay_steps or max(1, total_steps // 10)
        decay_start = max(schedule.warmup_steps, total_steps - decay_steps)
    decay_length = max(1, total_steps - decay_start)
    progress = min(1.0, max(0.0, (step + 1 - decay_start) / (decay_length + 1)))
    return schedule.minimum_ratio + (1.0 - schedule.minimum_ratio) * _remaining(schedule, progress)


def _remaining(schedule: Schedule, progress: float) -> float:
    """What is left of the fall after a part of it, 1 to 0."""
    if schedule.name == "Constant":
        return 1.0
    if schedule.name == "Cosine":
        return 0.5 * (1.0 + math.cos(math.pi * progress))
    if schedule.name == "WarmupStableDecay" and schedule.decay_shape == "OneMinusSqrt":
        return 1.0 - math.sqrt(progress)
    return 1.0 - progress
