"""The terms of a student that learns from a cache, from one projection to the vocabulary."""

import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own convention

from trainyard_trainer.distillation.cache_entries import CachedPredictions, cached_forward_kl
from trainyard_trainer.distillation.cache_layout import CacheLayout
from trainyard_trainer.distillation.sampled_sums import UNLABELLED, sampled_sums
from trainyard_trainer.methods.distillation_losses import Head
from trainyard_trainer.methods.losses import LOGITS_CHUNK_POSITIONS, sum_over_places


def cached_sums(  # noqa: PLR0913 - states, what they are compared with, and how
    hidden: torch.Tensor,
    labels: torch.Tensor | None,
    kept: CachedPredictions,
    layout: CacheLayout,
    head: Head,
    *,
    most_places: int | None = None,
    chunk_positions: int = LOGITS_CHUNK_POSITIONS,
) -> torch.Tensor:
    """Sums of the labels' cross-entropy, where it is asked for, and of the divergence from the cache, fp32.

    The logits of a place are computed once for both.

    Args:
        hidden: [m, hidden size], the student's states at the places of the cache.
        labels: int64 [m], UNLABELLED where there is none; None where they are no term of the loss.
        kept: what is kept of the teacher at the same places.
        layout: how.
        head: the student's projection to its vocabulary.
        most_places: see `losses.sum_over_places`.
        chunk_positions: places whose logits exist at once.
    """

    def chunk_sums(states: torch.Tensor, *columns: torch.Tensor) -> torch.Tensor:
        logits = head(states).float()
        of_teacher, targets = CachedPredictions(*columns[:num_kept]), columns[num_kept:]
        if targets and layout.tail_samples:
            return sampled_sums(logits, targets[0], of_teacher, layout)
        divergence = cached_forward_kl(logits, of_teacher, layout).total
        of_labels = [
            F.cross_entropy(logits, each, ignore_index=UNLABELLED, reduction="sum") for each in targets
        ]
        return torch.stack([*of_labels, divergence])

    columns = kept.tensors()
    num_kept = len(columns)
    tensors = (hidden, *columns) if labels is None else (hidden, *columns, labels)
    return sum_over_places(chunk_sums, tensors, most_places=most_places, chunk_positions=chunk_positions)


def labels_at(places: torch.Tensor, labelled: torch.Tensor, labels: torch.Tensor, size: int) -> torch.Tensor:
    """The label of each place, UNLABELLED where there is none, int64 [m].

    Args:
        places: int64 [m].
        labelled: int64 [n], the places that have a label, among the others.
        labels: int64 [n].
        size: number above all places.
    """
    by_place = torch.full((size,), UNLABELLED, dtype=torch.int64, device=labels.device)
    return by_place.scatter(0, labelled, labels).index_select(0, places)
