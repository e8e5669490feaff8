"""From `spec.model.architecture` to checked configuration values, without torch and Transformers."""

import difflib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from trainyard_api.errors import ConfigurationError
from trainyard_api.spec import TrainingRunSpec
from trainyard_api.spec_model import Architecture
from trainyard_trainer.models.families import OWNED_FIELDS, FieldRule, Objective
from trainyard_trainer.models.presets import PRESETS, Preset

PRESET_PATH = "spec.model.architecture.preset"
OVERRIDES_PATH = "spec.model.architecture.overrides"
VOCABULARY_MULTIPLE = 64


@dataclass(frozen=True, slots=True)
class ResolvedArchitecture:
    """A preset with its overrides applied and checked."""

    preset: Preset
    """Where it started."""
    values: Mapping[str, Any]
    """Fields of the Transformers configuration, by the family's own names."""

    def value(self, common_name: str) -> Any:
        """The value of a field by its common name, such as hidden_size."""
        return self.values[self.preset.family.named(common_name)]

    @property
    def maximum_positions(self) -> int:
        """The longest row the model accepts, in tokens."""
        return int(self.value("max_position_embeddings"))


def padded_vocabulary_size(vocabulary_size: int) -> int:
    """The next multiple of 64: matrix products of such shapes use the hardware fully."""
    return -(-vocabulary_size // VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE


def suggestion(word: str, known: Iterator[str] | list[str]) -> str:
    """The known word that most resembles a mistyped one, as a sentence, or nothing."""
    nearest = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"Did you mean {nearest[0]}?" if nearest else ""


def resolve_architecture(architecture: Architecture, objective: Objective) -> ResolvedArchitecture:
    """Apply the overrides to the preset.

    Raises:
        ConfigurationError: the first thing that is wrong with preset or overrides.
    """
    for problem in architecture_problems(architecture, objective):
        raise problem
    preset = PRESETS[architecture.preset]
    return ResolvedArchitecture(preset, _merged(preset, architecture.overrides))


def served_objective(spec: TrainingRunSpec) -> Objective:
    """The objective that an architecture has to serve: encoders classify, decoders follow instructions."""
    if spec.language_modeling is not None:
        return spec.language_modeling.objective
    follows = spec.fine_tuning is not None and spec.fine_tuning.task == "InstructionTuning"
    return "CausalLM" if follows else "MaskedLM"


def architecture_problems(architecture: Architecture, objective: Objective) -> list[ConfigurationError]:
    """Everything that is wrong with preset and overrides, without building anything."""
    preset = PRESETS.get(architecture.preset)
    if preset is None:
        return [_unknown_preset(architecture.preset, objective)]
    problems = [*_objective_problems(preset, objective)]
    for name, value in architecture.overrides.items():
        problems += _field_problems(preset, name, value, architecture.overrides)
    if not problems:
        problems += _combination_problems(preset, _merged(preset, architecture.overrides))
    return problems


def _unknown_preset(name: str, objective: Objective) -> ConfigurationError:
    serving = [preset.name for preset in PRESETS.values() if preset.objective == objective]
    remedy = suggestion(name, list(PRESETS)) or f"Presets for {objective}: {', '.join(serving)}"
    return ConfigurationError(PRESET_PATH, f"there is no preset {name!r}", remedy)


def _objective_problems(preset: Preset, objective: Objective) -> Iterator[ConfigurationError]:
    if preset.objective != objective:
        serving = [other.name for other in PRESETS.values() if other.objective == objective]
        yield ConfigurationError(
            PRESET_PATH,
            f"{preset.name} serves {preset.objective}, and spec.pretraining.objective is {objective}",
            f"Use one of {', '.join(serving)}, or set the objective to {preset.objective}",
        )


def _merged(preset: Preset, overrides: Mapping[str, Any]) -> dict[str, Any]:
    values = dict(preset.values)
    for name, value in overrides.items():
        field = preset.family.canonical(name)
        is_number = preset.family.fields[field].kind == "number"
        values[field] = float(value) if is_number else value
    if "head_dim" in preset.family.fields and "head_dim" not in values:
        values["head_dim"] = values["hidden_size"] // values["num_attention_heads"]
    return values


def _field_problems(
    preset: Preset, name: str, value: Any, overrides: Mapping[str, Any]
) -> Iterator[ConfigurationError]:
    """What is wrong with one override by itself."""
    path = f"{OVERRIDES_PATH}.{name}"
    family = preset.family
    field = family.canonical(name)
    if name in OWNED_FIELDS:
        yield ConfigurationError(path, "it may not be overridden", OWNED_FIELDS[name])
    elif field not in family.fields:
        remedy = suggestion(name, [*family.fields, *family.aliases]) or f"Known: {', '.join(family.fields)}"
        yield ConfigurationError(path, f"{preset.name} has no configuration field {name!r}", remedy)
    elif field != name and field in overrides:
        yield ConfigurationError(path, f"it is the same field as {field}, which is set too", "Set only one")
    elif (wrong := _value_problem(family.fields[field], value)) is not None:
        yield ConfigurationError(path, *wrong)


def _value_problem(rule: FieldRule, value: Any) -> tuple[str, str] | None:
    """(problem, remedy) of a value against its rule, or None."""
    expected = {
        "integer": (int,),
        "number": (int, float),
        "boolean": (bool,),
        "text": (str,),
        "list": (list,),
        "object": (dict,),
    }[rule.kind]
    article = "an" if rule.kind[0] in "aeiou" else "a"
    if not isinstance(value, expected) or (isinstance(value, bool) and rule.kind != "boolean"):
        return f"{value!r} is not {article} {rule.kind}", f"Write {article} {rule.kind}"
    if rule.choices and value not in rule.choices:
        nearest = suggestion(str(value), list(rule.choices))
        return f"{value!r} is not known", nearest or f"Use one of {', '.join(rule.choices)}"
    if isinstance(value, int | float) and not _is_in_range(rule, value):
        limits = f"at least {rule.minimum}" if rule.maximum is None else f"{rule.minimum} to {rule.maximum}"
        return f"{value} is out of range", f"Write {article} {rule.kind}, {limits}"
    return None


def _is_in_range(rule: FieldRule, value: float) -> bool:
    """Whether a number keeps to its limits; NaN does not."""
    low = -math.inf if rule.minimum is None else rule.minimum
    high = math.inf if rule.maximum is None else rule.maximum
    return low <= value <= high


def _combination_problems(preset: Preset, values: Mapping[str, Any]) -> Iterator[ConfigurationError]:
    """What is wrong with fields that are right by themselves."""
    family = preset.family
    hidden_name, heads_name = family.named("hidden_size"), family.named("num_attention_heads")
    hidden_size, num_heads = values[hidden_name], values[heads_name]
    if hidden_size % num_heads:
        yield ConfigurationError(
            f"{OVERRIDES_PATH}.{hidden_name}",
            f"{hidden_size} is not a multiple of {heads_name}, {num_heads}",
            f"Set it to {max(1, round(hidden_size / num_heads)) * num_heads}, or change {heads_name}",
        )
    head_size = values.get("head_dim", hidden_size // num_heads)
    if family.rotary and head_size % 2:
        yield ConfigurationError(
            f"{OVERRIDES_PATH}.{heads_name}",
            f"it makes heads of {head_size}, and rotary positions need an even size",
            f"Choose {hidden_name} and {heads_name} so that their ratio is even",
        )
    num_key_value_heads = values.get("num_key_value_heads", num_heads)
    if num_heads % num_key_value_heads:
        fitting = [str(n) for n in range(1, num_heads + 1) if num_heads % n == 0]
        yield ConfigurationError(
            f"{OVERRIDES_PATH}.num_key_value_heads",
            f"{num_heads} attention heads cannot share {num_key_value_heads} key-value heads evenly",
            f"Use one of {', '.join(fitting)}",
        )
    yield from _layer_types_problems(values)
    yield from _rope_problems(preset, values)
    if values.get("local_attention", 2) % 2:
        yield ConfigurationError(
            f"{OVERRIDES_PATH}.local_attention", f"{values['local_attention']} is odd", "Write an even number"
        )


def _layer_types_problems(values: Mapping[str, Any]) -> Iterator[ConfigurationError]:
    layer_types = values.get("layer_types")
    if layer_types is None:
        return
    path = f"{OVERRIDES_PATH}.layer_types"
    known = ("full_attention", "sliding_attention")
    for index, layer_type in enumerate(layer_types):
        if layer_type not in known:
            yield ConfigurationError(
                f"{path}[{index}]", f"{layer_type!r} is not known", f"Use {' or '.join(known)}"
            )
    if len(layer_types) != values["num_hidden_layers"]:
        yield ConfigurationError(
            path,
            f"it names {len(layer_types)} layers, and num_hidden_layers is {values['num_hidden_layers']}",
            "Name each layer once",
        )


def _rope_problems(preset: Preset, values: Mapping[str, Any]) -> Iterator[ConfigurationError]:
    """Rotary parameters keep the preset's shape; scaled variants extend trained models, they start none."""
    rope = values.get("rope_parameters")
    if rope is None:
        return
    path = f"{OVERRIDES_PATH}.rope_parameters"
    if preset.family.model_type == "modernbert":
        kinds = ("full_attention", "sliding_attention")
        if set(rope) != set(kinds) or not all(isinstance(part, dict) for part in rope.values()):
            yield ConfigurationError(path, "it needs exactly two objects", f"Set {' and '.join(kinds)}")
            return
        parts = {f"{path}.{kind}": rope[kind] for kind in kinds}
    else:
        parts = {path: rope}
    for part_path, part in parts.items():
        theta = part.get("rope_theta")
        if not isinstance(theta, int | float) or isinstance(theta, bool) or not 1.0 < theta < 1e12:
            yield ConfigurationError(
                f"{part_path}.rope_theta", f"{theta!r} is not a rotary base", "Write a number above 1"
            )
        if unknown := set(part) - {"rope_theta", "rope_type"}:
            yield ConfigurationError(part_path, f"{sorted(unknown)} is not supported", "Set only rope_theta")
        if part.get("rope_type", "default") != "default":
            yield ConfigurationError(
                f"{part_path}.rope_type", f"{part['rope_type']!r} is not supported", "Write default"
            )
