"""What fine-tuning must not depend on: the division of a batch, the ZeRO stage, an interruption."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.support.base_models import store_model
from tests.support.gang import run_gang
from tests.support.runs import prepared_plan, run_of, write_plan
from tests.support.task_examples import CLASS_WEIGHTS, LABELS, TOKEN_IDS, tiny_classifier
from trainyard_api.plan import Rendezvous, RunPlan, plan_run
from trainyard_trainer.checkpoint import latest_committed, load_model_weights

ADAPTATIONS: dict[str, dict[str, Any]] = {
    "full": {"layerLearningRateDecay": 0.9},
    "frozen": {"frozenLayers": 1},
    "unfrozen": {"unfreezeEverySteps": 1},
    "lora": {"adapter": {"rank": 4}},
    "dora": {"adapter": {"rank": 4, "method": "DoRA"}},
}


def division(folder: Path, micro: int, world_size: int) -> str:
    """The plan of a step over the made-up examples."""
    run = run_of(
        folder,
        training__globalBatchSize=8,
        training__microBatchSize=micro,
        deepspeed__zeroStage=0,
        workers={"processesPerNode": world_size},
    )
    plan = plan_run(
        run,
        storage_root=str(folder),
        rendezvous=Rendezvous(address="127.0.0.1", port=1),
        threads_per_process=1,
    )
    return str(write_plan(plan, folder / f"{micro}-{world_size}.json"))


@pytest.mark.slow
def test_a_class_weighted_step_equals_one_by_hand_over_accumulation_and_ranks(tmp_path: Path) -> None:
    """By hand: the sum of w[y] x -log p[y] over all eight examples, divided by the sum of w[y]."""
    model = tiny_classifier().eval()
    logits = model(input_ids=TOKEN_IDS, attention_mask=(TOKEN_IDS != 0).long()).logits
    losses = -logits.log_softmax(-1)[torch.arange(8), LABELS]
    weights = CLASS_WEIGHTS[LABELS]
    loss = (weights * losses).sum() / weights.sum()
    loss.backward()

    one, two = tmp_path / "one.safetensors", tmp_path / "two.safetensors"
    whole, singles, ranks = (division(tmp_path, *each) for each in ((8, 1), (1, 1), (2, 2)))
    run_gang("task_gradients.py", 1, str(one), whole, singles)
    run_gang("task_gradients.py", 2, str(two), ranks)
    found = [(load_file(one), "0/"), (load_file(one), "1/"), (load_file(two), "0/")]
    for tensors, prefix in found:
        assert float(tensors[f"{prefix}loss"]) == pytest.approx(float(loss.detach()), abs=1e-6)
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None
            assert parameter.grad.abs().max() > 0, name
            difference = (tensors[f"{prefix}model.{name}"] - parameter.grad).abs().max()
            assert difference < 1e-6, (prefix, name)


AT_STAGE = {0: tuple(ADAPTATIONS), 1: ("frozen", "dora"), 2: ("unfrozen", "lora"), 3: tuple(ADAPTATIONS)}
"""Every adaptation where parameters are whole and where they are divided; in between, one of each kind."""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return store_model(tmp_path_factory.mktemp("base") / "model")


@pytest.mark.slow
@pytest.mark.parametrize("stage", AT_STAGE)
def test_a_stopped_fine_tune_goes_on_as_if_it_had_not_stopped(
    sotu_addresses: Path, base: Path, tmp_path: Path, stage: int
) -> None:
    """Stopped after 2 of 4 steps with 2 ranks; frozen weights come from the stored model again."""

    def plan(name: str, adaptation: dict[str, Any]) -> RunPlan:
        run = run_of(
            sotu_addresses,
            name,
            pretraining=None,
            fineTuning={
                "task": "ContinuedPretraining",
                "objective": "MaskedLM",
                "adaptation": adaptation,
            },
            model={"pretrained": {"uri": base.as_uri()}},
            tokenizer=None,
            training__budget={"steps": 4},
            training__evaluation={"maximumSequences": 8},
            deepspeed__zeroStage=stage,
        )
        return prepared_plan(run, tmp_path, 2)

    pairs = {
        name: (plan(f"{name}-whole", ADAPTATIONS[name]), plan(f"{name}-stopped", ADAPTATIONS[name]))
        for name in AT_STAGE[stage]
    }
    files = {
        name: [str(write_plan(each, tmp_path / f"{each.name}.json")) for each in pair]
        for name, pair in pairs.items()
    }
    stopped = [each for _, each in files.values()]
    run_gang("losses.py", 2, str(tmp_path / "ignored.json"), "2", *stopped)
    everything = [each for pair in files.values() for each in pair]
    run_gang("losses.py", 2, str(tmp_path / "losses.json"), "0", *everything)

    curves = json.loads((tmp_path / "losses.json").read_text())
    for number, (name, (whole, resumed)) in enumerate(pairs.items()):
        assert curves[2 * number] == curves[2 * number + 1], name
        ends = [latest_committed(Path(each.paths.checkpoints)) for each in (whole, resumed)]
        assert ends[0] is not None
        assert ends[1] is not None
        assert ends[0].manifest.frozen == ends[1].manifest.frozen
        assert bool(ends[0].manifest.frozen) is (name in {"frozen", "lora", "dora"})
        of_whole, of_resumed = load_model_weights(ends[0]), load_model_weights(ends[1])
        assert of_whole.keys() == of_resumed.keys()
        assert not of_whole.keys() & set(ends[0].manifest.frozen)
        for key, weight in of_whole.items():
            assert torch.equal(weight, of_resumed[key]), (name, key)
