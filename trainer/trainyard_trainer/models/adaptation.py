"""Which weights of a model train, and how fast: decided before the engine is built, alike on every rank."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

from transformers import PreTrainedModel

from trainyard_api.errors import ConfigurationError
from trainyard_api.spec import Optimizer
from trainyard_api.spec_objectives import Adaptation
from trainyard_trainer.models.layers import Depths, is_adapter_parameter, parameter_depths
from trainyard_trainer.optimization.parameter_groups import Pace, check_rules, settings_of

if TYPE_CHECKING:
    from peft import LoraConfig

_WHERE = "spec.fineTuning.adaptation"


@dataclass(frozen=True)
class Adapted:
    """What was decided of a model's parameters.

    Attributes:
        paces: how fast each parameter trains, by name.
        frozen: names of those that keep their values.
        adapter: PEFT's configuration of the adapter that was put in.
    """

    paces: dict[str, Pace]
    frozen: frozenset[str]
    adapter: "LoraConfig | None" = None


def adapt(  # noqa: PLR0913 - the facts that the model and the spec know apart
    model: PreTrainedModel,
    adaptation: Adaptation,
    optimizer: Optimizer,
    *,
    new_parameters: Collection[str] = (),
    has_task_head: bool = False,
    seed: int = 0,
    base: str = "",
) -> Adapted:
    """Put in the adapter of a run, and let only those parameters need a gradient that train.

    Args:
        model: with its first weights.
        adaptation: which weights change.
        optimizer: its rules may freeze more, or set the pace.
        new_parameters: names of those that the stored model lacks; they train whatever else is frozen.
        has_task_head: whether what follows the body is a task's own and trains beside an adapter.
        seed: decides the adapter's first weights.
        base: where the model to start from lies.

    Raises:
        ConfigurationError: there are fewer layers than are to be frozen, a pattern fits nothing, or nothing
            trains.
    """
    config = None
    if adaptation.adapter is not None:
        # PEFT takes a second to import, and only adapters need it.
        from trainyard_trainer.models.adapters import adapter_config, add_adapter  # noqa: PLC0415

        config = adapter_config(model, adaptation.adapter, base)
        add_adapter(model, config, seed)
    depths = parameter_depths(model)
    _check_layers(adaptation, depths)
    check_rules(depths.by_name, optimizer.parameter_groups)
    paces = _paces(adaptation, depths)
    prefix = f"{model.base_model_prefix}."
    frozen = set()
    for name, parameter in model.named_parameters():
        is_new = name in new_parameters or is_adapter_parameter(name)
        is_head = has_task_head and not name.startswith(prefix)
        keeps = not (is_new or is_head) and (
            config is not None or _is_below(depths.by_name[name], adaptation.frozen_layers)
        )
        settings = settings_of(name, is_vector=parameter.ndim <= 1, optimizer=optimizer, pace=paces[name])
        # Set in both cases, since PEFT freezes everything but its own.
        parameter.requires_grad_(settings is not None and not keeps)
        if not parameter.requires_grad:
            frozen.add(name)
    if len(frozen) == len(depths.by_name):
        raise ConfigurationError(
            _WHERE,
            "every parameter of the model is frozen, so nothing would be trained",
            "Lower frozenLayers, or change optimizer.parameterGroups",
        )
    return Adapted(paces, frozenset(frozen), config)


def _paces(adaptation: Adaptation, depths: Depths) -> dict[str, Pace]:
    """How fast each parameter trains: slower and later the nearer it lies to the input."""
    return {
        name: Pace(
            factor=adaptation.layer_learning_rate_decay ** (depths.top - depth),
            first_step=(depths.top - depth) * (adaptation.unfreeze_every_steps or 0),
        )
        for name, depth in depths.by_name.items()
    }


def _is_below(depth: int, frozen_layers: int) -> bool:
    """Whether a parameter lies in the frozen layers or, when there are any, before them."""
    return frozen_layers > 0 and depth <= frozen_layers


def _check_layers(adaptation: Adaptation, depths: Depths) -> None:
    if adaptation.frozen_layers > depths.num_layers:
        raise ConfigurationError(
            f"{_WHERE}.frozenLayers",
            f"it is {adaptation.frozen_layers}, and the model has {depths.num_layers} layers",
            f"Set it to at most {depths.num_layers}, which freezes the whole body",
        )
