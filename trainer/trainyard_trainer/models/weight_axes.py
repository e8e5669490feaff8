"""What each axis of a weight stands for, in the four families, with any of the heads that Trainyard trains.

A narrower model is cut from a wide one axis by axis, and sizes alone do not tell which is which: in most
models there are as many features between layers as in all attention heads together.
"""

import re
from dataclasses import dataclass
from typing import Literal

Kind = Literal["free", "hidden", "gain", "heads", "key_value", "inner"]
"""free: tokens, positions, classes. hidden: features between layers; gain: their factors in a norm. heads and
key_value: features of all query heads, and of all key-value heads. inner: features inside a feed-forward."""


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis of a weight."""

    kind: Kind
    parts: int = 1
    """Matrices that are stored one behind the other along it, such as queries, keys and values."""


@dataclass(frozen=True, slots=True)
class _Module:
    """A module whose name ends so: what goes in and what comes out."""

    ending: str
    output: Kind
    input: Kind | None = None
    parts: int = 1
    is_transposed: bool = False


_FREE_HEADS = r"(decoder|classifier|score|lm_head)"

_MODULES: dict[str, tuple[_Module, ...]] = {
    "bert": (
        _Module(r"self\.(query|key|value)", "heads", "hidden"),
        _Module(r"attention\.output\.dense", "hidden", "heads"),
        _Module(r"intermediate\.dense", "inner", "hidden"),
        _Module(r"layer\.\d+\.output\.dense", "hidden", "inner"),
        _Module(r"(pooler|transform)\.dense", "hidden", "hidden"),
        _Module(r"_embeddings", "hidden", "free", is_transposed=True),
        _Module(r"LayerNorm", "gain"),
        _Module(r"cls\.predictions", "free"),
        _Module(_FREE_HEADS, "free", "hidden"),
    ),
    "modernbert": (
        _Module(r"attn\.Wqkv", "heads", "hidden", parts=3),
        _Module(r"attn\.Wo", "hidden", "heads"),
        _Module(r"mlp\.Wi", "inner", "hidden", parts=2),
        _Module(r"mlp\.Wo", "hidden", "inner"),
        _Module(r"head\.dense", "hidden", "hidden"),
        _Module(r"tok_embeddings", "hidden", "free", is_transposed=True),
        _Module(r"norm", "gain"),
        _Module(_FREE_HEADS, "free", "hidden"),
    ),
    "llama": (
        _Module(r"q_proj", "heads", "hidden"),
        _Module(r"[kv]_proj", "key_value", "hidden"),
        _Module(r"o_proj", "hidden", "heads"),
        _Module(r"(gate|up)_proj", "inner", "hidden"),
        _Module(r"down_proj", "hidden", "inner"),
        _Module(r"embed_tokens", "hidden", "free", is_transposed=True),
        _Module(r"norm", "gain"),
        _Module(_FREE_HEADS, "free", "hidden"),
    ),
    "gpt2": (
        _Module(r"attn\.c_attn", "heads", "hidden", parts=3, is_transposed=True),
        _Module(r"attn\.c_proj", "hidden", "heads", is_transposed=True),
        _Module(r"mlp\.c_fc", "inner", "hidden", is_transposed=True),
        _Module(r"mlp\.c_proj", "hidden", "inner", is_transposed=True),
        _Module(r"w[tp]e", "hidden", "free", is_transposed=True),
        _Module(r"ln_\w+", "gain"),
        _Module(_FREE_HEADS, "free", "hidden"),
    ),
}


def axes_of(model_type: str, name: str) -> tuple[Axis, ...]:
    """The axes of a weight or bias.

    Args:
        model_type: family of the model.
        name: name of the parameter, such as model.layers.0.mlp.up_proj.weight.

    Raises:
        KeyError: the family, or the parameter in it, is not known.
    """
    module_name, _, parameter = name.rpartition(".")
    for module in _MODULES[model_type]:
        if re.search(rf"{module.ending}$", module_name):
            return _axes(module, is_bias=parameter == "bias")
    raise KeyError(name)


def _axes(module: _Module, *, is_bias: bool) -> tuple[Axis, ...]:
    """The axes of a module's weight or bias."""
    if is_bias:
        # The bias of a norm is added to the features, as that of a projection is.
        return (Axis("hidden" if module.output == "gain" else module.output, module.parts),)
    if module.input is None:
        return (Axis(module.output),)
    output, source = Axis(module.output, module.parts), Axis(module.input)
    return (source, output) if module.is_transposed else (output, source)
