"""Losses on what happens inside the teacher: hidden states, attention scores, relations between tokens.

Each place counts once, whatever the number of features, heads or keys, so that sums of micro-batches add
up. docs/distillation.md has the formulas with their sources.
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own convention
from torch import nn

from trainyard_trainer.methods.distillation_losses import LossSum, full_precision, widened


def hidden_projection(student_size: int, teacher_size: int, seed: int) -> nn.Module:
    """The map from the student's features to the teacher's; learned where the sizes differ.

    Its weights depend on sizes and seed alone and keep the mean square of what passes through.
    """
    if student_size == teacher_size:
        return nn.Identity()
    generator = torch.Generator().manual_seed(seed)
    projection = nn.Linear(student_size, teacher_size, bias=False)
    with torch.no_grad():
        projection.weight.normal_(std=student_size**-0.5, generator=generator)
    return projection


def hidden_sum(
    student: torch.Tensor,
    teacher: torch.Tensor,
    *,
    measure: Literal["Cosine", "MeanSquaredError"],
    projection: nn.Module,
) -> LossSum:
    """Distance of hidden states: 1 - cosine (DistilBERT), or the squared error per feature (TinyBERT).

    Args:
        student: [m, features], at the places that count.
        teacher: [m, features of the teacher]; no gradient flows into them.
        measure: which distance.
        projection: from the student's features to the teacher's.
    """
    projected, target = widened(projection(student)), widened(teacher.detach())
    if measure == "Cosine":
        distances = 1.0 - F.cosine_similarity(projected, target, dim=-1)
    else:
        distances = (projected - target).square().mean(-1)
    return LossSum(distances.sum(), len(student))


class HeadProjection(nn.Module):
    """A learned mixture of the student's attention heads for each head of the teacher.

    At first each head of the teacher is compared with one of the student, neighbours with the same one.
    """

    def __init__(self, num_student_heads: int, num_teacher_heads: int) -> None:
        super().__init__()
        teacher_heads = torch.arange(num_teacher_heads)
        weight = torch.zeros(num_teacher_heads, num_student_heads)
        weight[teacher_heads, teacher_heads * num_student_heads // num_teacher_heads] = 1.0
        self.weight = nn.Parameter(weight)

    def forward(self, scores: torch.Tensor) -> torch.Tensor:
        """Scores [rows, heads of the student, ...] as [rows, heads of the teacher, ...]."""
        with full_precision(scores):
            return torch.einsum("rs...,ts->rt...", scores, self.weight.to(scores.dtype))


def head_projection(num_student_heads: int, num_teacher_heads: int) -> nn.Module:
    """The map from the student's attention heads to the teacher's; learned where their numbers differ."""
    if num_student_heads == num_teacher_heads:
        return nn.Identity()
    return HeadProjection(num_student_heads, num_teacher_heads)


def attention_scores(queries: torch.Tensor, keys: torch.Tensor, num_heads: int) -> torch.Tensor:
    """Scaled products of queries and keys before any softmax, [rows, heads, length, length].

    Args:
        queries: [rows, length, heads x head size].
        keys: the same shape.
        num_heads: heads into which the features are split.

    Raises:
        ValueError: the features cannot be split so.
    """
    split_queries, split_keys = _heads(widened(queries), num_heads), _heads(widened(keys), num_heads)
    head_size = split_queries.shape[-1]
    with full_precision(split_queries):
        return torch.matmul(split_queries, split_keys.transpose(-1, -2)) / math.sqrt(head_size)


def attention_sum(student: torch.Tensor, teacher: torch.Tensor, allowed: torch.Tensor) -> LossSum:
    """Squared error of attention scores (TinyBERT), a mean over heads and the keys of each query.

    Args:
        student: scores [rows, heads of the teacher, length, length]; see `head_projection`.
        teacher: scores of the same shape; no gradient flows into them.
        allowed: bool [rows, length, length], which keys a query may see; queries without any do not count.
    """
    errors = (widened(student) - widened(teacher.detach())).square().mean(1)
    num_keys = allowed.sum(-1)
    by_query = (errors * allowed).sum(-1) / num_keys.clamp(min=1)
    return LossSum(by_query.sum(), int((num_keys > 0).sum()))


def relation_sum(
    student: tuple[torch.Tensor, torch.Tensor],
    teacher: tuple[torch.Tensor, torch.Tensor],
    *,
    num_heads: int,
    allowed: torch.Tensor,
) -> LossSum:
    """KL of the teacher's relations to the student's (MiniLM, Wang et al. 2020; heads as in MiniLMv2).

    The relation of two projections a and b is softmax(a b^T / sqrt(head size)), once per head and query; with
    queries and keys it is the attention itself. Widths may differ, since only tokens are compared.

    Args:
        student: two projections of one layer, [rows, length, features] each, such as (query, key).
        teacher: the same two of the teacher; no gradient flows into them.
        num_heads: relation heads into which the features of both models are split.
        allowed: bool [rows, length, length], which tokens are related; places without any do not count.

    Returns:
        The sum over places of the mean over heads.

    Raises:
        ValueError: the features of a model cannot be split so.
    """
    blocked = ~allowed[:, None]
    student_scores = attention_scores(*student, num_heads)
    with torch.no_grad():
        teacher_scores = attention_scores(*teacher, num_heads)
    lowest = torch.finfo(student_scores.dtype).min
    student_log = student_scores.masked_fill(blocked, lowest).log_softmax(-1)
    teacher_log = teacher_scores.masked_fill(blocked, lowest).log_softmax(-1)
    terms = (teacher_log.exp() * (teacher_log - student_log)).masked_fill(blocked, 0.0)
    counted = allowed.any(-1)
    return LossSum(terms.sum(-1).mean(1).masked_fill(~counted, 0.0).sum(), int(counted.sum()))


def _heads(values: torch.Tensor, num_heads: int) -> torch.Tensor:
    """[rows, length, features] as [rows, heads, length, head size]."""
    rows, length, features = values.shape
    if features % num_heads:
        raise ValueError(f"{features} features cannot be split into {num_heads} heads")
    return values.reshape(rows, length, num_heads, -1).transpose(1, 2)
