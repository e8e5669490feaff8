"""The four architecture families: their Transformers configuration and which of its fields may be set.

The tables stand here instead of being read from Transformers because `trainyard validate` must answer at
once, and importing a Transformers configuration imports torch, which takes seconds. A test compares every
table with the installed configuration class, so that neither a missing nor an invented field goes unnoticed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

Objective = Literal["MaskedLM", "CausalLM"]
FieldKind = Literal["integer", "number", "boolean", "text", "list", "object"]

ACTIVATIONS = ("gelu", "gelu_new", "gelu_pytorch_tanh", "relu", "relu2", "silu", "tanh")
"""Activations of Transformers that are used in published language models."""


@dataclass(frozen=True, slots=True)
class FieldRule:
    """What a configuration field accepts."""

    kind: FieldKind
    minimum: float | None = None
    """Smallest value allowed."""
    maximum: float | None = None
    """Largest value allowed."""
    choices: tuple[str, ...] = ()
    """Values allowed of a text; any when empty."""


_COUNT = FieldRule("integer", minimum=1)
_DROPOUT = FieldRule("number", minimum=0.0, maximum=0.9)
_DEVIATION = FieldRule("number", minimum=1e-6, maximum=1.0)
_NORM_EPSILON = FieldRule("number", minimum=1e-15, maximum=1e-2)
_BOOLEAN = FieldRule("boolean")
_ACTIVATION = FieldRule("text", choices=ACTIVATIONS)


@dataclass(frozen=True, slots=True)
class Family:
    """A Transformers architecture that Trainyard trains from random weights."""

    model_type: str
    """`model_type` of the Transformers configuration."""
    objective: Objective
    """The objective its attention pattern serves."""
    fields: Mapping[str, FieldRule]
    """Fields that `overrides` may set."""
    aliases: Mapping[str, str] = field(default_factory=dict)
    """Common names of fields that this family calls otherwise."""
    rotary: bool = False
    """Whether positions are rotated into queries and keys (RoPE), which needs an even head size."""

    def canonical(self, name: str) -> str:
        """The family's own name of a field."""
        return self.aliases.get(name, name)

    def named(self, common: str) -> str:
        """The name under which a message should speak of a common field, such as max_position_embeddings."""
        return self.aliases.get(common, common)


BERT = Family(
    model_type="bert",
    objective="MaskedLM",
    fields=MappingProxyType(
        {
            "hidden_size": _COUNT,
            "num_hidden_layers": _COUNT,
            "num_attention_heads": _COUNT,
            "intermediate_size": _COUNT,
            "hidden_act": _ACTIVATION,
            "hidden_dropout_prob": _DROPOUT,
            "attention_probs_dropout_prob": _DROPOUT,
            "max_position_embeddings": _COUNT,
            "type_vocab_size": _COUNT,
            "initializer_range": _DEVIATION,
            "layer_norm_eps": _NORM_EPSILON,
            "tie_word_embeddings": _BOOLEAN,
        }
    ),
)

MODERNBERT = Family(
    model_type="modernbert",
    objective="MaskedLM",
    fields=MappingProxyType(
        {
            "hidden_size": _COUNT,
            "num_hidden_layers": _COUNT,
            "num_attention_heads": _COUNT,
            "intermediate_size": _COUNT,
            "hidden_activation": _ACTIVATION,
            "max_position_embeddings": _COUNT,
            "initializer_range": _DEVIATION,
            "initializer_cutoff_factor": FieldRule("number", minimum=0.5, maximum=10.0),
            "norm_eps": _NORM_EPSILON,
            "norm_bias": _BOOLEAN,
            "attention_bias": _BOOLEAN,
            "attention_dropout": _DROPOUT,
            "layer_types": FieldRule("list"),
            "rope_parameters": FieldRule("object"),
            "local_attention": FieldRule("integer", minimum=2),
            "embedding_dropout": _DROPOUT,
            "mlp_bias": _BOOLEAN,
            "mlp_dropout": _DROPOUT,
            "decoder_bias": _BOOLEAN,
            "tie_word_embeddings": _BOOLEAN,
        }
    ),
    rotary=True,
)

