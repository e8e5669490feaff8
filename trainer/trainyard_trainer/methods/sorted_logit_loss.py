"""Universal logit distillation: a loss between models whose vocabularies differ.

Token ids of one model mean nothing to the other, but both end a token at some of the same places of the text.
There the shape of their predictions can be compared. docs/distillation.md has the formula with its source.
"""

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own convention
from numpy.typing import NDArray

from trainyard_trainer.methods.distillation_losses import LossSum, widened


def aligned_places(
    student_ends: NDArray[np.int64], teacher_ends: NDArray[np.int64]
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Places of both token sequences at which the same prefix of the text has been read.

    Args:
        student_ends: int64 [n], where each token ends in the text, in characters, ascending.
        teacher_ends: int64 [m], the same for the teacher's tokens of the same text.

    Returns:
        Two arrays of equal length, ascending; of several tokens that end at one place, the last counts.
    """
    common = np.intersect1d(student_ends, teacher_ends)
    student = np.searchsorted(student_ends, common, side="right") - 1
    teacher = np.searchsorted(teacher_ends, common, side="right") - 1
    return student, teacher


def sorted_logit_sum(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> LossSum:
    """L1 distance of probabilities sorted by size (ULD, Boizard et al. 2024), summed over aligned places.

    The shorter list is filled up with zeros. A place gives 0 where the sorted probabilities are equal,
    whichever tokens have them, and at most 2.

    Args:
        student: logits [m, vocabulary].
        teacher: logits [m, vocabulary of the teacher]; no gradient flows into them.
        temperature: divisor of both; the term is not multiplied by its square, since it has no such gradient.
    """
    student_sorted = _sorted_probabilities(student, temperature)
    teacher_sorted = _sorted_probabilities(teacher.detach(), temperature)
    longest = max(student_sorted.shape[-1], teacher_sorted.shape[-1])
    student_filled = F.pad(student_sorted, (0, longest - student_sorted.shape[-1]))
    teacher_filled = F.pad(teacher_sorted, (0, longest - teacher_sorted.shape[-1]))
    return LossSum((student_filled - teacher_filled).abs().sum(), len(student))


def _sorted_probabilities(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    """Probabilities at a temperature, the largest first."""
    return (widened(logits) / temperature).softmax(-1).sort(dim=-1, descending=True).values
