"""Loss terms. Each returns a sum and a count; one place, the training loop, divides by the global count."""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own convention
from torch.utils.checkpoint import checkpoint

LOGITS_CHUNK_POSITIONS = 8192
"""Positions whose logits are held at once; with a vocabulary of 50,000 in fp32 that is 1.6 GB."""


def sum_over_places(
    sums: Callable[..., torch.Tensor],
    tensors: Sequence[torch.Tensor],
    *,
    most_places: int | None = None,
    chunk_positions: int = LOGITS_CHUNK_POSITIONS,
) -> torch.Tensor:
    """What a function gives for all places together, from chunks of them.

    Of more than one chunk the function is computed again in the backward pass, so that the logits of the
    whole batch never exist at once.

    Args:
        sums: sums over the places of its arguments, the chunks of `tensors`; a scalar or [terms] in fp32.
        tensors: [m, ...] each, by place.
        most_places: the most places that a micro-batch can have. It is given where every rank has to call
            the head equally often, however many places it has itself: under ZeRO stage 3 each call gathers
            the head's weights from all ranks. None: as many chunks as the places need.
        chunk_positions: places per chunk.
    """
    num_places = len(tensors[0]) if most_places is None else most_places
    num_chunks = max(1, math.ceil(num_places / chunk_positions))
    if num_chunks == 1:
        return sums(*tensors)
    chunks = zip(*(torch.tensor_split(tensor, num_chunks) for tensor in tensors), strict=True)
    return torch.stack([checkpoint(sums, *chunk, use_reentrant=False) for chunk in chunks]).sum(0)


def cross_entropy_sum(
    hidden: torch.Tensor,
    labels: torch.Tensor,
    head: Callable[[torch.Tensor], torch.Tensor],
    *,
    most_places: int | None = None,
    chunk_positions: int = LOGITS_CHUNK_POSITIONS,
) -> torch.Tensor:
    """Sum over positions of -log softmax(head(hidden))[label], in nats and fp32.

    Args:
        hidden: [m, hidden size], the states at the positions to predict.
        labels: int64 [m].
        head: projection to the vocabulary, [k, hidden size] -> [k, vocabulary].
        most_places: see `sum_over_places`.
        chunk_positions: positions whose logits exist at once.

    Returns:
        A scalar; 0 with a gradient when m is 0.
    """

    def chunk_sum(states: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(head(states).float(), targets, reduction="sum")

    return sum_over_places(
        chunk_sum, (hidden, labels), most_places=most_places, chunk_positions=chunk_positions
    )
