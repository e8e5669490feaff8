"""Runs that keep their best checkpoint and end early, trained for real by two ranks.

The learning rate is far too high, so that the first evaluation stays the best.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.base_models import store_model
from tests.support.gang import run_gang
from tests.support.labelled import labelled_texts, prepare_labelled, task_plan
from tests.support.runs import prepared_plan, run_of, write_plan
from trainyard_api.plan import RunPlan
from trainyard_trainer.checkpoint import (
    CheckpointManifest,
    TrainState,
    committed_at_step,
    load_model_weights,
)
from trainyard_trainer.checkpoint_steps import MANIFEST, checkpoint_name, committed_steps
from trainyard_trainer.export import export
from trainyard_trainer.progress import read_events, read_history, read_progress
from trainyard_trainer.task_result import read_task_result
from trainyard_trainer.training_record import read_training_record

NUM_STEPS = 8
STOP_AFTER = 4
PATIENCE = 5
STOPPED = ("resumed", "lost", "killed")


def plan_of(source: Path, storage: Path, name: str, **evaluation: Any) -> RunPlan:
    """A continued pre-training that is evaluated after every step and keeps two checkpoints."""
    run = run_of(
        source,
        name,
        fineTuning={"task": "ContinuedPretraining", "objective": "MaskedLM", "evaluation": evaluation},
        training__budget={"steps": NUM_STEPS},
        training__optimizer={"name": "AdamW", "learningRate": 0.5},
        training__schedule={"name": "Constant", "warmupSteps": 1},
        training__evaluation={"everySteps": 1, "maximumSequences": 16},
        checkpoint={"everySteps": 2, "keep": 2},
    )
    return prepared_plan(run, storage, 2)


def classifier_plan(base: Path, folder: Path) -> RunPlan:
    """A classification with every part that a step can depend on, which no evaluation can make end later."""
    task = {
        "task": "SequenceClassification",
        "adaptation": {"layerLearningRateDecay": 0.9, "unfreezeEverySteps": 1},
        "classBalance": {"classWeights": "InverseFrequency", "weightedSampling": True},
        "evaluation": {"earlyStopping": {"patience": PATIENCE, "minimumImprovement": 2.0}},
    }
    plan = task_plan(
        base,
        folder,
        labelled_texts(["ham", "spam", "ham"]),
        task,
        data__validationFraction=0.2,
        training__budget={"steps": NUM_STEPS},
        training__globalBatchSize=8,
        training__microBatchSize=2,
        training__evaluation={"everySteps": 1},
        training__precision="FP32",
        checkpoint={"everySteps": 2, "keep": 2},
        workers={"processesPerNode": 2},
        deepspeed={"zeroStage": 2},
    ).model_copy(update={"threads_per_process": 1})
    prepare_labelled(plan)
    return plan


def state_of(plan: RunPlan, step: int) -> TrainState:
    """The state in a committed checkpoint."""
    path = Path(plan.paths.checkpoints) / checkpoint_name(step) / MANIFEST
    return CheckpointManifest.model_validate_json(path.read_bytes()).state


def weights_of(plan: RunPlan, step: int) -> dict[str, torch.Tensor]:
    """The weights in a committed checkpoint."""
    checkpoint = committed_at_step(Path(plan.paths.checkpoints), step)
    assert checkpoint is not None
    return load_model_weights(checkpoint)


@pytest.fixture(scope="module")
def plans(sotu_addresses: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunPlan]:
    """A run to the end of its budget, and others that end early, of which some are stopped and resumed."""
    storage = tmp_path_factory.mktemp("storage")
    early = {"earlyStopping": {"patience": PATIENCE}, "bootstrapSamples": 50}
    made = {
        "whole": plan_of(sotu_addresses, storage, "whole", bootstrapSamples=0),
        "early": plan_of(sotu_addresses, storage, "early", **early),
        "resumed": plan_of(sotu_addresses, storage, "resumed", **early),
        "lost": plan_of(sotu_addresses, storage, "lost", **early),
    }
    base = store_model(storage / "base" / "model")
    made |= {name: classifier_plan(base, storage / name) for name in ("classifier", "killed")}
    files = {name: str(write_plan(plan, storage / f"{name}.json")) for name, plan in made.items()}
    output = str(storage / "losses.json")
    run_gang("losses.py", 2, output, str(STOP_AFTER), *(files[name] for name in STOPPED))
    best = state_of(made["lost"], STOP_AFTER).selection.best_step
    assert best is not None
    (Path(made["lost"].paths.checkpoints) / checkpoint_name(best) / "rank-00001.safetensors").unlink()
    # A process that is killed leaves no checkpoint of the step at which it is.
    shutil.rmtree(Path(made["killed"].paths.checkpoints) / checkpoint_name(STOP_AFTER))
    run_gang("losses.py", 2, output, "0", *files.values())
    return made


@pytest.mark.slow
def test_the_best_checkpoint_outlives_newer_ones_and_is_the_one_that_is_exported(
    plans: dict[str, RunPlan],
) -> None:
    plan = plans["whole"]
    losses = {
        record.step: record.metrics["Loss"]
        for record in read_history(Path(plan.paths.run_folder))
        if record.metrics
    }
    assert list(losses) == list(range(1, NUM_STEPS + 1))
    best = min(losses, key=losses.__getitem__)
    assert best < NUM_STEPS - 2, "the learning rate must be too high for this test to tell anything"
    assert committed_steps(Path(plan.paths.checkpoints)) == sorted({best, NUM_STEPS - 2, NUM_STEPS})
    model = export(plan)
    record = read_training_record(Path(plan.paths.model))
    assert record is not None
    assert record.evaluation is not None
    assert (record.checkpoint.step, record.steps, record.evaluation.step) == (best, best, best)
    assert record.evaluation.metrics["Loss"] == losses[best]
    assert model.evaluation_loss == pytest.approx(losses[best], rel=1e-3)
    assert model.metrics == record.evaluation.metrics
    assert record.evaluation.intervals == {}


@pytest.mark.slow
def test_training_ends_when_the_metric_no_longer_improves(plans: dict[str, RunPlan]) -> None:
    plan = plans["early"]
    folder = Path(plan.paths.run_folder)
    best = state_of(plans["whole"], NUM_STEPS).selection.best_step
    assert best is not None
    last = best + PATIENCE
    assert last < NUM_STEPS
    state = state_of(plan, last)
    assert (state.step, state.selection.best_step, state.selection.stale_evaluations) == (
        last,
        best,
        PATIENCE,
    )
    progress = read_progress(folder)
    assert progress is not None
    assert (progress.progress.step, progress.progress.total_steps) == (last, last)
    assert progress.progress.metrics == state.metrics
    stops = [event for event in read_events(folder) if event.type == "StoppedEarly"]
    assert [event.values for event in stops] == [{"step": last}]
    result = read_task_result(folder)
    assert result is not None
    assert result.step == best
    assert result.intervals["Loss"].low <= result.metrics["Loss"] <= result.intervals["Loss"].high


@pytest.mark.slow
def test_a_resumed_run_chooses_and_ends_as_an_uninterrupted_one(plans: dict[str, RunPlan]) -> None:
    folders = [Path(plans[name].paths.run_folder) for name in ("early", "resumed")]
    early, resumed = (
        [(record.step, record.loss, record.metrics) for record in read_history(folder)] for folder in folders
    )
    assert early == resumed
    assert read_task_result(folders[0]) == read_task_result(folders[1])
    steps = [committed_steps(folder / "checkpoints") for folder in folders]
    assert steps[0] == steps[1]
    early_state, resumed_state = (state_of(plans[name], steps[0][-1]) for name in ("early", "resumed"))
    assert early_state.selection == resumed_state.selection


@pytest.mark.slow
def test_a_killed_classification_ends_as_an_uninterrupted_one_bit_by_bit(plans: dict[str, RunPlan]) -> None:
    whole, killed = plans["classifier"], plans["killed"]
    folders = [Path(plan.paths.run_folder) for plan in (whole, killed)]
    [resumed] = [event.values["step"] for event in read_events(folders[1]) if event.type == "Resumed"]
    assert 0 < resumed < STOP_AFTER
    expected, found = (
        [(record.step, record.loss, record.metrics) for record in read_history(folder)] for folder in folders
    )
    assert found == expected
    assert read_task_result(folders[0]) == read_task_result(folders[1])
    steps = [committed_steps(folder / "checkpoints") for folder in folders]
    assert steps[0] == steps[1]
    assert steps[0][-1] == 1 + PATIENCE < NUM_STEPS
    for step in steps[0]:
        assert state_of(whole, step).selection == state_of(killed, step).selection
        of_whole, of_killed = (weights_of(plan, step) for plan in (whole, killed))
        assert of_whole.keys() == of_killed.keys()
        assert all(torch.equal(of_whole[name], of_killed[name]) for name in of_whole), step


@pytest.mark.slow
def test_a_best_checkpoint_that_is_damaged_is_forgotten_and_another_one_chosen(
    plans: dict[str, RunPlan],
) -> None:
    plan = plans["lost"]
    folder = Path(plan.paths.run_folder)
    problems = [event.message for event in read_events(folder) if event.type == "CheckpointDamaged"]
    assert len(problems) == 1
    assert problems[0].startswith("the best one: ")
    assert problems[0].endswith("rank-00001.safetensors is missing")
    last = committed_steps(Path(plan.paths.checkpoints))[-1]
    best = state_of(plan, last).selection.best_step
    assert best is not None
    assert best >= STOP_AFTER
    assert export(plan).uri.endswith("/model")
    record = json.loads((Path(plan.paths.model) / "training_record.json").read_text())
    assert record["checkpoint"]["step"] == best
