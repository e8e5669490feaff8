"""What the benchmarks against Hugging Face Trainer share."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformers import TrainerCallback

RANK_VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@contextmanager
def without_ranks() -> Iterator[None]:
    """Hide from Trainer that this process is rank 0 of Trainyard's gang of one.

    By these variables it would wrap its model in DistributedDataParallel, which one process does not need.
    """
    hidden = {name: os.environ.pop(name) for name in RANK_VARIABLES if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(hidden)


class StepClock(TrainerCallback):
    """Notes when each optimizer step ended."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002 - its API
        """Note the time."""
        self.ends.append(time.perf_counter())
