"""A student from its teacher's weights: fewer layers (DistilBERT, Sanh et al. 2019), or narrower."""

import copy
from dataclasses import dataclass
from typing import cast

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from trainyard_api.errors import ConfigurationError
from trainyard_api.spec_model import StudentOfTeacher
from trainyard_trainer.models.layers import body_layer_prefixes
from trainyard_trainer.models.narrowing import (
    INNER,
    Sizes,
    hidden_basis,
    narrowed_sizes,
    narrowed_state,
    sizes_of,
)
from trainyard_trainer.models.student_layers import chosen_layers

_FAMILIES = ("bert", "modernbert", "llama", "gpt2")
_FIRST_LAYER_LACKS = {"modernbert": "attn_norm."}
"""What the first layer of a family has not, because the embeddings end with it."""


@dataclass(frozen=True)
class Student:
    """A model made of parts of another."""

    model: PreTrainedModel
    """In the teacher's number format, on the CPU; shares no memory with the teacher."""
    origins: tuple[int, ...]
    """The teacher's layer that each layer was copied from, counted from 1."""
    num_parameters: int
    """How many parameters it has, tied ones counted once."""


def student_of(teacher: PreTrainedModel, wanted: StudentOfTeacher) -> Student:
    """Copy layers, embeddings and head of a teacher; at its width, every weight equals its origin.

    Args:
        teacher: a model of the families that Trainyard trains, with any of their heads.
        wanted: which layers, and how wide.

    Raises:
        ConfigurationError: the teacher is of another family, or lacks such layers or such a width.
    """
    model_type = teacher.config.model_type
    if model_type not in _FAMILIES:
        raise ConfigurationError(
            "spec.model.fromTeacher",
            f"the layers of a {model_type} model cannot be copied",
            f"Use a teacher of {', '.join(_FAMILIES)}, or set model.architecture",
        )
    prefixes = body_layer_prefixes(teacher)
    origins = chosen_layers(wanted, len(prefixes))
    config = student_config(teacher.config, wanted)
    state = _copied_layers(teacher, prefixes, origins)
    if wanted.width is not None:
        widths = sizes_of(teacher.config), narrowed_sizes(sizes_of(teacher.config), wanted.width)
        embedding = cast("torch.Tensor", teacher.get_input_embeddings().weight)
        basis = hidden_basis(embedding.detach(), widths[1].hidden, wanted.width.method)
        state = narrowed_state(state, model_type, prefixes[: len(origins)], widths, basis)
    model = _filled(type(teacher), config, state)
    return Student(model, origins, sum(parameter.numel() for parameter in model.parameters()))


def student_config(teacher: PreTrainedConfig, wanted: StudentOfTeacher) -> PreTrainedConfig:
    """The configuration of a student, from its teacher's.

    Raises:
        ConfigurationError: the teacher lacks such layers or such a width.
    """
    config = _with_layers(teacher, chosen_layers(wanted, teacher.num_hidden_layers))
    if wanted.width is None:
        return config
    return _with_widths(config, narrowed_sizes(sizes_of(teacher), wanted.width))


def _with_layers(config: PreTrainedConfig, origins: tuple[int, ...]) -> PreTrainedConfig:
    """A configuration with fewer layers, each of the kind of its origin."""
    changed = copy.deepcopy(config)
    changed.num_hidden_layers = len(origins)
    kinds = getattr(config, "layer_types", None)
    if kinds is not None:
        changed.layer_types = [kinds[origin - 1] for origin in origins]
    return changed


def _with_widths(config: PreTrainedConfig, sizes: Sizes) -> PreTrainedConfig:
    """A configuration with other widths."""
    changed = copy.deepcopy(config)
    changed.hidden_size = sizes.hidden
    changed.num_attention_heads = sizes.num_heads
    setattr(changed, INNER.get(config.model_type, "intermediate_size"), sizes.inner)
    if config.model_type == "llama":
        changed.num_key_value_heads = sizes.num_key_value_heads
        changed.head_dim = sizes.head
    return changed


def _copied_layers(
    teacher: PreTrainedModel, prefixes: tuple[str, ...], origins: tuple[int, ...]
) -> dict[str, torch.Tensor]:
    """The teacher's weights without those of the other layers, under the names that the student has."""
    numbers = {prefixes[origin - 1]: prefixes[number] for number, origin in enumerate(origins)}
    absent = f"{prefixes[0]}{_FIRST_LAYER_LACKS.get(teacher.config.model_type, ' ')}"
    state = {}
    for name, weight in teacher.state_dict().items():
        prefix = next((prefix for prefix in prefixes if name.startswith(prefix)), "")
        if prefix and prefix not in numbers:
            continue
        renamed = f"{numbers.get(prefix, '')}{name.removeprefix(prefix)}"
        if not renamed.startswith(absent):
            state[renamed] = weight
    return state


def _filled(
    model_class: type[PreTrainedModel], config: PreTrainedConfig, state: dict[str, torch.Tensor]
) -> PreTrainedModel:
    """A model with given weights, all of them; the caller's random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        model = model_class(config)
    torch.nn.Module.to(model, next(iter(state.values())).dtype)
    model.load_state_dict(state, strict=True)
    model.tie_weights()
    return model
