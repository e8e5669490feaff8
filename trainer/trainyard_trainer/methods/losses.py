"""Loss terms. Each returns a sum and a count; one place, the training loop, divides by the global count."""

from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own convention
from torch.utils.checkpoint import checkpoint

LOGITS_CHUNK_POSITIONS = 8192
"""Positions whose logits are held at once; with a vocabulary of 50,000 in fp32 that is 1.6 GB."""


def cross_entropy_sum(
    hidden: torch.Tensor,
    labels: torch.Tensor,
    head: Callable[[torch.Tensor], torch.Tensor],
    chunk_positions: int = LOGITS_CHUNK_POSITIONS,
) -> torch.Tensor:
    """Sum over positions of -log softmax(head(hidden))[label], in nats and fp32.

    The vocabulary projection is computed in chunks and again in the backward pass when there are more
    positions than one chunk, so that the logits of the whole batch never exist at once.

    Args:
        hidden: [m, hidden size], the states at the positions to predict.
        labels: int64 [m].
        head: projection to the vocabulary, [k, hidden size] -> [k, vocabulary].
        chunk_positions: positions per chunk.

    Returns:
        A scalar; 0 with a gradient when m is 0.
    """

    def chunk_sum(states: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(head(states).float(), targets, reduction="sum")

    if len(labels) <= chunk_positions:
        return chunk_sum(hidden, labels)
    total = hidden.new_zeros((), dtype=torch.float32)
    chunks = zip(torch.split(hidden, chunk_positions), torch.split(labels, chunk_positions), strict=True)
    for states, targets in chunks:
        total = total + checkpoint(chunk_sum, states, targets, use_reentrant=False)
    return total
