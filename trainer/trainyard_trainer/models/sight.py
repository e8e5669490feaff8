"""Which keys each query of a batch sees: its own document, no padding, what lies before it, what is near."""

from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Sight:
    """What the queries of a batch see in the layers of a model.

    Attributes:
        groups: int64 [rows, length], equal where tokens may see each other, -1 at padding.
        causal: whether a token only sees those before it and itself.
        windows: for each layer how far it looks to each side; None is the whole row.
    """

    groups: torch.Tensor
    causal: bool
    windows: tuple[int | None, ...]

    def of_layer(self, layer: int) -> torch.Tensor:
        """Which keys each query sees, bool [rows, length, length]; padding sees none.

        Args:
            layer: counted from 1 at the bottom.
        """
        same = same_group(self.groups, causal=self.causal, window=self.windows[layer - 1])
        return same & (self.groups >= 0)[:, :, None]


def same_group(groups: torch.Tensor, *, causal: bool, window: int | None = None) -> torch.Tensor:
    """Which places lie in one group, as queries and keys, bool [rows, length, length].

    Args:
        groups: int64 [rows, length].
        causal: whether a key must not lie behind its query.
        window: how far apart they may lie; any distance when None.
    """
    same = groups[:, :, None] == groups[:, None, :]
    places = torch.arange(groups.shape[1], device=groups.device)
    distances = places[:, None] - places[None, :]
    if causal:
        same &= distances >= 0
    return same if window is None else same & (distances.abs() <= window)


def attention_windows(config: Any) -> tuple[int | None, ...]:
    """For each layer of a Transformers configuration how far it looks to each side; None is the whole row."""
    kinds = getattr(config, "layer_types", None) or ("full_attention",) * int(config.num_hidden_layers)
    return tuple(int(config.sliding_window) if kind == "sliding_attention" else None for kind in kinds)
