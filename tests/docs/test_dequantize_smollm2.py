"""The translation of SmolLM2's GGUF file: names, rows of heads, and a model that knows English."""

import gzip
import json
import math
import os

import numpy as np
import pytest
import torch

from tools.cache import cache_root
from tools.dequantize_smollm2 import (
    check_kind,
    dequantized_smollm2,
    halves_of_heads,
    transformers_name,
)
from tools.fetch_corpora import fetch_sotu
from trainyard_api.errors import DataError


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("token_embd.weight", "model.embed_tokens.weight"),
        ("output_norm.weight", "model.norm.weight"),
        ("output.weight", "lm_head.weight"),
        ("blk.7.attn_q.weight", "model.layers.7.self_attn.q_proj.weight"),
        ("blk.29.ffn_norm.weight", "model.layers.29.post_attention_layernorm.weight"),
    ],
)
def test_tensors_get_the_names_of_transformers(name, expected):
    assert transformers_name(name) == expected


@pytest.mark.parametrize("name", ["blk.0.attn_q.bias", "blk.0.ssm_in.weight", "rope_freqs.weight"])
def test_a_tensor_of_another_model_is_refused(name):
    with pytest.raises(DataError, match=name):
        transformers_name(name)


def test_rows_of_a_head_go_from_pairs_to_halves():
    rows = np.array([[0], [10], [1], [11], [20], [30], [21], [31]], dtype=np.float32)
    assert halves_of_heads(rows, 2)[:, 0].tolist() == [0, 1, 10, 11, 20, 21, 30, 31]


def test_another_kind_of_model_is_refused_by_the_field_that_says_so():
    with pytest.raises(DataError, match=r"tokenizer\.ggml\.pre"):
        check_kind(
            {
                "general.architecture": "llama",
                "tokenizer.ggml.model": "gpt2",
                "tokenizer.ggml.pre": "llama-bpe",
            }
        )


@pytest.mark.slow
def test_the_model_predicts_an_address_and_answers_in_english():
    from transformers import AutoModelForCausalLM, AutoTokenizer

    cache = cache_root(os.environ)
    folder = dequantized_smollm2(cache)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    assert model.lm_head.weight is model.model.embed_tokens.weight
    with gzip.open(fetch_sotu(cache) / "paragraphs.jsonl.gz", "rt", encoding="utf-8") as lines:
        text = next(text for line in lines if len(text := json.loads(line)["text"]) > 800)
    ids = tokenizer(text, return_tensors="pt").input_ids[:, :256]
    with torch.no_grad():
        loss = model(input_ids=ids, labels=ids).loss
    assert math.exp(loss) < 60
    question = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(question, add_generation_prompt=True, tokenize=False)
    inputs = tokenizer(prompt, return_tensors="pt")
    with torch.no_grad():
        answer = model.generate(**inputs, max_new_tokens=24, do_sample=False)
    assert "Paris" in tokenizer.decode(answer[0, inputs.input_ids.shape[1] :], skip_special_tokens=True)
