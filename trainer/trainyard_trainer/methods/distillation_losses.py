"""Losses on the teacher's predictions: divergences of two distributions over one vocabulary.

Each value is per position and in nats; sums are over positions, never means over the vocabulary, so that the
training loop can divide by the global count. docs/distillation.md has the formulas with their sources.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own convention

from trainyard_trainer.methods.losses import LOGITS_CHUNK_POSITIONS, sum_over_places

Head = Callable[[torch.Tensor], torch.Tensor]
"""Projection of hidden states to a vocabulary, [m, hidden size] -> [m, vocabulary]."""
Divergence = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Student's and teacher's logits, [m, vocabulary] each, to a value per position, [m]."""


@dataclass(frozen=True, slots=True)
class LossSum:
    """A term of the loss before it is divided."""

    total: torch.Tensor
    """A scalar in fp32, the sum over the places that count; 0 with a gradient where there are none."""
    count: int
    """Number of those places."""


def widened(values: torch.Tensor) -> torch.Tensor:
    """Values in fp32 at least: sums of thousands of terms lose too much in half the precision."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def full_precision(values: torch.Tensor) -> torch.autocast:
    """Where products of such values are not rounded to half the precision, whatever the caller set."""
    return torch.autocast(values.device.type, enabled=False)


def forward_kl(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    """T^2 KL(teacher || student) of the softened distributions (Hinton et al. 2015, section 2).

    Args:
        student: logits [m, vocabulary].
        teacher: logits of the same shape.
        temperature: divisor T of both.

    Returns:
        [m], 0 where both are equal.
    """
    student_log, teacher_log = _softened(student, temperature), _softened(teacher, temperature)
    return temperature**2 * _kl(teacher_log, student_log)


def reverse_kl(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    """T^2 KL(student || teacher), which avoids what the teacher holds unlikely (MiniLLM, Gu et al. 2023).

    Arguments and result are those of `forward_kl`.
    """
    student_log, teacher_log = _softened(student, temperature), _softened(teacher, temperature)
    return temperature**2 * _kl(student_log, teacher_log)


def jensen_shannon(
    student: torch.Tensor, teacher: torch.Tensor, temperature: float, teacher_share: float
) -> torch.Tensor:
    """T^2 (b KL(teacher || m) + (1 - b) KL(student || m)), m = b teacher + (1 - b) student.

    The generalised Jensen-Shannon divergence of GKD (Agarwal et al. 2023, section 2). Divided by b it becomes
    the forward divergence as b goes to 0, and divided by 1 - b the reverse one as b goes to 1.

    Args:
        student: logits [m, vocabulary].
        teacher: logits of the same shape.
        temperature: divisor T of both.
        teacher_share: b, above 0 and below 1.

    Returns:
        [m], 0 where both are equal, at most T^2 times the entropy of (b, 1 - b).
    """
    student_log, teacher_log = _softened(student, temperature), _softened(teacher, temperature)
    mixture_log = torch.logaddexp(
        teacher_log + math.log(teacher_share), student_log + math.log1p(-teacher_share)
    )
    from_teacher, from_student = _kl(teacher_log, mixture_log), _kl(student_log, mixture_log)
    return temperature**2 * (teacher_share * from_teacher + (1.0 - teacher_share) * from_student)


def divergence_of(
    kind: Literal["ForwardKL", "ReverseKL", "JensenShannon"], *, temperature: float, teacher_share: float
) -> Divergence:
    """The divergence that `spec.distillation.losses.logits` names."""
    if kind == "ForwardKL":
        return lambda student, teacher: forward_kl(student, teacher, temperature)
    if kind == "ReverseKL":
        return lambda student, teacher: reverse_kl(student, teacher, temperature)
    return lambda student, teacher: jensen_shannon(student, teacher, temperature, teacher_share)


def divergence_sum(  # noqa: PLR0913 - two models, each with states and a head
    student_hidden: torch.Tensor,
    teacher_hidden: torch.Tensor,
    *,
    student_head: Head,
    teacher_head: Head,
    divergence: Divergence,
    vocabulary_sizes: tuple[int, int],
    most_places: int | None = None,
    chunk_positions: int = LOGITS_CHUNK_POSITIONS,
) -> LossSum:
    """A divergence summed over positions, with the logits of at most one chunk of them at once.

    Args:
        student_hidden: [m, hidden size], the student's states at the positions that count.
        teacher_hidden: [m, hidden size of the teacher]; no gradient flows into them.
        student_head: the student's projection to its vocabulary.
        teacher_head: the teacher's.
        divergence: compares the logits of both.
        vocabulary_sizes: tokens of student and teacher; columns behind them are padding and are cut.
        most_places: see `losses.sum_over_places`.
        chunk_positions: positions whose logits exist at once.
    """

    def chunk_sum(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            teacher_logits = teacher_head(teacher)[:, : vocabulary_sizes[1]]
        return divergence(student_head(student)[:, : vocabulary_sizes[0]], teacher_logits).sum()

    total = sum_over_places(
        chunk_sum,
        (student_hidden, teacher_hidden.detach()),
        most_places=most_places,
        chunk_positions=chunk_positions,
    )
    return LossSum(total, len(student_hidden))


def _softened(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    """Log-probabilities at a temperature."""
    return F.log_softmax(widened(logits) / temperature, dim=-1)


def _kl(first_log: torch.Tensor, second_log: torch.Tensor) -> torch.Tensor:
    """KL(first || second) over the last dimension, from log-probabilities."""
    return (first_log.exp() * (first_log - second_log)).sum(-1)
