"""The shipped architectures, by name.

Values follow the paper of each model except where later work found better ones for pre-training from scratch:

- Dropout is 0. Text is seen once or a few times, and masks change with every epoch, so that dropout mostly
  slows learning (Cramming, arXiv:2212.14034, pre-trains its encoder without it, and Llama has none; BERT and
  GPT-2 used 0.1). Set it by `overrides` for many passes over little text.
- Embeddings are tied in all presets. Below about 1 B parameters the second matrix costs more than it brings
  (MobileLLM, arXiv:2402.14905; Llama 3.2 1B and SmolLM tie theirs).
- llama-small and llama-medium are deep and thin (30 x 576, 32 x 960) with grouped keys and values, the
  shapes that MobileLLM proposes for 125 M and 350 M parameters and that SmolLM uses.
- The smaller ModernBERT presets keep the 1024 positions and the rotary base of 10,000 of ModernBERT's main
  phase (arXiv:2412.13663); modernbert-base has the published 8192 and 160,000.
- GPT-2 computes its GELU by PyTorch's fused kernel: the same function as gelu_new, which keeps about four
  times as many activations for the backward pass.
- The MLP of the small Llama presets is 8/3 of the hidden size, rounded up to a multiple of 32.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from trainyard_trainer.models.families import BERT, GPT2, LLAMA, MODERNBERT, Family, Objective


@dataclass(frozen=True, slots=True)
class Preset:
    """A shipped architecture."""

    name: str
    """What `spec.model.architecture.preset` calls it."""
    family: Family
    """Its architecture family."""
    description: str
    """One line for people."""
    values: Mapping[str, Any]
    """Fields of the Transformers configuration."""

    @property
    def objective(self) -> Objective:
        """The objective it serves."""
        return self.family.objective

    @property
    def maximum_positions(self) -> int:
        """The longest row it accepts, in tokens, unless overridden."""
        return int(self.values[self.family.named("max_position_embeddings")])


def _bert(name: str, num_layers: int, hidden_size: int, description: str) -> Preset:
    values = {
        "hidden_size": hidden_size,
        "num_hidden_layers": num_layers,
        "num_attention_heads": hidden_size // 64,
        "intermediate_size": 4 * hidden_size,
        "max_position_embeddings": 512,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "tie_word_embeddings": True,
    }
    return Preset(name, BERT, description, MappingProxyType(values))


def _modernbert(  # noqa: PLR0913 - the numbers that define an architecture
    name: str,
    num_layers: int,
    hidden_size: int,
    description: str,
    *,
    maximum_positions: int = 1024,
    global_theta: float = 10_000.0,
) -> Preset:
    values = {
        "hidden_size": hidden_size,
        "num_hidden_layers": num_layers,
        "num_attention_heads": hidden_size // 64,
        "intermediate_size": 3 * hidden_size // 2,
        "max_position_embeddings": maximum_positions,
        "rope_parameters": {
            "full_attention": {"rope_type": "default", "rope_theta": global_theta},
            "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
        },
        "attention_dropout": 0.0,
        "embedding_dropout": 0.0,
        "mlp_dropout": 0.0,
        "tie_word_embeddings": True,
    }
    return Preset(name, MODERNBERT, description, MappingProxyType(values))


def _llama(  # noqa: PLR0913 - the numbers that define an architecture
    name: str,
    num_layers: int,
    hidden_size: int,
    description: str,
    *,
    heads: tuple[int, int],
    intermediate_size: int,
    maximum_positions: int = 2048,
    theta: float = 10_000.0,
) -> Preset:
    num_heads, num_key_value_heads = heads
    values = {
        "hidden_size": hidden_size,
        "num_hidden_layers": num_layers,
        "num_attention_heads": num_heads,
        "num_key_value_heads": num_key_value_heads,
        "intermediate_size": intermediate_size,
        "max_position_embeddings": maximum_positions,
        "rms_norm_eps": 1e-5,
        "rope_parameters": {"rope_type": "default", "rope_theta": theta},
        "attention_dropout": 0.0,
        "tie_word_embeddings": True,
    }
    return Preset(name, LLAMA, description, MappingProxyType(values))


def _gpt2(name: str, num_layers: int, hidden_size: int, description: str) -> Preset:
    values = {
        "n_embd": hidden_size,
        "n_layer": num_layers,
        "n_head": hidden_size // 64,
        "n_inner": 4 * hidden_size,
        "n_positions": 1024,
        "activation_function": "gelu_pytorch_tanh",
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "attn_pdrop": 0.0,
        "tie_word_embeddings": True,
    }
    return Preset(name, GPT2, description, MappingProxyType(values))


_ALL = (
    _bert("bert-tiny", 2, 128, "BERT encoder, 2 layers of 128: for tests"),
    _bert("bert-mini", 4, 256, "BERT encoder, 4 layers of 256: for demonstrations on a CPU"),
    _bert("bert-small", 4, 512, "BERT encoder, 4 layers of 512"),
    _bert("bert-medium", 8, 512, "BERT encoder, 8 layers of 512"),
    _bert("bert-base", 12, 768, "BERT encoder, 12 layers of 768, 110 M parameters at 30,522 tokens"),
    _modernbert("modernbert-tiny", 4, 128, "ModernBERT encoder, 4 layers of 128: for tests"),
    _modernbert("modernbert-mini", 7, 256, "ModernBERT encoder, 7 layers of 256, the shape of Ettin 17m"),
    _modernbert(
        "modernbert-base",
        22,
        768,
        "ModernBERT encoder, 22 layers of 768, 149 M parameters at 50,368 tokens",
        maximum_positions=8192,
        global_theta=160_000.0,
    ),
    _llama(
        "llama-tiny", 2, 128, "Llama decoder, 2 layers of 128: for tests", heads=(4, 2), intermediate_size=352
    ),
    _llama(
        "llama-mini",
        6,
        256,
        "Llama decoder, 6 layers of 256: for demonstrations on a CPU",
        heads=(4, 2),
        intermediate_size=704,
    ),
    _llama(
        "llama-small",
        30,
        576,
        "Llama decoder, 30 layers of 576, 125 M parameters at 32,000 tokens, the shape of SmolLM 135M",
        heads=(9, 3),
        intermediate_size=1536,
    ),
    _llama(
        "llama-medium",
        32,
        960,
        "Llama decoder, 32 layers of 960, 345 M parameters at 32,000 tokens, the shape of SmolLM 360M",
        heads=(15, 5),
        intermediate_size=2560,
    ),
    _llama(
        "llama-1b",
        16,
        2048,
        "Llama decoder, 16 layers of 2048, 1.04 B parameters at 32,000 tokens, the shape of Llama 3.2 1B",
        heads=(32, 8),
        intermediate_size=8192,
        maximum_positions=8192,
        theta=500_000.0,
    ),
    _gpt2("gpt2-tiny", 2, 128, "GPT-2 decoder, 2 layers of 128: for tests"),
    _gpt2("gpt2-mini", 4, 256, "GPT-2 decoder, 4 layers of 256: for demonstrations on a CPU"),
    _gpt2("gpt2", 12, 768, "GPT-2 decoder, 12 layers of 768, 124 M parameters at 50,257 tokens"),
    _gpt2("gpt2-medium", 24, 1024, "GPT-2 decoder, 24 layers of 1024, 355 M parameters at 50,257 tokens"),
    _gpt2("gpt2-large", 36, 1280, "GPT-2 decoder, 36 layers of 1280, 774 M parameters at 50,257 tokens"),
)

PRESETS: Mapping[str, Preset] = MappingProxyType({preset.name: preset for preset in _ALL})
"""Every shipped architecture, by name."""