LLAMA = Family(
    model_type="llama",
    objective="CausalLM",
    fields=MappingProxyType(
        {
            "hidden_size": _COUNT,
            "num_hidden_layers": _COUNT,
            "num_attention_heads": _COUNT,
            "num_key_value_heads": _COUNT,
            "head_dim": _COUNT,
            "intermediate_size": _COUNT,
            "hidden_act": _ACTIVATION,
            "max_position_embeddings": _COUNT,
            "initializer_range": _DEVIATION,
            "rms_norm_eps": _NORM_EPSILON,
            "rope_parameters": FieldRule("object"),
            "attention_bias": _BOOLEAN,
            "attention_dropout": _DROPOUT,
            "mlp_bias": _BOOLEAN,
            "tie_word_embeddings": _BOOLEAN,
        }
    ),
    rotary=True,
)

GPT2 = Family(
    model_type="gpt2",
    objective="CausalLM",
    fields=MappingProxyType(
        {
            "n_positions": _COUNT,
            "n_embd": _COUNT,
            "n_layer": _COUNT,
            "n_head": _COUNT,
            "n_inner": _COUNT,
            "activation_function": _ACTIVATION,
            "resid_pdrop": _DROPOUT,
            "embd_pdrop": _DROPOUT,
            "attn_pdrop": _DROPOUT,
            "layer_norm_epsilon": _NORM_EPSILON,
            "initializer_range": _DEVIATION,
            "scale_attn_weights": _BOOLEAN,
            "scale_attn_by_inverse_layer_idx": _BOOLEAN,
            "tie_word_embeddings": _BOOLEAN,
        }
    ),
    aliases=MappingProxyType(
        {
            "max_position_embeddings": "n_positions",
            "hidden_size": "n_embd",
            "num_hidden_layers": "n_layer",
            "num_attention_heads": "n_head",
            "intermediate_size": "n_inner",
        }
    ),
)

_TOKENIZER_DECIDES = "Remove it: the tokenizer of the run decides it"
_TRAINYARD_DECIDES = "Remove it: Trainyard sets it"
_FINE_TUNING = "Remove it: it belongs to fine-tuning and has no effect on pre-training"
_PRECISION = "Remove it and set spec.training.precision"

OWNED_FIELDS: Mapping[str, str] = MappingProxyType(
    {
        "vocab_size": "Remove it and set spec.tokenizer.train.vocabularySize",
        **dict.fromkeys(
            (
                "pad_token_id",
                "bos_token_id",
                "eos_token_id",
                "cls_token_id",
                "sep_token_id",
                "mask_token_id",
                "unk_token_id",
                "decoder_start_token_id",
            ),
            _TOKENIZER_DECIDES,
        ),
        **dict.fromkeys(("dtype", "torch_dtype"), _PRECISION),
        **dict.fromkeys(
            ("auto_map", "trust_remote_code", "custom_pipelines"),
            "Remove it: Trainyard never runs code that comes with a model",
        ),
        **dict.fromkeys(
            (
                "attn_implementation",
                "_attn_implementation",
                "architectures",
                "model_type",
                "name_or_path",
                "_name_or_path",
                "transformers_version",
                "use_cache",
                "is_decoder",
                "is_encoder_decoder",
                "add_cross_attention",
                "output_hidden_states",
                "output_attentions",
                "return_dict",
                "chunk_size_feed_forward",
                "pretraining_tp",
                "deterministic_flash_attn",
                "sparse_prediction",
                "sparse_pred_ignore_index",
                "reorder_and_upcast_attn",
                "quantization_config",
                "per_layer_config",
            ),
            _TRAINYARD_DECIDES,
        ),
        **dict.fromkeys(
            (
                "id2label",
                "label2id",
                "num_labels",
                "problem_type",
                "classifier_dropout",
                "classifier_pooling",
                "classifier_bias",
                "classifier_activation",
                "summary_type",
                "summary_use_proj",
                "summary_activation",
                "summary_proj_to_labels",
                "summary_first_dropout",
            ),
            _FINE_TUNING,
        ),
    }
)
"""Configuration fields that `overrides` must not set, each with its remedy."""
