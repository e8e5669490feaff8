"""A frozen model whose layers are divided among ranks: each keeps a part and sees the whole while it is used.

ZeRO-3 for a model that no engine holds. Only the matrices of the layers are divided: the body computes once
for each batch on every rank, so that all of them gather equally often, while embeddings and head may be asked
for other numbers of places.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed
from torch import nn
from transformers import PreTrainedModel

from trainyard_trainer.distributed import Ranks
from trainyard_trainer.models.layers import parameter_depths

SMALLEST_DIVIDED = 4096
"""Elements below which a parameter stays whole: to gather a bias takes longer than its memory is worth."""

Gather = Callable[[torch.Tensor], torch.Tensor]
"""From this rank's part, uint8 [n], to those of all ranks one after the other, [world size x n]."""


def gather_from_ranks(part: torch.Tensor) -> torch.Tensor:
    """The parts of all ranks; a collective."""
    whole = part.new_empty(len(part) * torch.distributed.get_world_size())
    torch.distributed.all_gather_into_tensor(whole, part)
    return whole


@dataclass(frozen=True)
class DividedParameter:
    """A parameter of which this rank keeps a part.

    Attributes:
        parameter: empty while nobody computes with it.
        part: on the device, the last one padded.
        shape: of the whole.
        gather: see `Gather`.
    """

    parameter: nn.Parameter
    part: torch.Tensor
    shape: torch.Size
    gather: Gather

    def show(self) -> None:
        """Put the whole in place; a collective."""
        # As bytes: not every backend gathers every number format.
        whole = self.gather(self.part.view(torch.uint8)).view(self.part.dtype)
        self.parameter.data = whole[: self.shape.numel()].view(self.shape)

    def hide(self) -> None:
        """Let the whole go."""
        self.parameter.data = self.part.new_empty(0)


def divide_layers(model: PreTrainedModel, ranks: Ranks, gather: Gather = gather_from_ranks) -> None:
    """Leave each rank its part of the layers' matrices, on its device; all else stays as it is.

    Args:
        model: frozen, equal on all ranks.
        ranks: this process among the others.
        gather: how the parts come together.
    """
    depths = parameter_depths(model)
    divided: dict[int, DividedParameter] = {}
    for name, parameter in model.named_parameters():
        if 0 < depths.by_name[name] <= depths.num_layers and parameter.numel() >= SMALLEST_DIVIDED:
            part = part_of(parameter.data, ranks.rank, ranks.world_size).to(ranks.device)
            divided[id(parameter)] = DividedParameter(parameter, part, parameter.shape, gather)
    for module in model.modules():
        own = [divided[id(each)] for each in module.parameters(recurse=False) if id(each) in divided]
        if own:
            module.register_forward_pre_hook(_showing(own))
            module.register_forward_hook(_hiding(own))
    for each in divided.values():
        each.hide()


def part_of(whole: torch.Tensor, rank: int, world_size: int) -> torch.Tensor:
    """A rank's part of a tensor, flat; parts are equally long, with zeros at the end of the last."""
    flat = whole.reshape(-1)
    length = -(-len(flat) // world_size)
    part = flat.new_zeros(length)
    own = flat[rank * length : (rank + 1) * length]
    part[: len(own)] = own
    return part


def _showing(parameters: list[DividedParameter]) -> Callable[..., None]:
    def show(*_: object) -> None:
        for each in parameters:
            each.show()

    return show


def _hiding(parameters: list[DividedParameter]) -> Callable[..., None]:
    def hide(*_: object) -> None:
        for each in parameters:
            each.hide()

    return hide
