"""A term of a student's loss, from what both models make of a batch."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from trainyard_trainer.methods.loss_terms import LossTerm
from trainyard_trainer.models.view import View


@dataclass(frozen=True)
class Term:
    """A term and how its sum is computed."""

    described: LossTerm
    sum_of: Callable[[View, View], torch.Tensor]
    """From the views of student and teacher of a batch to a scalar."""
