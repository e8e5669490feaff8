"""Judges language models, of instructions or of plain text, by their loss."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from trainyard_api.task_metrics import LOSS, PERPLEXITY
from trainyard_trainer.evaluation.classification import Counts
from trainyard_trainer.evaluation.gather import Gathered, Observations
from trainyard_trainer.evaluation.judge import Judgement, Predictor

MAXIMUM_EXPONENT = 700.0
"""The largest loss whose exponential is a number of fp64."""


@dataclass(frozen=True)
class LossJudge:
    """Judges predicted tokens; rows of a micro-batch are resampled together, since their loss is one sum."""

    num_keys: ClassVar[int] = 1

    def observe(self, predictor: Predictor, batch: Any, number: int) -> Observations:
        """Predictions and summed loss of the batch; nothing of a batch that predicts nothing."""
        loss = predictor.forward(batch).float().cpu().reshape(1, 1)
        integers = torch.tensor([[number, batch.num_labels]])
        return Observations(integers, loss) if batch.num_labels else Observations(integers[:0], loss[:0])

    def judge(self, gathered: Gathered) -> Judgement:
        """Loss in nats per predicted token, and its exponential."""
        num_labels = gathered.integers[:, 1].astype(np.float64)
        sums = gathered.numbers[:, 0].astype(np.float64)

        def measure(weights: Counts | None) -> Mapping[str, float]:
            each = np.ones(len(sums)) if weights is None else weights
            loss = float(each @ sums) / float(each @ num_labels)
            return {LOSS: loss, PERPLEXITY: math.exp(min(loss, MAXIMUM_EXPONENT))}

        return Judgement(measure=measure, num_examples=len(sums), unit="batches")
