"""Both sums of a sampled cache with their gradient by formula, which goes through the vocabulary less often.

With s the student's logits, q = softmax(s / T), p_i the kept probabilities, r the rest's and n_i how often
token i was drawn of n times, the derivative of the divergence of docs/distillation.md by s_i is

T ((sum of p + r) q_i - p_i - r n_i / n)

Autograd would divide, exponentiate and add up whole vocabularies once for every term of it.
"""

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from trainyard_trainer.distillation.cache_entries import CachedPredictions
from trainyard_trainer.distillation.cache_layout import CacheLayout

UNLABELLED = -100
"""Stands for the label of a place at which the data has nothing to predict."""


def sampled_sums(
    logits: torch.Tensor, labels: torch.Tensor, kept: CachedPredictions, layout: CacheLayout
) -> torch.Tensor:
    """Sums of the labels' cross-entropy and of T^2 KL(teacher || student), [2] in the type of the logits.

    Args:
        logits: [m, columns] of the student; for the teacher those behind the vocabulary are cut.
        labels: int64 [m], UNLABELLED where there is none.
        kept: what is kept of the teacher, with samples.
        layout: how.
    """
    arguments = (logits, labels, layout, *kept.tensors())
    found: torch.Tensor = _SampledSums.apply(*arguments)  # type: ignore[no-untyped-call]
    return found


class _SampledSums(torch.autograd.Function):
    """See `sampled_sums`."""

    @staticmethod
    def forward(  # noqa: PLR0913, PLR0917 - the tensors of a cache, one by one for autograd
        ctx: Any,
        logits: torch.Tensor,
        labels: torch.Tensor,
        layout: CacheLayout,
        top_ids: torch.Tensor,
        top_log: torch.Tensor,
        tail_ids: torch.Tensor,
        tail_log: torch.Tensor,
        entropy: torch.Tensor,
    ) -> torch.Tensor:
        temperature, columns = layout.temperature, layout.vocabulary_size
        top, tail = top_log.exp(), tail_log.exp()
        largest = logits.amax(-1)
        powers = (logits - largest[:, None]).div_(temperature).exp_()
        total, softened_total = _raised(powers, temperature).sum(-1), powers[:, :columns].sum(-1)
        log_sum, softened = total.log() + largest, softened_total.log() + largest / temperature
        ctx.layout = layout
        ctx.save_for_backward(powers, total, softened_total, labels, top_ids, tail_ids, top, tail)
        is_labelled = labels != UNLABELLED
        at_label = logits.gather(1, labels.clamp(min=0)[:, None])[:, 0]
        at_top = logits.gather(1, top_ids) / temperature - softened[:, None]
        at_tail = logits.gather(1, tail_ids).mean(-1) / temperature - softened
        values = -entropy - (top * at_top).sum(-1) - tail * at_tail
        return torch.stack([((log_sum - at_label) * is_labelled).sum(), temperature**2 * values.sum()])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        powers, total, softened_total, labels, top_ids, tail_ids, top, tail = ctx.saved_tensors
        temperature, columns = ctx.layout.temperature, ctx.layout.vocabulary_size
        of_labels = gradients[0][0] * (labels != UNLABELLED)
        of_teacher = gradients[0][1] * temperature
        found = _raised(powers, temperature) * (of_labels / total)[:, None]
        by_row = of_teacher * (top.sum(-1) + tail) / softened_total
        found[:, :columns].addcmul_(powers[:, :columns], by_row[:, None])
        found.scatter_add_(1, labels.clamp(min=0)[:, None], -of_labels[:, None])
        found.scatter_add_(1, top_ids, -of_teacher * top)
        share = -of_teacher * tail / tail_ids.shape[1]
        found.scatter_add_(1, tail_ids, share[:, None].expand_as(tail_ids))
        return found, *[None] * 7


def _raised(powers: torch.Tensor, temperature: float) -> torch.Tensor:
    """From exp(s / T) to exp(s), without an exponential for the usual temperatures; maybe the same tensor."""
    if temperature == 1.0:
        return powers
    return powers.square() if temperature == 2.0 else powers.pow(temperature)
