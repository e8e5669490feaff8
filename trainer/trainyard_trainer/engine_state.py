"""The state of a DeepSpeed engine as named pieces of parameters, whatever the ZeRO stage and the world size.

ZeRO divides the fp32 master weights and the optimizer state of a parameter among ranks by element ranges. A
Piece names such a range by the parameter's own name and its offset there, so that a checkpoint written by one
division can be read by any other.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from trainyard_trainer.engine import MODEL_PREFIX, Engine

WEIGHT = "weight"
"""Kind of the pieces that hold fp32 weights; other kinds are names of optimizer state, such as exp_avg."""


@dataclass(frozen=True)
class Piece:
    """An element range of one parameter that this rank holds.

    Attributes:
        parameter: its name in the Transformers model.
        start: first element, in the flattened parameter.
        numel: number of elements.
        flat: the tensor that the optimizer updates, of which this range is a part.
        offset: first element in `flat`.
    """

    parameter: str
    start: int
    numel: int
    flat: torch.Tensor
    offset: int

    def range_of(self, tensor: torch.Tensor) -> torch.Tensor:
        """The piece's range of a tensor of the shape of `flat`: a view, [numel]."""
        return tensor.detach().view(-1).narrow(0, self.offset, self.numel)

    @property
    def weight(self) -> torch.Tensor:
        """The fp32 weights of the range: a view, [numel]."""
        return self.range_of(self.flat)


def parameter_shapes(engine: Engine) -> dict[str, tuple[int, ...]]:
    """Shape of every parameter that trains by its name in the Transformers model, tied ones once."""
    return {
        name: tuple(getattr(parameter, "ds_shape", parameter.shape))
        for name, parameter in _parameters(engine)
    }


def frozen_parameters(engine: Engine) -> tuple[str, ...]:
    """Names of the parameters that keep their values, ascending."""
    module = engine.deepspeed_engine.module
    return tuple(
        sorted(
            name.removeprefix(MODEL_PREFIX)
            for name, parameter in module.named_parameters()
            if not parameter.requires_grad
        )
    )


def pieces(engine: Engine) -> Iterator[Piece]:
    """The pieces that this rank holds; at stage 0 it holds all of every parameter."""
    if engine.zero_stage == 0:
        return _whole_pieces(engine)
    if engine.zero_stage == 3:
        return _stage_3_pieces(engine)
    return _stage_1_and_2_pieces(engine)


def owned_pieces(engine: Engine) -> Iterator[Piece]:
    """The pieces that this rank has to save: its share of the parameters at stage 0, else all it holds."""
    held = pieces(engine)
    if engine.zero_stage > 0:
        return held
    ranks = engine.ranks
    return (piece for index, piece in enumerate(held) if index % ranks.world_size == ranks.rank)


def _parameters(engine: Engine) -> Iterator[tuple[str, Any]]:
    """Those that train: DeepSpeed keeps neither master weights nor optimizer state of others."""
    for name, parameter in engine.deepspeed_engine.module.named_parameters():
        if parameter.requires_grad:
            yield name.removeprefix(MODEL_PREFIX), parameter


def _whole_pieces(engine: Engine) -> Iterator[Piece]:
    for name, parameter in _parameters(engine):
        yield Piece(name, 0, parameter.numel(), parameter, 0)


def _stage_1_and_2_pieces(engine: Engine) -> Iterator[Piece]:
    zero = engine.deepspeed_engine.optimizer
    flats = getattr(zero, "single_partition_of_fp32_groups", None)
    if flats is None:
        flats = zero.fp32_groups_flat_partition
    for name, parameter in _parameters(engine):
        mapping = parameter._hp_mapping  # noqa: SLF001 - DeepSpeed's link from a parameter to its master weights
        if mapping is not None:
            yield Piece(
                parameter=name,
                start=mapping.lp_fragment_address.start,
                numel=mapping.lp_fragment_address.numel,
                flat=flats[mapping.param_group_index],
                offset=mapping.hp_fragment_address.start,
            )


def _stage_3_pieces(engine: Engine) -> Iterator[Piece]:
    zero = engine.deepspeed_engine.optimizer
    for name, parameter in _parameters(engine):
        group, offset, partition_numel = zero.grad_position[zero.get_param_id(parameter)]
        start = engine.ranks.rank * partition_numel
        numel = min(partition_numel, parameter.ds_numel - start)
        if numel > 0:
            yield Piece(name, start, numel, zero.fp32_partitioned_groups_flat[group], offset)


def optimizer_tensors(engine: Engine, piece: Piece) -> Iterator[tuple[str, bool, torch.Tensor]]:
    """The optimizer's state of a piece: (name, whether it is element-wise, tensor).

    An element-wise tensor is a view of the piece's range; others (a step count, Adafactor's factors) are
    whole.
    """
    for key, value in engine.optimizer.state.get(piece.flat, {}).items():
        tensor = value if torch.is_tensor(value) else torch.tensor(value)
        elementwise = tensor.shape == piece.flat.shape
        yield key, elementwise, piece.range_of(tensor) if elementwise else tensor


def set_optimizer_tensor(
    engine: Engine, piece: Piece, key: str, values: torch.Tensor, *, elementwise: bool
) -> None:
    """Put back what `optimizer_tensors` gave, creating what the optimizer makes at its first step."""
    state = engine.optimizer.state[piece.flat]
    if not elementwise:
        # Beside the parameters, where fused AdamW keeps its step count and Adafactor its factors.
        state[key] = values.to(piece.flat.device, copy=True)
        return
    if key not in state:
        state[key] = torch.zeros_like(piece.flat, requires_grad=False)
    piece.range_of(state[key]).copy_(values)


def group_steps(engine: Engine) -> list[int | None]:
    """Step counts that an optimizer keeps by parameter group instead of by parameter."""
    return [group.get("step") for group in engine.optimizer.param_groups]


def set_group_steps(engine: Engine, steps: list[int | None]) -> None:
    """Put back what `group_steps` gave."""
    for group, step in zip(engine.optimizer.param_groups, steps, strict=True):
        if step is not None:
            group["step"] = step


def loss_scale(engine: Engine) -> float | None:
    """The dynamic loss scale under FP16."""
    scaler = getattr(engine.deepspeed_engine.optimizer, "loss_scaler", None)
    return None if scaler is None else float(scaler.cur_scale)


def set_loss_scale(engine: Engine, scale: float | None) -> None:
    """Put back what `loss_scale` gave; an engine that scales nothing, as at stage 0, has no use for it."""
    scaler = getattr(engine.deepspeed_engine.optimizer, "loss_scaler", None)
    if scale is not None and scaler is not None:
        scaler.cur_scale = scale
