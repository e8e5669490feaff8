"""LoRA and DoRA by PEFT: put into a model, merged into its weights, stored alone."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import cast

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from trainyard_api.errors import ConfigurationError
from trainyard_api.spec_objectives import Adapter
from trainyard_trainer.models.layers import body_layer_prefixes, is_adapter_parameter

ADAPTER_WEIGHTS = "adapter_model.safetensors"
"""The file that PEFT reads."""

_NAME = "default"
_STORED_PREFIX = "base_model.model."
_WHERE = "spec.fineTuning.adaptation.adapter.targetModules"


def target_names(model: PreTrainedModel, ends: Iterable[str]) -> list[str]:
    """Names of the linear layers that get an adapter.

    Args:
        model: without an adapter.
        ends: ends of their names, at a dot; all linear layers in the layers of the body when empty.

    Raises:
        ConfigurationError: an end fits no linear layer of the body.
    """
    inside = body_layer_prefixes(model)
    linear = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and name.startswith(inside)
    ]
    wanted = list(ends)
    for index, end in enumerate(wanted):
        if not any(_ends_with(name, end) for name in linear):
            last = sorted({name.rpartition(".")[2] for name in linear})
            raise ConfigurationError(
                f"{_WHERE}[{index}]",
                f"no linear layer of the body ends with {end!r}",
                f"Write ends such as {', '.join(last)}, or leave targetModules out to take all",
            )
    return [name for name in linear if not wanted or any(_ends_with(name, end) for end in wanted)]


def _ends_with(name: str, end: str) -> bool:
    return f".{name}".endswith(f".{end}")


def adapter_config(model: PreTrainedModel, adapter: Adapter, base: str = "") -> LoraConfig:
    """PEFT's configuration of an adapter.

    Args:
        model: the model without the adapter.
        adapter: the spec.
        base: where the model to start from lies, as the configuration tells it.
    """
    names = target_names(model, adapter.target_modules)
    transposed = any(isinstance(model.get_submodule(name), Conv1D) for name in names)
    return LoraConfig(
        base_model_name_or_path=base or None,
        r=adapter.rank,
        lora_alpha=cast("int", adapter.alpha),  # PEFT divides it; its type is narrower than that
        lora_dropout=adapter.dropout,
        use_dora=adapter.method == "DoRA",
        target_modules=names,
        fan_in_fan_out=transposed,
        inference_mode=False,
    )


def add_adapter(model: PreTrainedModel, config: LoraConfig, seed: int) -> None:
    """Put an adapter into a model; what it adds is zero at first, and its weights depend on the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(config, model, _NAME)


def merge_adapter(model: nn.Module) -> None:
    """Add an adapter to the weights of its layers and remove it; the names are the model's own again."""
    _unwrap(model, merge=True)


def remove_adapter(model: nn.Module) -> None:
    """Take an adapter out of a model; its layers keep their own weights."""
    _unwrap(model, merge=False)


def _unwrap(model: nn.Module, *, merge: bool) -> None:
    layers = [(name, module) for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)]
    for name, layer in layers:
        if merge:
            layer.merge(safe_merge=True)
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, layer.get_base_layer())


def borrowed_parameters(model: nn.Module) -> Iterator[tuple[nn.Module, nn.Parameter]]:
    """Modules that read a parameter of another: DoRA measures the columns of the layer that it changes.

    ZeRO-3 brings together only the parameters that it knows a module to read.
    """
    for layer in model.modules():
        if isinstance(layer, LoraLayer):
            for magnitude in layer.lora_magnitude_vector.values():
                for parameter in layer.get_base_layer().parameters():
                    yield magnitude, parameter


def save_adapter(
    folder: Path, config: LoraConfig, weights: Mapping[str, torch.Tensor], body_prefix: str
) -> None:
    """Store an adapter alone, as `PeftModel.from_pretrained` reads it.

    Args:
        folder: a new folder.
        config: the adapter's configuration.
        weights: what was trained, by its name in the model: the adapter, and the parts of the model that
            trained beside it, such as the head of a task.
        body_prefix: `base_model_prefix` of the model.
    """
    folder.mkdir()
    others = sorted(
        {
            name.removeprefix(f"{body_prefix}.").partition(".")[0]
            for name in weights
            if not is_adapter_parameter(name)
        }
    )
    config.modules_to_save = others or None
    config.inference_mode = True
    config.save_pretrained(str(folder))
    tensors = {f"{_STORED_PREFIX}{_stored_name(name)}": tensor for name, tensor in weights.items()}
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / ADAPTER_WEIGHTS)


def load_adapter(folder: Path, model: PreTrainedModel, adapter: Adapter) -> None:
    """Add a stored adapter, and what trained beside it, to the weights of a model.

    Args:
        folder: what `save_adapter` wrote.
        model: the model that the adapter was trained on.
        adapter: the spec it was trained with.

    Raises:
        ConfigurationError: the spec names layers that the model lacks.
        OSError: the folder or its file is missing.
        RuntimeError: a weight has another shape.
        SafetensorError: the file is damaged.
        ValueError: it holds other weights than this adapter of this model has.
    """
    add_adapter(model, adapter_config(model, adapter), seed=0)
    tensors = load_file(folder / ADAPTER_WEIGHTS)
    stored = {name.removeprefix(_STORED_PREFIX): tensor for name, tensor in tensors.items()}
    names = {_stored_name(name): name for name in model.state_dict()}
    expected = {_stored_name(name) for name, _ in model.named_parameters() if is_adapter_parameter(name)}
    if wrong := sorted((expected - stored.keys()) | (stored.keys() - names.keys())):
        raise ValueError(f"{folder / ADAPTER_WEIGHTS} is of another model: {', '.join(wrong[:3])}")
    model.load_state_dict({names[name]: tensor for name, tensor in stored.items()}, strict=False)
    merge_adapter(model)


def _stored_name(name: str) -> str:
    """PEFT stores no name of the adapter, and the lengths of DoRA's columns as a plain tensor."""
    if ".lora_magnitude_vector." in name:
        return name.removesuffix(f".{_NAME}.weight")
    return name.replace(f".{_NAME}.", ".") if is_adapter_parameter(name) else name
