"""Universal logit distillation: a loss between models whose vocabularies differ.

Token ids of one model mean nothing to the other, but both end a token at some of the same places of the text.
There the shape of their predictions can be compared. docs/distillation.md has the formula with its source.
"""

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own convention
from numpy.typing import NDArray

from trainyard_trainer.methods.distillation_losses import widened


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


def sorted_logits(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    """L1 distance of probabilities sorted by size (ULD, Boizard et al. 2024).

    The shorter list is filled up with zeros. A place gives 0 where the sorted probabilities are equal,
    whichever tokens have them, and at most 2.

    Args:
        student: logits [m, vocabulary].
        teacher: logits [m, vocabulary of the teacher].
        temperature: divisor of both; the distance is not multiplied by its square, since it has no such
            gradient.

    Returns:
        [m].
    """
    sizes = [_sorted_probabilities(logits, temperature) for logits in (student, teacher)]
    longest = max(found.shape[-1] for found in sizes)
    first, second = (F.pad(found, (0, longest - found.shape[-1])) for found in sizes)
    return (first - second).abs().sum(-1)


def _sorted_probabilities(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    """Probabilities at a temperature, the largest first."""
    return (widened(logits) / temperature).softmax(-1).sort(dim=-1, descending=True).values
