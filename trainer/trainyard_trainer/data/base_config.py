"""What is read of a stored model before it is used: names and configuration, as data, never as code."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from safetensors import SafetensorError, safe_open

from trainyard_api.errors import ConfigurationError, DataError
from trainyard_api.spec import TrainingRunSpec
from trainyard_trainer.data.model_place import ModelPlace
from trainyard_trainer.data.special_tokens import Objective

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
TOKENIZER = "tokenizer.json"
JSON_NAMES = (
    CONFIG,
    INDEX,
    TOKENIZER,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)
"""Files that are read beside the weights; everything else of a model's folder is left where it is."""
MAXIMUM_JSON_BYTES = 128 << 20
"""Bound of a configuration, an index or a tokenizer."""
MAXIMUM_MODEL_BYTES = 512 << 30
"""Bound of all files together: about 128 G parameters in fp32."""

_SHARD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,200}\.safetensors")
_PICKLE = (".bin", ".pt", ".pth", ".pkl", ".ckpt")


@dataclass(frozen=True, slots=True)
class BaseFamily:
    """An architecture that training can start from."""

    objective: Objective
    """The objective its attention pattern serves."""
    positions: str
    """Field of the configuration with the longest row."""


FAMILIES: Mapping[str, BaseFamily] = MappingProxyType(
    {
        "bert": BaseFamily("MaskedLM", "max_position_embeddings"),
        "modernbert": BaseFamily("MaskedLM", "max_position_embeddings"),
        "llama": BaseFamily("CausalLM", "max_position_embeddings"),
        "gpt2": BaseFamily("CausalLM", "n_positions"),
    }
)
"""The families of `models.families` by model_type; data preparation may not import the models."""

_REFUSED: Mapping[str, str] = MappingProxyType(
    {
        "auto_map": "it names Python code that comes with the model, which Trainyard never runs",
        "custom_pipelines": "it names Python code that comes with the model, which Trainyard never runs",
        "quantization_config": "its weights are quantized, and training needs them whole",
        "is_encoder_decoder": "it has an encoder and a decoder",
        "is_decoder": "it is an encoder that is used as a decoder",
        "add_cross_attention": "it attends to another model",
    }
)
"""Fields of a configuration that must be unset, empty or false, each with what it means."""


@dataclass(frozen=True, slots=True)
class BaseConfig:
    """What a configuration says."""

    model_type: str
    vocabulary_size: int
    maximum_positions: int


def _objective_field(spec: TrainingRunSpec) -> str:
    """The field of the spec that decides which kind of model is needed."""
    if spec.fine_tuning is None:
        return "spec.pretraining.objective"
    continued = spec.fine_tuning.task == "ContinuedPretraining"
    return f"spec.fineTuning.{'objective' if continued else 'task'}"


def check_config(
    content: bytes, spec: TrainingRunSpec, objective: Objective, place: ModelPlace
) -> BaseConfig:
    """Refuse a configuration that the run cannot use, before anything large is read.

    Args:
        content: `config.json`.
        spec: the run.
        objective: what it trains for.
        place: the model.

    Raises:
        DataError: it is damaged, needs code of its own, or describes no model that Trainyard trains.
        ConfigurationError: it serves another objective, or its rows are shorter than the run's.
    """
    where = place.where
    config = parse_object(content, where, CONFIG)
    for name, problem in _REFUSED.items():
        if config.get(name):
            raise DataError(where, f"{CONFIG} sets {name}: {problem}", "Use another model")
    model_type = config.get("model_type")
    family = FAMILIES.get(model_type) if isinstance(model_type, str) else None
    if not isinstance(model_type, str) or family is None:
        raise DataError(
            where,
            f"its model_type {model_type!r} is none that Trainyard trains",
            f"Use a model of type {', '.join(FAMILIES)}",
        )
    if family.objective != objective:
        fitting = [name for name, other in FAMILIES.items() if other.objective == objective]
        field = _objective_field(spec)
        other = f"se a model of type {' or '.join(fitting)}"
        raise ConfigurationError(
            field,
            f"{place.role} is of type {model_type} and serves {family.objective}, not {objective}",
            f"Set it to {family.objective}, or u{other}" if field.endswith("objective") else f"U{other}",
        )
    checked = BaseConfig(
        model_type=model_type,
        vocabulary_size=_count(config, "vocab_size", where),
        maximum_positions=_count(config, family.positions, where),
    )
    if spec.data.sequence_length > checked.maximum_positions:
        raise ConfigurationError(
            "spec.data.sequenceLength",
            f"{spec.data.sequence_length} exceeds the {checked.maximum_positions} positions of {place.role}",
            f"Set it to at most {checked.maximum_positions}",
        )
    return checked


def weight_names(names: Iterable[str], index: bytes | None, where: str) -> tuple[str, ...]:
    """The files that hold a model's weights, with their index, as Transformers chooses them.

    Args:
        names: the files of its folder.
        index: content of the index, where there is one.
        where: the field of the spec that named the model.

    Raises:
        DataError: there are only pickles, nothing at all, or the index names files elsewhere.
    """
    present = set(names)
    if WEIGHTS in present:
        return (WEIGHTS,)
    if index is None:
        pickles = sorted(name for name in present if name.endswith(_PICKLE))
        if pickles:
            raise DataError(
                where,
                f"its weights are only there as {pickles[0]}, a pickle, which runs code when it is loaded",
                "Convert it where it may run: AutoModel.from_pretrained(...).save_pretrained(...) writes "
                "safetensors",
            )
        raise DataError(where, f"its folder has no {WEIGHTS}", "Name the folder of a stored model")
    shards = parse_object(index, where, INDEX).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise DataError(where, f"{INDEX} has no weight_map", "Replace the file")
    for name in shards.values():
        if not isinstance(name, str) or _SHARD.fullmatch(name) is None:
            raise DataError(
                where,
                f"{INDEX} names {str(name)[:100]!r}, which is no safetensors file of the same folder",
                "Do not use this model: such an index reads files that are not its own",
            )
    missing = sorted(set(shards.values()) - present)
    if missing:
        raise DataError(where, f"its weights {missing[0]} are missing", "Store the model again, whole")
    return (INDEX, *sorted(set(shards.values())))


def check_weights(folder: Path, names: Iterable[str], where: str) -> None:
    """Read the headers of safetensors files, without their tensors.

    Raises:
        DataError: one is damaged or cut off.
    """
    for name in names:
        if name == INDEX:
            continue
        try:
            with safe_open(folder / name, framework="numpy") as tensors:
                tensors.keys()
        except (SafetensorError, OSError) as error:
            raise DataError(
                where, f"{folder / name} cannot be read: {error}", "Store the model again"
            ) from error


def parse_object(content: bytes, where: str, name: str) -> dict[str, Any]:
    """The JSON object in a file of a stored model.

    Raises:
        DataError: it is none.
    """
    try:
        parsed = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DataError(where, f"{name} is not JSON: {error}", "Store the model again") from error
    if not isinstance(parsed, dict):
        raise DataError(where, f"{name} is not an object", "Store the model again")
    return parsed


def _count(config: Mapping[str, Any], name: str, where: str) -> int:
    value = config.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise DataError(where, f"{CONFIG} has no usable {name}: {value!r}", "Store the model again")
    return value
