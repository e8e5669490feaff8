"""The order of a Transformers model's parameters from its input to its output."""

from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedModel

_ADAPTER_MARKS = (".lora_A.", ".lora_B.", ".lora_magnitude_vector.")

EMBEDDINGS = 0
"""Depth of what lies before the first layer."""


@dataclass(frozen=True)
class Depths:
    """How far from the input each parameter lies.

    Attributes:
        by_name: 0 for the embeddings, 1 .. num_layers for the layers from the bottom, num_layers + 1 for what
            follows them (a last norm, a pooler, the head); tied parameters count where they are first used.
        num_layers: layers of the body.
    """

    by_name: dict[str, int]
    num_layers: int

    @property
    def top(self) -> int:
        """Depth of the head."""
        return self.num_layers + 1


def parameter_depths(model: PreTrainedModel) -> Depths:
    """The depth of every parameter; children of a body stand in the order in which they compute."""
    body = model.base_model
    container, layers = _layers(body)
    top = len(layers) + 1
    before = True
    depth_of_child: dict[str, int] = {}
    for name, _ in body.named_children():
        if name == container.partition(".")[0]:
            before = False
        depth_of_child[name] = EMBEDDINGS if before else top
    prefix = "" if body is model else f"{model.base_model_prefix}."
    by_name = {}
    for name, _ in model.named_parameters():
        inner = name.removeprefix(prefix)
        if not name.startswith(prefix):
            by_name[name] = top
        elif inner.startswith(f"{container}."):
            number = inner.removeprefix(f"{container}.").partition(".")[0]
            by_name[name] = int(number) + 1
        else:
            by_name[name] = depth_of_child.get(inner.partition(".")[0], top)
    return Depths(by_name, len(layers))


def _layers(body: nn.Module) -> tuple[str, nn.ModuleList]:
    """Name and list of a body's layers: its first list of modules, in all families that Trainyard trains."""
    return next((name, module) for name, module in body.named_modules() if isinstance(module, nn.ModuleList))


def body_layer_prefixes(model: PreTrainedModel) -> tuple[str, ...]:
    """Beginnings of the names of everything in the layers of the body."""
    container, layers = _layers(model.base_model)
    prefix = "" if model.base_model is model else f"{model.base_model_prefix}."
    return tuple(f"{prefix}{container}.{number}." for number in range(len(layers)))


def is_adapter_parameter(name: str) -> bool:
    """Whether a parameter was added by an adapter."""
    return any(mark in f".{name}" for mark in _ADAPTER_MARKS)
