"""A run goes on where another has ended: same loss, same weights, other ZeRO stages, also after a stop."""

import json
import math
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from tests.support.base_models import stored_weights
from tests.support.gang import run_gang
from tests.support.local_runs import write_excerpt
from tests.support.published_models import minilm_folder
from tests.support.runs import prepared_plan, run_of, write_plan
from trainyard_api.plan import RunPlan
from trainyard_trainer.export import export
from trainyard_trainer.progress import read_events, read_history
from trainyard_trainer.training_record import read_training_record

pytestmark = pytest.mark.slow

VOCABULARY_SIZE = 1024
KINDS = {
    "masked": {
        "pretraining": {"objective": "MaskedLM"},
        "model": {"architecture": {"preset": "bert-tiny"}},
        "tokenizer": {"train": {"algorithm": "WordPiece", "vocabularySize": VOCABULARY_SIZE}},
    },
    "causal": {
        "pretraining": {"objective": "CausalLM"},
        "model": {"architecture": {"preset": "llama-tiny"}},
        "tokenizer": {"train": {"algorithm": "BPE", "vocabularySize": VOCABULARY_SIZE}},
    },
}
STANDING_STILL = {"name": "AdamW", "learningRate": 1.0e-300}
"""Steps by less than any fp32 number, so that every weight stays as it is."""


@dataclass(frozen=True)
class First:
    """The run whose model others start from."""

    kind: str
    source: Path
    storage: Path
    plan: RunPlan
    evaluation_loss: float

    def later(self, name: str, world_size: int = 2, **changes: object) -> RunPlan:
        """The prepared plan of a run that starts from it, on the same text."""
        settings = {
            "pretraining": KINDS[self.kind]["pretraining"],
            "model": {"fromRun": {"name": "first"}},
            "tokenizer": None,
            "training__evaluation": {"maximumSequences": 32},
            **changes,
        }
        return prepared_plan(run_of(self.source, name, **settings), self.storage, world_size)


def train(plans: list[RunPlan], folder: Path, world_size: int = 2, stop_after: int = 0) -> list[list[float]]:
    """Train plan after plan in one gang; the losses of their steps."""
    files = [str(write_plan(plan, folder / f"{plan.name}.json")) for plan in plans]
    output = folder / "losses.json"
    run_gang("losses.py", world_size, str(output), str(stop_after), *files)
    return json.loads(output.read_text())


def evaluation_loss(plan: RunPlan) -> float:
    history = read_history(Path(plan.paths.run_folder))
    return [record.evaluation_loss for record in history if record.evaluation_loss is not None][-1]


@pytest.fixture(scope="module")
def passages(sotu_paragraphs, tmp_path_factory):
    """A part of the corpus that is prepared in a moment."""
    return write_excerpt(sotu_paragraphs, tmp_path_factory.mktemp("text") / "passages.jsonl", 2500)


@pytest.fixture(scope="module", params=list(KINDS))
def first(request, passages, tmp_path_factory):
    storage = tmp_path_factory.mktemp(request.param)
    run = run_of(
        passages,
        "first",
        **KINDS[request.param],
        training__budget={"steps": 60},
        training__optimizer={"name": "AdamW", "learningRate": 5.0e-3},
        training__evaluation={"maximumSequences": 32},
    )
    plan = prepared_plan(run, storage, 2)
    train([plan], storage)
    export(plan)
    return First(request.param, passages, storage, plan, evaluation_loss(plan))


def test_the_first_loss_is_the_level_where_the_other_run_ended_and_weights_arrive_bit_by_bit(first, tmp_path):
    plans = [
        first.later(
            f"stage{stage}",
            deepspeed__zeroStage=stage,
            training__budget={"steps": 1},
            training__optimizer=STANDING_STILL,
        )
        for stage in range(4)
    ]
    losses = train(plans, tmp_path)
    weights = stored_weights(Path(first.plan.paths.model))
    random_level = math.log(VOCABULARY_SIZE)
    assert first.evaluation_loss < random_level - 0.7
    for plan, (loss,) in zip(plans, losses, strict=True):
        assert evaluation_loss(plan) == pytest.approx(first.evaluation_loss, abs=1e-4), plan.name
        assert loss == pytest.approx(first.evaluation_loss, abs=0.5)
        export(plan)
        continued = stored_weights(Path(plan.paths.model))
        assert continued.keys() == weights.keys()
        assert [name for name in weights if not torch.equal(continued[name], weights[name])] == []


def test_a_stopped_run_goes_on_from_its_own_checkpoint_and_not_from_the_model_again(first, tmp_path):
    whole = first.later("whole", training__budget={"steps": 4})
    stopped = first.later("stopped", training__budget={"steps": 4})
    (expected,) = train([whole], tmp_path)
    train([stopped], tmp_path, stop_after=2)

    weights = Path(first.plan.paths.model) / "model.safetensors"
    hidden = weights.rename(weights.with_suffix(".hidden"))
    try:
        (losses,) = train([stopped], tmp_path)
    finally:
        hidden.rename(weights)
    assert losses == expected
    kinds = [event.type for event in read_events(Path(stopped.paths.run_folder))]
    assert kinds.count("StartedFromModel") == 1
    assert kinds.count("Resumed") == 1

    export(stopped)
    record = read_training_record(Path(stopped.paths.model))
    upstream = Path(first.plan.paths.model)
    assert (record.base.run, record.base.uri) == ("first", upstream.as_uri())
    assert (record.base.initialised, record.base.unused) == ((), ())
    card = (Path(stopped.paths.model) / "README.md").read_text()
    assert "pre-trained further" in card
    assert "from the model of the run `first`" in card
    assert record.base.hash in card


def test_a_published_encoder_without_a_head_trains_on_with_a_new_one(passages, tmp_path):
    folder = minilm_folder()
    run = run_of(
        passages,
        "minilm",
        model={"pretrained": {"uri": folder.as_uri()}},
        tokenizer=None,
        training__budget={"steps": 2},
        training__optimizer={"name": "AdamW", "learningRate": 1.0e-4},
        training__evaluation={"maximumSequences": 8},
    )
    plan = prepared_plan(run, tmp_path, 2)
    (losses,) = train([plan], tmp_path)
    assert len(losses) == 2
    assert all(map(math.isfinite, losses))

    export(plan)
    record = read_training_record(Path(plan.paths.model))
    assert record.objective == "MaskedLM"
    assert "cls.predictions.transform.dense.weight" in record.base.initialised
    assert all(name.startswith("cls.predictions.") for name in record.base.initialised)
    assert record.base.unused == ("pooler.dense.bias", "pooler.dense.weight")
    (event,) = [e for e in read_events(Path(plan.paths.run_folder)) if e.type == "StartedFromModel"]
    assert "cls.predictions.transform.dense.weight" in event.message
    assert "`cls.predictions.transform.dense.weight`" in (Path(plan.paths.model) / "README.md").read_text()
    stored, trained = stored_weights(folder), stored_weights(Path(plan.paths.model))
    name = "encoder.layer.5.output.dense.weight"
    difference = (trained[f"bert.{name}"] - stored[name]).abs().max()
    assert 0.0 < float(difference) < 1e-3
