"""Memory and arithmetic estimates."""

import pytest

from trainyard_api.errors import ConfigurationError
from trainyard_api.plan import Rendezvous, plan_run
from trainyard_api.spec import TrainingRun
from trainyard_trainer.models.size import estimate

GIB = 2**30


def plan_of(
    preset, objective, *, vocabulary_size=32_000, nodes=1, training=None, zero_stage=1, tokenizer=None
):
    spec = {
        "pretraining": {"objective": objective},
        "model": {"architecture": {"preset": preset}},
        "tokenizer": tokenizer or {"train": {"algorithm": "BPE", "vocabularySize": vocabulary_size}},
        "data": {
            "sources": [{"name": "speeches", "uri": "file:///speeches.txt", "format": "Text"}],
            "sequenceLength": 512,
        },
        "training": {
            "budget": {"steps": 10},
            "globalBatchSize": 4 * nodes,
            "microBatchSize": 4,
            "optimizer": {"learningRate": 1e-3},
            **(training or {}),
        },
        "deepspeed": {"zeroStage": zero_stage},
        "workers": {"nodes": nodes},
    }
    run = TrainingRun.model_validate({"metadata": {"name": "speeches"}, "spec": spec})
    return plan_run(run, storage_root="/runs", rendezvous=Rendezvous(address="127.0.0.1"))


@pytest.mark.parametrize(
    ("stage", "nodes", "bytes_per_parameter"),
    [
        # parameters 2 (4 + 2 at stage 0), gradients 2 + 4 (4 at stage 0), master 4, moments 8
        (0, 4, 4 + 2 + 4 + 0 + 8),
        (1, 1, 2 + 6 + 4 + 8),
        (1, 4, 2 + 6 + (4 + 8) / 4),
        (2, 4, 2 + (4 + 4 + 8) / 4),
        (3, 4, (2 + 4 + 4 + 8) / 4),
    ],
)
def test_each_zero_stage_divides_its_share(stage, nodes, bytes_per_parameter):
    size = estimate(plan_of("llama-small", "CausalLM", nodes=nodes, zero_stage=stage))
    memory, count = size.memory, size.parameters.total
    states = memory.parameters + memory.gradients + memory.master_parameters + memory.optimizer_state
    bucket = 0 if stage == 0 else 50_000_000 * 2
    assert states == pytest.approx(count * bytes_per_parameter + bucket, rel=1e-6)
    assert memory.total == states + memory.activations + memory.logits


def test_one_fp32_process_is_estimated_at_the_stage_0_that_it_runs():
    training = {"precision": "FP32"}
    asked_for_1 = estimate(plan_of("llama-small", "CausalLM", training=training, zero_stage=1))
    asked_for_0 = estimate(plan_of("llama-small", "CausalLM", training=training, zero_stage=0))
    assert asked_for_1.memory == asked_for_0.memory
    assert asked_for_1.memory.master_parameters == 0


@pytest.mark.parametrize(
    ("optimizer", "stage", "bytes_per_parameter"),
    [("AdamW", 0, 8), ("SGD", 0, 4), ("Lion", 0, 4), ("Adafactor", 1, 4), ("Adafactor", 0, 4 * 2 / 576)],
)
def test_the_optimizer_decides_its_state(optimizer, stage, bytes_per_parameter):
    training = {"optimizer": {"name": optimizer, "learningRate": 1e-3}}
    size = estimate(plan_of("llama-small", "CausalLM", training=training, zero_stage=stage))
    assert size.memory.optimizer_state == pytest.approx(size.parameters.total * bytes_per_parameter, rel=1e-6)


def test_fp32_needs_twice_the_activations_of_bf16():
    halves = estimate(plan_of("bert-base", "MaskedLM")).memory
    whole = estimate(plan_of("bert-base", "MaskedLM", training={"precision": "FP32"})).memory
    assert whole.activations == 2 * halves.activations


def test_a_masked_model_projects_only_the_hidden_positions():
    masked = estimate(plan_of("bert-base", "MaskedLM")).memory.logits
    causal = estimate(plan_of("gpt2", "CausalLM")).memory.logits
    assert masked / causal == pytest.approx(0.30, rel=0.01)


def test_arithmetic_of_gpt2_agrees_with_the_usual_count():
    # 85,056,000 non-embedding parameters, vocabulary 50,304, 12 layers of 768, rows of 512 tokens.
    size = estimate(plan_of("gpt2", "CausalLM", vocabulary_size=50_257))
    assert size.parameters.non_embedding == 85_056_000
    assert size.vocabulary_size == 50_304
    assert size.flops_per_token == 6 * 85_056_000 + 6 * 768 * 50_304 + 12 * 12 * 768 * 512


def test_local_layers_count_only_their_window():
    size = estimate(plan_of("modernbert-tiny", "MaskedLM"))
    attention = 12 * 128 * (2 * 512 + 2 * 129)
    expected = 6 * size.parameters.non_embedding + 6 * 128 * 32_000 * 0.3 + attention
    assert size.flops_per_token == round(expected)


def test_an_unread_tokenizer_is_assumed_and_said_to_be():
    plan = plan_of("bert-mini", "MaskedLM", tokenizer={"uri": "file:///tokenizer.json"})
    assert estimate(plan).vocabulary_is_assumed
    known = estimate(plan, vocabulary_size=1000)
    assert (known.vocabulary_size, known.vocabulary_is_assumed) == (1024, False)


def test_a_run_without_an_architecture_has_no_estimate():
    plan = plan_of("bert-mini", "MaskedLM")
    model = plan.spec.model.model_copy(update={"architecture": None})
    spec = plan.spec.model_copy(update={"model": model})
    with pytest.raises(ConfigurationError, match=r"spec\.model\.architecture"):
        estimate(plan.model_copy(update={"spec": spec}))


@pytest.mark.parametrize(
    ("preset", "objective"),
    [
        ("bert-tiny", "MaskedLM"),
        ("modernbert-tiny", "MaskedLM"),
        ("llama-tiny", "CausalLM"),
        ("gpt2-tiny", "CausalLM"),
    ],
)
def test_the_activation_estimate_is_near_what_autograd_keeps(preset, objective):
    import torch

    from trainyard_api.spec_model import Architecture
    from trainyard_trainer.models.build import build_config, build_model

    config = build_config(
        Architecture(preset=preset), vocabulary_size=64, pad_token_id=0, objective=objective
    )
    model = build_model(config, objective, seed=0)
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.base_model(input_ids=torch.ones(4, 512, dtype=torch.int64))
    measured = sum(num_bytes for num_bytes, _ in kept.values())
    plan = plan_of(preset, objective, training={"precision": "FP32"})
    assert estimate(plan).memory.activations == pytest.approx(measured, rel=0.35)
