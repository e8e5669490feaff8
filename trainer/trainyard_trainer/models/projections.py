"""Queries, keys and values inside chosen layers, for losses on attention and relations between tokens.

Attention kernels never write down their scores, so the projections are taken where they are made, and the
loss computes what it needs. In models with rotary positions they are those before the rotation.
"""

from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from trainyard_trainer.models.layers import body_layer_prefixes
from trainyard_trainer.models.narrowing import Sizes, sizes_of

_SEPARATE = {
    "bert": ("attention.self.query", "attention.self.key", "attention.self.value"),
    "llama": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
}
_FUSED = {"modernbert": "attn.Wqkv", "gpt2": "attn.c_attn"}
"""Modules that make all three at once, one behind the other."""


@dataclass(slots=True)
class Projections:
    """The projections of one layer, [rows, length, query heads x head size] each.

    Key-value heads that several query heads share are repeated for each of them.
    """

    query: torch.Tensor | None = None
    key: torch.Tensor | None = None
    value: torch.Tensor | None = None


@contextmanager
def captured_projections(model: PreTrainedModel, layers: Collection[int]) -> Iterator[dict[int, Projections]]:
    """While it is open, each forward pass leaves the projections of some layers, with their gradients' graph.

    Args:
        model: of the four families.
        layers: counted from 1 at the bottom.

    Raises:
        KeyError: the family is another one.
        IndexError: there is no such layer.
    """
    prefixes, sizes = body_layer_prefixes(model), sizes_of(model.config)
    found = {layer: Projections() for layer in layers}
    with ExitStack() as stack:
        for layer, projections in found.items():
            for name, hook in _hooks(model.config.model_type, projections, sizes):
                module = model.get_submodule(f"{prefixes[layer - 1]}{name}")
                stack.callback(module.register_forward_hook(hook).remove)
        yield found


Hook = Callable[[nn.Module, Any, torch.Tensor], None]


def _hooks(model_type: str, projections: Projections, sizes: Sizes) -> Iterator[tuple[str, Hook]]:
    """The modules of a layer to listen to, each with what to do with its output."""

    def keep(kind: str) -> Hook:
        def hook(_module: nn.Module, _inputs: Any, output: torch.Tensor) -> None:
            setattr(projections, kind, _for_each_query_head(output, sizes))

        return hook

    def keep_all(_module: nn.Module, _inputs: Any, output: torch.Tensor) -> None:
        projections.query, projections.key, projections.value = output.chunk(3, dim=-1)

    if model_type in _FUSED:
        yield _FUSED[model_type], keep_all
        return
    for name, kind in zip(_SEPARATE[model_type], ("query", "key", "value"), strict=True):
        yield name, keep(kind)


def _for_each_query_head(values: torch.Tensor, sizes: Sizes) -> torch.Tensor:
    """Projections with the heads that are shared repeated; others as they are."""
    rows, length, features = values.shape
    repeats = sizes.num_heads * sizes.head // features
    if repeats == 1:
        return values
    heads = values.reshape(rows, length, -1, sizes.head)
    return torch.repeat_interleave(heads, repeats, dim=2).reshape(rows, length, -1)
