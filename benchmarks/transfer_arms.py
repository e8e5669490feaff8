"""What is learnt in the transfer benchmark, and Trainyard's arm; the peer's is in `transfer_peer`.

Both arms get the same model folder, examples, seed, batch, steps, optimizer and schedule, run in this process
with the same threads, and are judged on the same held-out examples. Rates are useful (non-padding) tokens per
second of wall time after a warm-up.
"""

import os
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transfer_data import Example, write_source
from transformers import AutoConfig, AutoModel, AutoTokenizer

from trainyard_api.plan import Rendezvous, plan_run
from trainyard_api.spec import TrainingRun
from trainyard_trainer.data.prepare import prepare
from trainyard_trainer.distributed import join_gang
from trainyard_trainer.progress import read_history
from trainyard_trainer.signals import StopRequest
from trainyard_trainer.startup import Startup
from trainyard_trainer.task_result import read_task_result
from trainyard_trainer.train import run, set_up

THREADS = len(os.sched_getaffinity(0))
NUM_WARM_UP_STEPS = 5
ADAM = {"beta1": 0.9, "beta2": 0.98, "epsilon": 1.0e-6, "weightDecay": 0.01}
WARM_UP_FRACTION = 0.1


@dataclass(frozen=True)
class Subject:
    """A kind of task."""

    fine_tuning: Mapping[str, Any]
    """`spec.fineTuning` without its evaluation."""
    fields: Mapping[str, str]
    """Names of the fields of a source."""
    metric: str
    """What is judged by."""
    global_batch_size: int
    micro_batch_size: int
    sequence_length: int
    precision: str = "FP32"


SPAM = Subject(
    fine_tuning={"task": "SequenceClassification", "labels": ["ham", "spam"]},
    fields={"textField": "text", "labelField": "label"},
    metric="MacroF1",
    global_batch_size=16,
    micro_batch_size=16,
    sequence_length=48,
    precision="BF16",
)
PARTS_OF_SPEECH = Subject(
    fine_tuning={"task": "TokenClassification"},
    fields={"wordsField": "words", "tagsField": "tags"},
    metric="Accuracy",
    global_batch_size=64,
    micro_batch_size=16,
    sequence_length=128,
)


@dataclass(frozen=True)
class Task:
    """What is learnt, whichever arm learns it."""

    subject: Subject
    model: Path
    """Folder of the model that is started from."""
    train: Sequence[Example]
    test: Sequence[Example]
    """Judged once, after the last step, so that they choose nothing."""
    num_steps: int
    learning_rate: float
    seed: int

    @property
    def num_schedule_warm_up_steps(self) -> int:
        """Steps over which the learning rate rises."""
        return round(WARM_UP_FRACTION * self.num_steps)

    def document(self, name: str, train: Path, test: Path) -> dict[str, Any]:
        """The TrainingRun.

        Args:
            name: its name.
            train: file of the training examples.
            test: file of the held-out ones.
        """
        subject = self.subject
        sources = [
            {"name": part, "uri": file.as_uri(), "format": "JsonLines", "split": split, **subject.fields}
            for part, file, split in (("train", train, "Train"), ("test", test, "Validation"))
        ]
        evaluation = {"metric": subject.metric, "keepBest": False, "bootstrapSamples": 0}
        return {
            "apiVersion": "trainyard.dev/v1alpha1",
            "kind": "TrainingRun",
            "metadata": {"name": name},
            "spec": {
                "fineTuning": {**subject.fine_tuning, "evaluation": evaluation},
                "model": {"pretrained": {"uri": self.model.as_uri()}},
                "data": {"sources": sources, "sequenceLength": subject.sequence_length},
                "training": {
                    "budget": {"steps": self.num_steps},
                    "globalBatchSize": subject.global_batch_size,
                    "microBatchSize": subject.micro_batch_size,
                    "optimizer": {"name": "AdamW", "learningRate": self.learning_rate, **ADAM},
                    "schedule": {"name": "Linear", "warmupSteps": self.num_schedule_warm_up_steps},
                    "gradientClipping": 1.0,
                    "precision": subject.precision,
                    "seed": self.seed,
                },
                "deepspeed": {"zeroStage": 0},
                "checkpoint": {"everySteps": 1_000_000},
            },
        }


@dataclass(frozen=True)
class Outcome:
    """What one arm made of a task."""

    score: float
    """The subject's metric on the held-out examples, 0 to 1."""
    num_judged: int
    """Predictions that it is made of: e-mails or words."""
    num_tokens: int
    """Tokens trained on, padding not counted."""
    fullness: float
    """Fraction of the positions that are no padding."""
    rate: float
    """Useful tokens per second in training."""


def random_weights(source: Path, folder: Path, seed: int) -> Path:
    """A model folder of the same architecture and tokenizer with weights that have seen no text."""
    config = AutoConfig.from_pretrained(source)
    torch.manual_seed(seed)
    AutoModel.from_config(config).save_pretrained(folder)  # type: ignore[no-untyped-call]
    AutoTokenizer.from_pretrained(source).save_pretrained(folder)
    return folder


def trainyard_outcome(task: Task, folder: Path, name: str) -> Outcome:
    """Prepare, train and judge by Trainyard; the run is deleted when it has been read.

    Args:
        task: what to learn.
        folder: where runs are kept.
        name: of the run.
    """
    train = write_source(task.train, folder / f"{name}-train.jsonl")
    test = write_source(task.test, folder / f"{name}-test.jsonl")
    plan = plan_run(
        TrainingRun.model_validate(task.document(name, train, test)),
        storage_root=str(folder / "runs"),
        rendezvous=Rendezvous(address="127.0.0.1"),
        threads_per_process=THREADS,
    )
    run_folder = Path(plan.paths.run_folder)
    run_folder.mkdir(parents=True)
    prepare(plan, report=lambda *_: None, cores=1, should_stop=lambda: False)
    trainer = set_up(plan, join_gang(plan), StopRequest(), Startup(time.time, time.time()), time.time)
    run(trainer)
    result = read_task_result(run_folder)
    assert result is not None, "a finished run of a task has a result"
    assert result.examples == len(task.test)
    steps = [record for record in read_history(run_folder) if record.tokens is not None]
    tokens = [record.tokens or 0 for record in steps]
    outcome = Outcome(
        score=result.metrics[task.subject.metric],
        num_judged=sum(one.actual for one in result.classes),
        num_tokens=sum(tokens),
        fullness=sum(tokens) / sum(record.positions or 0 for record in steps),
        rate=rate_after_warm_up(tokens, [record.time for record in steps]),
    )
    shutil.rmtree(run_folder)
    return outcome


def rate_after_warm_up(tokens: Sequence[int], ends: Sequence[float]) -> float:
    """Tokens per second from the end of the warm-up to the end of the last step.

    Args:
        tokens: of each step.
        ends: when each step was over, in seconds.
    """
    return sum(tokens[NUM_WARM_UP_STEPS:]) / (ends[-1] - ends[NUM_WARM_UP_STEPS - 1])
