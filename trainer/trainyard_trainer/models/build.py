"""Transformers configurations and models with random weights, from checked architectures."""

from typing import Literal, cast

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedConfig,
    PreTrainedModel,
)

from trainyard_api.errors import ConfigurationError
from trainyard_api.spec import TrainingRunSpec
from trainyard_api.spec_model import Architecture
from trainyard_trainer.models.architecture import (
    OVERRIDES_PATH,
    padded_vocabulary_size,
    resolve_architecture,
)
from trainyard_trainer.models.families import Objective

__all__ = ["build_config", "build_model", "maximum_positions", "model_kind", "padded_vocabulary_size"]

ModelKind = Literal["MaskedLM", "CausalLM", "SequenceClassification", "TokenClassification"]
"""What a model computes behind its body."""

AUTO_CLASSES = {
    "MaskedLM": AutoModelForMaskedLM,
    "CausalLM": AutoModelForCausalLM,
    "SequenceClassification": AutoModelForSequenceClassification,
    "TokenClassification": AutoModelForTokenClassification,
}
"""The Transformers class that makes and loads a model of each kind."""


def model_kind(spec: TrainingRunSpec) -> ModelKind:
    """The kind of model that a run trains.

    Raises:
        ConfigurationError: the run trains none that is known here.
    """
    if spec.language_modeling is not None:
        return spec.language_modeling.objective
    task = spec.fine_tuning.task if spec.fine_tuning is not None else None
    match task:
        case "InstructionTuning":
            return "CausalLM"
        case "SequenceClassification" | "TokenClassification":
            return task
    raise ConfigurationError(
        "spec", "it does not say what to train for", "Set spec.pretraining, or spec.fineTuning.objective"
    )


def build_config(
    architecture: Architecture,
    *,
    vocabulary_size: int,
    pad_token_id: int | None,
    objective: Objective,
    special_token_ids: dict[str, int] | None = None,
) -> PreTrainedConfig:
    """The Transformers configuration of an architecture.

    Args:
        architecture: preset and overrides.
        vocabulary_size: entries of the tokenizer; the model's is the next multiple of 64.
        pad_token_id: id of the padding token, whose row is not trained; None where it has no row of its own.
        objective: MaskedLM or CausalLM.
        special_token_ids: further ids of the tokenizer by their configuration name, such as `bos_token_id`.
            Ids that are not given become None: the defaults of Transformers belong to other tokenizers.

    Raises:
        ConfigurationError: the preset or an override is wrong.
    """
    resolved = resolve_architecture(architecture, objective)
    model_type = resolved.preset.family.model_type
    names = ["bos_token_id", "eos_token_id"]
    if model_type == "modernbert":
        names += ["cls_token_id", "sep_token_id"]
    token_ids: dict[str, int | None] = {name: (special_token_ids or {}).get(name) for name in names}
    try:
        config = AutoConfig.for_model(
            model_type,
            **{
                **resolved.values,
                **token_ids,
                "vocab_size": padded_vocabulary_size(vocabulary_size),
                "pad_token_id": pad_token_id,
            },
        )
    except (TypeError, ValueError) as error:
        raise ConfigurationError(
            OVERRIDES_PATH,
            f"Transformers refuses the configuration: {error}",
            "Correct or remove the override",
        ) from error
    return config


def build_model(config: PreTrainedConfig, kind: ModelKind, *, seed: int) -> PreTrainedModel:
    """A model in fp32 on the CPU whose random weights depend on configuration and seed alone.

    Weights are drawn on the CPU from a generator state of their own, so they are equal on every rank, for
    every world size and whatever was drawn before; the caller's random state is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AUTO_CLASSES[kind].from_config(  # type: ignore[no-untyped-call]
            config, attn_implementation="sdpa", dtype=torch.float32
        )
    return cast("PreTrainedModel", model)


def maximum_positions(config: PreTrainedConfig) -> int:
    """The longest row the model accepts, in tokens."""
    return int(config.max_position_embeddings)
