"""Text that a decoder writes, row by row from given draws, so that it depends on weights and draws alone."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import DynamicCache

NextLogits = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, Any], torch.Tensor]
"""Token ids and positions [rows, new], attention mask [rows, all] and a cache of what was before, to the
logits of the next token [rows, vocabulary]."""


@dataclass(frozen=True, slots=True)
class WritingRules:
    """How text is written.

    Attributes:
        temperature: divisor of the logits from which tokens are drawn.
        end_token_id: ends a row.
        vocabulary_size: tokens that may be drawn; columns behind them are padding.
        longest: positions of a row, prompt included.
        stops_early: whether to stop when every row has ended; else all passes are made, as ranks that share
            their weights need.
    """

    temperature: float
    end_token_id: int
    vocabulary_size: int
    longest: int
    stops_early: bool


def write(
    next_logits: NextLogits,
    prompts: Sequence[NDArray[np.int64]],
    draws: NDArray[np.float64],
    rules: WritingRules,
    device: torch.device,
) -> list[list[int]]:
    """The tokens that rows go on with, those behind their end included.

    Args:
        next_logits: the model.
        prompts: int64 [p] each, at least one token.
        draws: float64 [rows, passes] of [0, 1), one for each token.
        rules: how to write.
        device: where the model computes.
    """
    ids, mask = _padded_left(prompts, device)
    lengths = mask.sum(-1, keepdim=True)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    thresholds = torch.from_numpy(draws).to(device)
    has_ended = torch.zeros(len(prompts), dtype=torch.bool, device=device)
    cache, written = DynamicCache(), list[torch.Tensor]()
    for number in range(draws.shape[1]):
        logits = next_logits(ids, positions, mask, cache)[:, : rules.vocabulary_size]
        tokens = drawn_tokens(logits, rules.temperature, thresholds[:, number])
        written.append(tokens)
        has_ended |= tokens == rules.end_token_id
        if rules.stops_early and bool(has_ended.all()):
            break
        ids = tokens[:, None]
        # Rows that have ended go on without a meaning, and must not leave the positions of the model.
        positions = (lengths + number).clamp(max=rules.longest - 1)
        mask = torch.cat([mask, torch.ones_like(ids)], dim=1)
    rows: list[list[int]] = torch.stack(written, dim=1).tolist() if written else [[] for _ in prompts]
    return rows


def drawn_tokens(logits: torch.Tensor, temperature: float, draws: torch.Tensor) -> torch.Tensor:
    """The token of each row in whose share of the probabilities the draw falls, int64 [rows].

    Args:
        logits: [rows, vocabulary].
        temperature: their divisor.
        draws: float64 [rows] of [0, 1).
    """
    shares = (logits.double() / temperature).softmax(-1).cumsum(-1)
    tokens = torch.searchsorted(shares, (draws * shares[:, -1])[:, None], right=True)[:, 0]
    return tokens.clamp(max=logits.shape[-1] - 1)


def _padded_left(
    prompts: Sequence[NDArray[np.int64]], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Prompts that end at the same place, and where they have tokens, int64 [rows, longest] each."""
    width = max(len(prompt) for prompt in prompts)
    ids = np.zeros((len(prompts), width), dtype=np.int64)
    mask = np.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = prompt
        mask[row, width - len(prompt) :] = 1
    return torch.from_numpy(ids).to(device), torch.from_numpy(mask).to(device)
