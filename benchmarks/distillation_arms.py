"""What is learnt in the distillation benchmark, and runs of Trainyard in this process.

A student and the same student without a teacher start from the same weights, read the same rows with the same
masks in the same order, and are judged alike; only `spec.distillation` tells them apart.
"""

import os
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
)

from trainyard_api.plan import Rendezvous, RunPlan, plan_run
from trainyard_api.spec_model import StudentOfTeacher
from trainyard_api.validation import validate_document
from trainyard_trainer.cache_stage import open_writer
from trainyard_trainer.data.prepare import prepare
from trainyard_trainer.distributed import join_gang
from trainyard_trainer.export import export
from trainyard_trainer.models.student import student_of
from trainyard_trainer.progress import read_history
from trainyard_trainer.signals import StopRequest
from trainyard_trainer.startup import Startup
from trainyard_trainer.task_result import read_task_result
from trainyard_trainer.train import run, set_up

THREADS = len(os.sched_getaffinity(0))
SEQUENCE_LENGTH = 128
PRESET = "bert-mini"
VOCABULARY_SIZE = 8192
WARM_UP_FRACTION = 0.1
LEARNING_RATE = 1.0e-3

AutoClass = type[AutoModelForMaskedLM] | type[AutoModelForSequenceClassification]


@dataclass(frozen=True)
class Lesson:
    """A masked language model to train on a text.

    Attributes:
        name: of the run.
        model: `spec.model`.
        text: JSON Lines with a field `text`.
        num_steps: optimizer steps of 32 rows.
        seed: decides the weights, where they are random, and the order of the rows.
        tokenizer: `spec.tokenizer`; the teacher's where there is none.
        distillation: `spec.distillation`, where it has a teacher.
        maximum_sequences: held-out rows to judge by; all of them when None.
    """

    name: str
    model: Mapping[str, Any]
    text: Path
    num_steps: int
    seed: int
    tokenizer: Mapping[str, Any] | None = None
    distillation: Mapping[str, Any] | None = None
    maximum_sequences: int | None = None

    def document(self) -> dict[str, Any]:
        """The TrainingRun."""
        spec: dict[str, Any] = {
            "pretraining": {"objective": "MaskedLM", "masking": {"probability": 0.3}},
            "model": self.model,
            "data": {
                "sources": [{"name": "text", "uri": self.text.as_uri(), "format": "JsonLines"}],
                "validationFraction": 0.05,
                "sequenceLength": SEQUENCE_LENGTH,
            },
            "training": {
                "budget": {"steps": self.num_steps},
                "globalBatchSize": 32,
                "microBatchSize": 16,
                "optimizer": {"name": "AdamW", "learningRate": LEARNING_RATE},
                "schedule": {"name": "Linear", "warmupSteps": round(WARM_UP_FRACTION * self.num_steps)},
                "precision": "FP32",
                "seed": self.seed,
            },
            "checkpoint": {"everySteps": 1_000_000},
        }
        if self.maximum_sequences is not None:
            spec["training"]["evaluation"] = {"maximumSequences": self.maximum_sequences}
        if self.tokenizer is not None:
            spec["tokenizer"] = self.tokenizer
        if self.distillation is not None:
            spec["distillation"] = self.distillation
        return training_run(self.name, spec)


@dataclass(frozen=True)
class Learnt:
    """A run that has ended.

    Attributes:
        model: its folder, as Transformers reads it.
        loss: on the held-out examples, in nats per prediction.
        metrics: of a task, by name; empty for a language model.
        num_parameters: tied ones once.
        num_tokens: trained on, padding not counted.
    """

    model: Path
    loss: float
    metrics: Mapping[str, float]
    num_parameters: int
    num_tokens: int


def training_run(name: str, spec: Mapping[str, Any]) -> dict[str, Any]:
    """A TrainingRun of a spec."""
    return {
        "apiVersion": "trainyard.dev/v1alpha1",
        "kind": "TrainingRun",
        "metadata": {"name": name},
        "spec": dict(spec),
    }


