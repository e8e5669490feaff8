"""How large a model is and how much it computes, from its configuration alone."""

from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from trainyard_trainer.models.build import AUTO_CLASSES, ModelKind
from trainyard_trainer.models.parameter_count import ParameterCount, Shape
from trainyard_trainer.models.size import flops_per_token


@dataclass(frozen=True)
class ModelSize:
    """The size of a model.

    Attributes:
        parameters: how many, tied ones counted once.
        forward_flops: floating-point operations of a forward pass per token of a full row, a multiply-add
            counted as two; of a language model with the logits of every token.
    """

    parameters: int
    forward_flops: int


def size_of(config: PreTrainedConfig, kind: ModelKind, *, sequence_length: int) -> ModelSize:
    """The size of a model, which is built without storage.

    Args:
        config: its configuration.
        kind: what it computes behind its body.
        sequence_length: tokens of a full row.
    """
    with torch.device("meta"):
        model: PreTrainedModel = AUTO_CLASSES[kind].from_config(config)  # type: ignore[no-untyped-call]
    total = sum(parameter.numel() for parameter in model.parameters())
    tables = {
        id(module.weight): module.weight.numel()
        for module in model.modules()
        if isinstance(module, nn.Embedding)
    }
    head = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    if head is not None:
        tables[id(head.weight)] = head.weight.numel()
    embedding = sum(tables.values())
    # Forward and backward are three forward passes' worth; see `flops_per_token`.
    flops = flops_per_token(
        _shape(config),
        ParameterCount(embedding=embedding, non_embedding=total - embedding),
        config.vocab_size,
        sequence_length=sequence_length,
        predicted_fraction=1.0 if kind in {"MaskedLM", "CausalLM"} else 0.0,
    )
    return ModelSize(total, flops // 3)


def _shape(config: PreTrainedConfig) -> Shape:
    """The sizes that decide the arithmetic of attention, from a configuration of any family."""
    hidden, heads = int(config.hidden_size), int(config.num_attention_heads)
    head = int(getattr(config, "head_dim", None) or hidden // heads)
    num_layers = int(config.num_hidden_layers)
    kinds = getattr(config, "layer_types", None) or ["full_attention"] * num_layers
    window = 2 * int(getattr(config, "sliding_window", None) or 0) + 1
    return Shape(
        hidden_size=hidden,
        num_layers=num_layers,
        query_size=heads * head,
        key_value_size=int(getattr(config, "num_key_value_heads", None) or heads) * head,
        intermediate_size=int(getattr(config, "intermediate_size", None) or 4 * hidden),
        is_gated=config.model_type in {"llama", "modernbert"},
        attention_spans=tuple(window if kind == "sliding_attention" else None for kind in kinds),
    )
