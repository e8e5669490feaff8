"""Presets and overrides, checked without torch."""

import subprocess
import sys
from pathlib import Path

import pytest

from trainyard_api.errors import ConfigurationError
from trainyard_api.problems import InvalidRunError
from trainyard_api.spec import TrainingRun
from trainyard_api.spec_model import Architecture
from trainyard_api.validation import validate_document
from trainyard_trainer.models.architecture import (
    architecture_problems,
    padded_vocabulary_size,
    resolve_architecture,
)
from trainyard_trainer.models.presets import PRESETS
from trainyard_trainer.models.rules import MODEL_RULES


def run_with(architecture, *, objective="MaskedLM", sequence_length=128):
    return TrainingRun.model_validate(
        {
            "metadata": {"name": "speeches"},
            "spec": {
                "pretraining": {"objective": objective},
                "model": {"architecture": architecture},
                "tokenizer": {"train": {"algorithm": "WordPiece", "vocabularySize": 1000}},
                "data": {
                    "sources": [{"name": "speeches", "uri": "file:///speeches.txt", "format": "Text"}],
                    "sequenceLength": sequence_length,
                },
                "training": {
                    "budget": {"steps": 10},
                    "globalBatchSize": 8,
                    "microBatchSize": 4,
                    "optimizer": {"learningRate": 1e-3},
                },
            },
        }
    )


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_preset_is_valid_for_its_own_objective_only(name):
    preset = PRESETS[name]
    other = "CausalLM" if preset.objective == "MaskedLM" else "MaskedLM"
    assert architecture_problems(Architecture(preset=name), preset.objective) == []
    (problem,) = architecture_problems(Architecture(preset=name), other)
    assert problem.where == "spec.model.architecture.preset"
    assert preset.objective in problem.remedy
    assert len(preset.description) <= 110


@pytest.mark.parametrize(
    ("objective", "written", "remedy"),
    [
        ("MaskedLM", "bert-mimi", "Did you mean bert-mini?"),
        ("CausalLM", "llama_tiny", "Did you mean llama-tiny?"),
        ("CausalLM", "mamba", "gpt2-mini"),
    ],
)
def test_an_unknown_preset_gets_a_suggestion_or_the_list(objective, written, remedy):
    (problem,) = architecture_problems(Architecture(preset=written), objective)
    assert problem.where == "spec.model.architecture.preset"
    assert remedy in problem.remedy


@pytest.mark.parametrize(
    ("preset", "overrides", "field", "said"),
    [
        ("bert-mini", {"num_hiden_layers": 3}, "num_hiden_layers", "Did you mean num_hidden_layers?"),
        ("bert-mini", {"num_key_value_heads": 2}, "num_key_value_heads", "no configuration field"),
        ("bert-mini", {"vocab_size": 100}, "vocab_size", "vocabularySize"),
        ("bert-mini", {"pad_token_id": 3}, "pad_token_id", "tokenizer"),
        ("bert-mini", {"attn_implementation": "eager"}, "attn_implementation", "Trainyard sets it"),
        ("bert-mini", {"auto_map": {"AutoModel": "evil.Model"}}, "auto_map", "never runs code"),
        ("bert-mini", {"trust_remote_code": True}, "trust_remote_code", "never runs code"),
        ("bert-mini", {"torch_dtype": "float16"}, "torch_dtype", "spec.training.precision"),
        ("bert-mini", {"dtype": "float16"}, "dtype", "spec.training.precision"),
        ("bert-mini", {"is_decoder": True}, "is_decoder", "Trainyard sets it"),
        ("bert-mini", {"num_hidden_layers": "4"}, "num_hidden_layers", "'4' is not an integer"),
        ("bert-mini", {"num_hidden_layers": 2.5}, "num_hidden_layers", "2.5 is not an integer"),
        ("bert-mini", {"num_hidden_layers": True}, "num_hidden_layers", "True is not an integer"),
        ("bert-mini", {"num_hidden_layers": None}, "num_hidden_layers", "None is not an integer"),
        ("bert-mini", {"num_hidden_layers": 0}, "num_hidden_layers", "at least 1"),
        ("bert-mini", {"hidden_dropout_prob": 1.0}, "hidden_dropout_prob", "0.0 to 0.9"),
        ("bert-mini", {"hidden_dropout_prob": float("nan")}, "hidden_dropout_prob", "out of range"),
        ("bert-mini", {"hidden_act": "gellu"}, "hidden_act", "Did you mean gelu?"),
        ("bert-mini", {"tie_word_embeddings": 1}, "tie_word_embeddings", "1 is not a boolean"),
        ("bert-mini", {"hidden_size": 250}, "hidden_size", "not a multiple of num_attention_heads, 4"),
        ("gpt2-mini", {"hidden_size": 250}, "n_embd", "Set it to 248"),
        ("gpt2-mini", {"hidden_size": 512, "n_embd": 512}, "hidden_size", "same field as n_embd"),
        ("llama-mini", {"num_key_value_heads": 3}, "num_key_value_heads", "Use one of 1, 2, 4"),
        ("llama-mini", {"hidden_size": 260}, "num_attention_heads", "heads of 65"),
        ("llama-mini", {"rope_parameters": {"rope_theta": 0}}, "rope_parameters.rope_theta", "0 is not a"),
        (
            "llama-mini",
            {"rope_parameters": {"rope_theta": 1e4, "rope_type": "yarn"}},
            "rope_parameters.rope_type",
            "Write default",
        ),
        (
            "llama-mini",
            {"rope_parameters": {"rope_theta": 1e4, "factor": 2}},
            "rope_parameters",
            "['factor'] is not supported",
        ),
        ("modernbert-mini", {"rope_parameters": {"rope_theta": 1e4}}, "rope_parameters", "two objects"),
        ("modernbert-mini", {"local_attention": 7}, "local_attention", "7 is odd"),
        ("modernbert-mini", {"layer_types": ["full_attention"]}, "layer_types", "names 1 layers"),
        (
            "modernbert-mini",
            {"num_hidden_layers": 1, "layer_types": ["ful_attention"]},
            "layer_types[0]",
            "'ful_attention' is not known",
        ),
    ],
)
def test_a_wrong_override_is_refused_with_its_path_and_a_remedy(preset, overrides, field, said):
    problems = architecture_problems(
        Architecture(preset=preset, overrides=overrides), PRESETS[preset].objective
    )
    assert [problem.where for problem in problems] == [f"spec.model.architecture.overrides.{field}"]
    assert said in str(problems[0])
    with pytest.raises(ConfigurationError):
        resolve_architecture(Architecture(preset=preset, overrides=overrides), PRESETS[preset].objective)