def train(document: Mapping[str, Any], storage: Path) -> RunPlan:
    """Prepare, write the teacher's predictions where they are cached, train and judge, in this process.

    Args:
        document: the TrainingRun; its name is new in the storage.
        storage: where runs lie side by side and share what was prepared.
    """
    plan = plan_run(
        validate_document(document),
        storage_root=str(storage),
        rendezvous=Rendezvous(address="127.0.0.1"),
        threads_per_process=THREADS,
    )
    Path(plan.paths.run_folder).mkdir(parents=True)
    prepare(plan, report=lambda *_: None, cores=THREADS, should_stop=lambda: False)
    ranks = join_gang(plan)
    if plan.spec.caches_teacher:
        open_writer(plan, ranks, StopRequest()).write()
    run(set_up(plan, ranks, StopRequest(), Startup(time.time, time.time()), time.time))
    return plan


def learn(document: Mapping[str, Any], storage: Path) -> Learnt:
    """Train, and export the model, which also compares it with its teacher; arguments as of `train`."""
    plan = train(document, storage)
    result = read_task_result(Path(plan.paths.run_folder))
    exported = export(plan)
    assert exported.evaluation_loss is not None, "a run that has ended was judged"
    return Learnt(
        model=Path(plan.paths.model),
        loss=exported.evaluation_loss,
        metrics={} if result is None else result.metrics,
        num_parameters=exported.parameters,
        num_tokens=sum(record.tokens or 0 for record in read_history(Path(plan.paths.run_folder))),
    )


def seconds_per_token(tokens: Sequence[int], ends: Sequence[float], num_warm_up_steps: int) -> float:
    """The time of a useful token, from the end of the warm-up to the end of the last step.

    Args:
        tokens: of each step.
        ends: when each step was over, in seconds.
        num_warm_up_steps: steps that are left out.
    """
    return (ends[-1] - ends[num_warm_up_steps - 1]) / sum(tokens[num_warm_up_steps:])


def timed(document: Mapping[str, Any], storage: Path, num_warm_up_steps: int) -> float:
    """Train, and tell the time of a useful token; arguments as of `train` and `seconds_per_token`."""
    history = read_history(Path(train(document, storage).paths.run_folder))
    steps = [record for record in history if record.tokens is not None]
    tokens, ends = [record.tokens or 0 for record in steps], [record.time for record in steps]
    return seconds_per_token(tokens, ends, num_warm_up_steps)


def assert_same_work(taught: Sequence[Learnt], alone: Sequence[Learnt]) -> None:
    """Make sure that the students have the same size and were trained on as many tokens."""
    for first, second in zip(taught, alone, strict=True):
        assert first.num_parameters == second.num_parameters, (first, second)
        assert first.num_tokens == second.num_tokens, (first, second)


def cut(teacher: Path, wanted: Mapping[str, Any], folder: Path, kind: AutoClass) -> Path:
    """Store the model that `fromTeacher` starts from, for the student that has the start but no teacher.

    Args:
        teacher: folder of the model to cut.
        wanted: `spec.model.fromTeacher`.
        folder: where the student goes.
        kind: class of both.
    """
    model: PreTrainedModel = kind.from_pretrained(teacher)
    student_of(model, StudentOfTeacher.model_validate(wanted)).model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(teacher).save_pretrained(folder)
    return folder


def seconds_per_pass(model: PreTrainedModel, inputs: Mapping[str, torch.Tensor], num_passes: int) -> float:
    """The median time of a forward pass, after one that is not timed.

    Args:
        model: in evaluation mode.
        inputs: of its forward.
        num_passes: how many are timed.
    """
    seconds = []
    with torch.inference_mode():
        model(**inputs)
        for _ in range(num_passes):
            started = time.perf_counter()
            model(**inputs)
            seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)
