"""TrainingRuns on the real corpus, tiny models, prepared once per test session."""

from pathlib import Path
from typing import Any

from trainyard_api.plan import Rendezvous, RunPlan, plan_run
from trainyard_api.spec import TrainingRun
from trainyard_trainer.data.prepare import prepare

NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def document(source: Path, name: str = "test", **changes: Any) -> dict[str, Any]:
    """A small MaskedLM run on a JSON Lines file; changes by dotted path, such as `training.microBatchSize`.

    Dots are written as double underscores: `training__microBatchSize=4`.
    """
    run: dict[str, Any] = {
        "apiVersion": "trainyard.dev/v1alpha1",
        "kind": "TrainingRun",
        "metadata": {"name": name},
        "spec": {
            "pretraining": {"objective": "MaskedLM"},
            "model": {"architecture": {"preset": "bert-tiny", "overrides": dict(NO_DROPOUT)}},
            "tokenizer": {"train": {"algorithm": "WordPiece", "vocabularySize": 2048}},
            "data": {
                "sources": [{"name": "addresses", "uri": source.as_uri(), "format": "JsonLines"}],
                "sequenceLength": 64,
                "validationFraction": 0.05,
            },
            "training": {
                "budget": {"steps": 6},
                "globalBatchSize": 8,
                "microBatchSize": 2,
                "optimizer": {"name": "AdamW", "learningRate": 1.0e-3},
                "precision": "FP32",
                "seed": 3,
            },
            "deepspeed": {"zeroStage": 1},
        },
    }
    for path, value in changes.items():
        *parents, last = path.split("__")
        place = run["spec"]
        for parent in parents:
            place = place.setdefault(parent, {})
        if value is None:
            place.pop(last, None)
        else:
            place[last] = value
    return run


def run_of(source: Path, name: str = "test", **changes: Any) -> TrainingRun:
    """The validated run of `document`."""
    return TrainingRun.model_validate(document(source, name, **changes))


def prepared_plan(run: TrainingRun, storage: Path, world_size: int = 1) -> RunPlan:
    """The plan of a run with its data prepared under `storage`; one thread per process, for equal sums."""
    workers = run.spec.workers.model_copy(update={"processes_per_node": world_size})
    spec = run.spec.model_copy(update={"workers": workers})
    plan = plan_run(
        run.model_copy(update={"spec": spec}),
        storage_root=str(storage),
        rendezvous=Rendezvous(address="127.0.0.1"),
        threads_per_process=1,
    )
    Path(plan.paths.run_folder).mkdir(parents=True, exist_ok=True)
    prepare(plan, report=lambda *_: None, cores=1, should_stop=lambda: False)
    return plan


def write_plan(plan: RunPlan, path: Path) -> Path:
    """Store a plan for a program of `tests/support/programs`."""
    path.write_text(plan.model_dump_json(by_alias=True))
    return path
