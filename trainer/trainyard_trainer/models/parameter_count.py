"""Number of parameters and shape of each architecture, by formula: exact, and without torch."""

from dataclasses import dataclass
from typing import Any

from trainyard_trainer.models.architecture import ResolvedArchitecture


@dataclass(frozen=True, slots=True)
class ParameterCount:
    """How many parameters a model has, tied ones counted once."""

    embedding: int
    """Token, position and segment embeddings, and the output matrix where it is not tied."""
    non_embedding: int
    """Everything else."""

    @property
    def total(self) -> int:
        """All parameters."""
        return self.embedding + self.non_embedding


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes that decide memory and arithmetic, under common names."""

    hidden_size: int
    num_layers: int
    query_size: int
    """Attention heads times head size."""
    key_value_size: int
    """Key-value heads times head size."""
    intermediate_size: int
    is_gated: bool
    """Whether the MLP multiplies two projections."""
    attention_spans: tuple[int | None, ...]
    """Keys that a query of each layer sees at most; None is the whole row."""


def model_shape(resolved: ResolvedArchitecture) -> Shape:
    """The shape of a checked architecture."""
    values = resolved.values
    model_type = resolved.preset.family.model_type
    hidden_size = int(resolved.value("hidden_size"))
    num_layers = int(resolved.value("num_hidden_layers"))
    num_heads = int(resolved.value("num_attention_heads"))
    head_size = int(values.get("head_dim", hidden_size // num_heads))
    spans: tuple[int | None, ...] = (None,) * num_layers
    if model_type == "modernbert":
        window = int(values.get("local_attention", 128)) + 1
        spans = tuple(
            None if kind == "full_attention" else window for kind in _layer_types(values, num_layers)
        )
    return Shape(
        hidden_size=hidden_size,
        num_layers=num_layers,
        query_size=num_heads * head_size,
        key_value_size=int(values.get("num_key_value_heads", num_heads)) * head_size,
        intermediate_size=int(resolved.value("intermediate_size")),
        is_gated=model_type in ("llama", "modernbert"),
        attention_spans=spans,
    )


def _layer_types(values: Any, num_layers: int) -> list[str]:
    """ModernBERT's pattern where none is given: every third layer, from the first on, sees the whole row."""
    given = values.get("layer_types")
    return given or ["sliding_attention" if layer % 3 else "full_attention" for layer in range(num_layers)]


def count_parameters(resolved: ResolvedArchitecture, vocabulary_size: int) -> ParameterCount:
    """Count the parameters of a checked architecture.

    Args:
        resolved: the architecture.
        vocabulary_size: rows of the embedding, padding to a multiple of 64 included.
    """
    shape = model_shape(resolved)
    count = {"bert": _bert, "modernbert": _modernbert, "llama": _llama, "gpt2": _gpt2}[
        resolved.preset.family.model_type
    ]
    embedding, non_embedding = count(shape, resolved, vocabulary_size)
    if not resolved.values["tie_word_embeddings"]:
        embedding += vocabulary_size * shape.hidden_size
    return ParameterCount(embedding=embedding, non_embedding=non_embedding)


def _bert(shape: Shape, resolved: ResolvedArchitecture, vocabulary_size: int) -> tuple[int, int]:
    hidden, inner = shape.hidden_size, shape.intermediate_size
    rows = vocabulary_size + resolved.maximum_positions + int(resolved.values.get("type_vocab_size", 2))
    layer = 4 * (hidden * hidden + hidden) + 2 * hidden * inner + inner + hidden + 2 * 2 * hidden
    # Transformers ties the bias of the projection together with its matrix; untied, there are two.
    num_biases = 1 if resolved.values["tie_word_embeddings"] else 2
    head = hidden * hidden + hidden + 2 * hidden + num_biases * vocabulary_size
    return rows * hidden, 2 * hidden + shape.num_layers * layer + head


def _modernbert(shape: Shape, resolved: ResolvedArchitecture, vocabulary_size: int) -> tuple[int, int]:
    hidden, inner, values = shape.hidden_size, shape.intermediate_size, resolved.values
    norm = hidden * (2 if values.get("norm_bias", False) else 1)
    attention = 4 * hidden * hidden + (4 * hidden if values.get("attention_bias", False) else 0)
    mlp = 3 * hidden * inner + (2 * inner + hidden if values.get("mlp_bias", False) else 0)
    # The norm before attention is left out in the first layer, because the embedding ends with one.
    norms = norm * (1 + 2 * shape.num_layers - 1 + 1)
    head = hidden * hidden + norm + (vocabulary_size if values.get("decoder_bias", True) else 0)
    return vocabulary_size * hidden, norms + shape.num_layers * (attention + mlp) + head


def _llama(shape: Shape, resolved: ResolvedArchitecture, vocabulary_size: int) -> tuple[int, int]:
    hidden, inner, values = shape.hidden_size, shape.intermediate_size, resolved.values
    query, key_value = shape.query_size, shape.key_value_size
    attention = 2 * hidden * query + 2 * hidden * key_value
    if values.get("attention_bias", False):
        attention += query + 2 * key_value + hidden
    mlp = 3 * hidden * inner + (2 * inner + hidden if values.get("mlp_bias", False) else 0)
    return vocabulary_size * hidden, shape.num_layers * (attention + mlp + 2 * hidden) + hidden


def _gpt2(shape: Shape, resolved: ResolvedArchitecture, vocabulary_size: int) -> tuple[int, int]:
    hidden, inner = shape.hidden_size, shape.intermediate_size
    layer = 4 * (hidden * hidden + hidden) + 2 * hidden * inner + inner + hidden + 2 * 2 * hidden
    rows = vocabulary_size + resolved.maximum_positions
    return rows * hidden, shape.num_layers * layer + 2 * hidden
