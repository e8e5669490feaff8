"""A teacher whose layers are divided among ranks says what the whole one says, from less memory."""

import copy
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from trainyard_api.plan import Rendezvous, plan_run
from trainyard_api.spec import TrainingRun
from trainyard_api.spec_model import Architecture
from trainyard_trainer.distributed import Ranks
from trainyard_trainer.models.build import build_config, build_model
from trainyard_trainer.models.divided import divide_layers, part_of
from trainyard_trainer.models.presets import PRESETS

CPU = torch.device("cpu")
IDS = torch.arange(2 * 16).view(2, 16) % 50


def model_of(preset: str) -> PreTrainedModel:
    objective = PRESETS[preset].objective
    config = build_config(
        Architecture(preset=preset, overrides={}), vocabulary_size=64, pad_token_id=0, objective=objective
    )
    model = build_model(config, objective, seed=3)
    model.train(mode=False)
    return model


def divided(model: PreTrainedModel, world_size: int) -> list[PreTrainedModel]:
    """What each of some ranks holds; they gather from each other in this process, in the order of use."""
    ranks = [copy.deepcopy(model) for _ in range(world_size)]
    whole = {name: parameter.data for name, parameter in model.named_parameters()}

    def gather(part: torch.Tensor) -> torch.Tensor:
        for tensor in whole.values():
            pieces = [part_of(tensor, rank, world_size).view(torch.uint8) for rank in range(world_size)]
            if any(torch.equal(part, piece) for piece in pieces):
                return torch.cat(pieces)
        raise AssertionError("no rank has this part")

    for rank, copied in enumerate(ranks):
        divide_layers(copied, Ranks(rank, rank, world_size, CPU), gather)
    return ranks


@pytest.mark.parametrize("preset", ["bert-tiny", "modernbert-tiny", "llama-tiny", "gpt2-tiny"])
def test_every_rank_says_what_the_whole_model_says(preset: str) -> None:
    model = model_of(preset)
    with torch.no_grad():
        expected = model(input_ids=IDS).logits
        for rank in divided(model, 3):
            for _ in range(2):
                assert torch.equal(rank(input_ids=IDS).logits, expected)


def test_between_batches_a_rank_keeps_its_part_of_the_layers_alone() -> None:
    model = model_of("bert-tiny")
    (first, _) = divided(model, 2)
    with torch.no_grad():
        first(input_ids=IDS)
    kept = {name: parameter.numel() for name, parameter in first.named_parameters()}
    whole = {name: parameter.numel() for name, parameter in model.named_parameters()}
    for name, number in whole.items():
        is_matrix = ".layer." in name and number >= 4096
        assert kept[name] == (0 if is_matrix else number), name


def test_parts_are_equally_long_and_hold_everything() -> None:
    whole = torch.arange(10.0)
    parts = [part_of(whole, rank, 4) for rank in range(4)]
    assert {len(part) for part in parts} == {3}
    assert torch.equal(torch.cat(parts)[:10], whole)


@pytest.mark.parametrize(
    ("stage", "processes", "is_divided"), [(3, 2, True), (3, 1, False), (2, 2, False), (0, 1, False)]
)
def test_the_ranks_share_a_teacher_where_they_share_the_student(
    stage: int, processes: int, is_divided: bool
) -> None:
    spec = {
        "pretraining": {"objective": "MaskedLM"},
        "model": {"architecture": {"preset": "bert-tiny"}},
        "tokenizer": {"uri": "file:///tokenizer"},
        "data": {"sources": [{"name": "texts", "uri": "file:///texts.txt", "format": "Text"}]},
        "training": {
            "budget": {"steps": 1},
            "globalBatchSize": 4,
            "microBatchSize": 2,
            "optimizer": {"learningRate": 0.001},
            "precision": "FP32",
        },
        "deepspeed": {"zeroStage": stage},
        "workers": {"processesPerNode": processes},
    }
    run = TrainingRun.model_validate({"metadata": {"name": "run"}, "spec": spec})
    plan = plan_run(run, storage_root=str(Path("/runs")), rendezvous=Rendezvous(address="x"))
    assert plan.divides_weights is is_divided
