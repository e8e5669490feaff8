"""What fine-tuning must not depend on: the division of a batch, the ZeRO stage, an interruption."""

import json
from dataclasses import dataclass
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
from trainyard_trainer.checkpoint import CommittedCheckpoint, latest_committed, load_model_weights

ADAPTATIONS: dict[str, dict[str, Any]] = {
    "paced": {"unfreezeEverySteps": 1, "layerLearningRateDecay": 0.9},
    "frozen": {"frozenLayers": 1},
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


AT_STAGE = {0: tuple(ADAPTATIONS), 1: ("frozen", "dora"), 2: ("paced", "lora"), 3: tuple(ADAPTATIONS)}
"""Every adaptation where parameters are whole and where they are divided; in between, one of each kind."""
CASES = [(stage, name) for stage, names in AT_STAGE.items() for name in names]


@dataclass(frozen=True)
class Ended:
    """A run that came to its end.

    Attributes:
        losses: of its steps.
        checkpoint: its last one.
    """

    losses: list[float]
    checkpoint: CommittedCheckpoint


def fine_tuning(addresses: Path, base: Path, kind: str, stage: int, name: str) -> RunPlan:
    """The prepared plan of 4 steps by 2 ranks."""
    task = {"task": "ContinuedPretraining", "objective": "MaskedLM", "adaptation": ADAPTATIONS[name]}
    run = run_of(
        addresses,
        f"{kind}-{stage}-{name}",
        pretraining=None,
        fineTuning=task,
        model={"pretrained": {"uri": base.as_uri()}},
        tokenizer=None,
        training__budget={"steps": 4},
        training__evaluation={"maximumSequences": 8},
        deepspeed__zeroStage=stage,
    )
    return prepared_plan(run, base.parents[1], 2)


@pytest.fixture(scope="module")
def ended(sotu_addresses: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Ended]:
    """Each case as `whole-...` and, stopped after 2 of its 4 steps, as `stopped-...`; all cases in a gang."""
    folder = tmp_path_factory.mktemp("fine-tuning")
    base, output = store_model(folder / "base" / "model"), folder / "losses.json"
    found = {}
    for kind, gangs in {"whole": ("0",), "stopped": ("2", "0")}.items():
        plans = [fine_tuning(sotu_addresses, base, kind, stage, name) for stage, name in CASES]
        files = [str(write_plan(plan, folder / f"{plan.name}.json")) for plan in plans]
        for stop_after in gangs:
            run_gang("losses.py", 2, str(output), stop_after, *files)
        for plan, losses in zip(plans, json.loads(output.read_text()), strict=True):
            checkpoint = latest_committed(Path(plan.paths.checkpoints))
            assert checkpoint is not None
            found[plan.name] = Ended(losses, checkpoint)
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "name"), CASES)
def test_a_stopped_fine_tune_goes_on_as_if_it_had_not_stopped(
    ended: dict[str, Ended], stage: int, name: str
) -> None:
    """Frozen weights come from the stored model again, and layers begin at the same steps."""
    whole, resumed = (ended[f"{kind}-{stage}-{name}"] for kind in ("whole", "stopped"))
    assert len(whole.losses) == 4
    assert whole.losses == resumed.losses
    frozen = whole.checkpoint.manifest.frozen
    assert frozen == resumed.checkpoint.manifest.frozen
    assert bool(frozen) is (name != "paced")
    of_whole, of_resumed = (load_model_weights(each.checkpoint) for each in (whole, resumed))
    assert of_whole.keys() == of_resumed.keys()
    assert not of_whole.keys() & set(frozen)
    for key, weight in of_whole.items():
        assert torch.equal(weight, of_resumed[key]), key