def test_all_wrong_overrides_are_told_at_once():
    architecture = Architecture(preset="bert-mini", overrides={"vocab_size": 3, "hiden_size": 2})
    assert len(architecture_problems(architecture, "CausalLM")) == 3


def test_an_override_by_a_common_name_reaches_the_familys_own_field():
    architecture = Architecture(preset="gpt2-mini", overrides={"num_hidden_layers": 3})
    assert resolve_architecture(architecture, "CausalLM").values["n_layer"] == 3


@pytest.mark.parametrize(("size", "padded"), [(1, 64), (64, 64), (65, 128), (30522, 30528), (50257, 50304)])
def test_the_vocabulary_is_padded_to_a_multiple_of_64(size, padded):
    assert padded_vocabulary_size(size) == padded


@pytest.mark.parametrize(
    ("architecture", "objective", "override"),
    [
        ({"preset": "bert-mini"}, "MaskedLM", "max_position_embeddings"),
        ({"preset": "gpt2-mini", "overrides": {"n_positions": 512}}, "CausalLM", "n_positions"),
    ],
)
def test_rows_longer_than_the_models_positions_are_refused(architecture, objective, override):
    assert found(run_with(architecture, objective=objective, sequence_length=512)) == []
    (problem,) = found(run_with(architecture, objective=objective, sequence_length=513))
    assert problem.path == "spec.data.sequenceLength"
    assert f"spec.model.architecture.overrides.{override} to 513" in problem.remedy


def test_an_override_raises_the_number_of_positions():
    architecture = {"preset": "bert-mini", "overrides": {"max_position_embeddings": 1024}}
    assert found(run_with(architecture, sequence_length=1024)) == []


def found(run):
    return [problem for rule in MODEL_RULES for problem in rule.check(run)]


def test_validation_tells_problems_of_the_model_with_those_of_the_api():
    document = run_with({"preset": "bert-mimi"}).model_dump(mode="json", by_alias=True, exclude_none=True)
    document["spec"]["training"]["globalBatchSize"] = 0
    with pytest.raises(InvalidRunError) as caught:
        validate_document(document, MODEL_RULES)
    paths = {problem.path for problem in caught.value.problems}
    assert paths == {"spec.model.architecture.preset", "spec.training.globalBatchSize"}


def test_the_rules_need_neither_torch_nor_transformers():
    code = (
        "import sys\n"
        "import trainyard_trainer.models.rules, trainyard_trainer.models.size\n"
        "print(sorted({'torch', 'transformers', 'numpy'} & set(sys.modules)))"
    )
    root = Path(__file__).parents[2]
    paths = f"{root / 'api'}:{root / 'trainer'}"
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": paths}, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
