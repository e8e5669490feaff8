"""From a teacher's logits to what a cache keeps of them, and the loss of a student from that alone.

Keeping only the likeliest tokens is biased: a student would learn that all others are impossible. Here the
rest is either one bucket, which the student has to match as a whole, or it is sampled: a token that is drawn
in proportion to its probability stands for its share of the rest, so that the expected loss, and its expected
gradient, are those of the whole distribution (random sampling distillation, arXiv 2503.16870).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from trainyard_trainer.distillation.cache_layout import CacheLayout
from trainyard_trainer.methods.distillation_losses import LossSum, widened

_LEAST_LOG = -1e4
"""Stands for the logarithm of a probability of 0, which times that probability has to give 0."""


@dataclass(frozen=True, slots=True)
class CachedPredictions:
    """What is kept of a teacher's predictions at some places.

    Attributes:
        top_ids: int64 [m, top entries], the likeliest first.
        top_log_probabilities: fp32 of the same shape.
        tail_ids: int64 [m, tail samples], drawn from the rest with replacement.
        tail_log_probability: fp32 [m], of all tokens but the likeliest.
        entropy: fp32 [m], of the whole distribution, in nats.
    """

    top_ids: torch.Tensor
    top_log_probabilities: torch.Tensor
    tail_ids: torch.Tensor
    tail_log_probability: torch.Tensor
    entropy: torch.Tensor

    def tensors(self) -> tuple[torch.Tensor, ...]:
        """All of it, in the order of the arguments that make it."""
        return (
            self.top_ids,
            self.top_log_probabilities,
            self.tail_ids,
            self.tail_log_probability,
            self.entropy,
        )


@torch.no_grad()
def kept_predictions(
    logits: torch.Tensor, layout: CacheLayout, generator: torch.Generator
) -> NDArray[np.void]:
    """The records of some places.

    Args:
        logits: [m, columns] of the teacher; columns behind the vocabulary are cut.
        layout: what to keep.
        generator: on the device of the logits; draws from the rest.

    Returns:
        [m] records of the layout.
    """
    scaled = widened(logits[:, : layout.vocabulary_size]) / layout.temperature
    log_probabilities = scaled.log_softmax(-1)
    probabilities = log_probabilities.exp()
    top_log, top_ids = log_probabilities.topk(layout.top_entries, dim=-1)
    rest = probabilities.scatter(1, top_ids, 0.0)
    records = np.zeros(len(logits), dtype=layout.record)
    records["top_ids"] = top_ids.cpu().numpy()
    records["top_log_probabilities"] = _narrowed(top_log)
    records["tail_log_probability"] = _narrowed(rest.sum(-1).log())
    records["entropy"] = _narrowed(-(probabilities * log_probabilities.clamp(min=_LEAST_LOG)).sum(-1))
    if layout.tail_samples and len(logits):
        # Where nothing is left, anything may be drawn: it stands for a share of 0.
        drawable = torch.where(rest.sum(-1, keepdim=True) > 0, rest, torch.ones_like(rest))
        drawn = torch.multinomial(drawable, layout.tail_samples, replacement=True, generator=generator)
        records["tail_ids"] = drawn.cpu().numpy()
    return records


def read_predictions(records: NDArray[np.void], device: torch.device) -> CachedPredictions:
    """Records of some places, ready for the loss."""

    def tensor(name: str, dtype: Any) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(records[name], dtype=dtype)).to(device)

    return CachedPredictions(
        top_ids=tensor("top_ids", np.int64),
        top_log_probabilities=tensor("top_log_probabilities", np.float32),
        tail_ids=tensor("tail_ids", np.int64),
        tail_log_probability=tensor("tail_log_probability", np.float32),
        entropy=tensor("entropy", np.float32),
    )


def cached_forward_kl(student: torch.Tensor, kept: CachedPredictions, layout: CacheLayout) -> LossSum:
    """T^2 KL(teacher || student) from a cache: exact for the kept tokens, and for the rest as it is kept.

    With samples its expectation is `forward_kl`; with a bucket it is the divergence of the distributions over
    the kept tokens and one more for all others, which is never larger.

    Args:
        student: logits [m, columns]; columns behind the vocabulary are cut.
        kept: what is kept of the teacher at the same places.
        layout: how.
    """
    scaled = widened(student[:, : layout.vocabulary_size]) / layout.temperature
    log_sum = scaled.logsumexp(-1)
    top_log = scaled.gather(1, kept.top_ids) - log_sum[:, None]
    top_probabilities = kept.top_log_probabilities.exp()
    tail_probability = kept.tail_log_probability.exp()
    if layout.tail_samples:
        tail_log = scaled.gather(1, kept.tail_ids).mean(-1) - log_sum
        values = -kept.entropy - (top_probabilities * top_log).sum(-1) - tail_probability * tail_log
    else:
        others = scaled.scatter(1, kept.top_ids, -torch.inf)
        tail_log = (others.logsumexp(-1) - log_sum).clamp(min=_LEAST_LOG)
        values = (top_probabilities * (kept.top_log_probabilities - top_log)).sum(-1)
        values = values + tail_probability * (kept.tail_log_probability - tail_log)
    return LossSum(layout.temperature**2 * values.sum(), len(student))


def _narrowed(values: torch.Tensor) -> NDArray[np.float16]:
    """Values in fp16, without infinities."""
    return values.clamp(min=_LEAST_LOG).cpu().numpy().astype(np.float16)
