"""The arms of the transfer benchmark: a run of Trainyard, and Hugging Face Trainer.

Both get the same model folder, e-mails, seed, batch, steps, optimizer and schedule, and are judged on the
same held-out e-mails. Rates are useful (non-padding) tokens per second of wall time after a warm-up.
"""

import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
import yaml
from transfer_data import Email, write_source
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    TrainerCallback,
    TrainingArguments,
)
from transformers import Trainer as HuggingFaceTrainer

from trainyard_trainer.progress import read_history
from trainyard_trainer.task_result import read_task_result

LABELS = ("ham", "spam")
METRIC = "MacroF1"
NUM_WARM_UP_STEPS = 5
ADAM = {"beta1": 0.9, "beta2": 0.98, "epsilon": 1.0e-6, "weightDecay": 0.01}
WARM_UP_FRACTION = 0.1


@dataclass(frozen=True)
class Task:
    """What is learnt, whichever arm learns it."""

    model: Path
    """Folder of the model that is started from."""
    train: Sequence[Email]
    test: Sequence[Email]
    num_steps: int
    learning_rate: float
    seed: int
    global_batch_size: int = 16
    micro_batch_size: int = 8
    sequence_length: int = 128

    @property
    def num_schedule_warm_up_steps(self) -> int:
        """Steps over which the learning rate rises."""
        return round(WARM_UP_FRACTION * self.num_steps)

    def document(self, name: str, train: Path, test: Path) -> dict[str, Any]:
        """The TrainingRun.

        Args:
            name: its name.
            train: file of the training e-mails.
            test: file of the held-out ones; they are judged once, after the last step, and choose nothing.
        """
        sources = [
            {"name": name, "uri": file.as_uri(), "format": "JsonLines", "split": split}
            for name, file, split in (("train", train, "Train"), ("test", test, "Validation"))
        ]
        return {
            "apiVersion": "trainyard.dev/v1alpha1",
            "kind": "TrainingRun",
            "metadata": {"name": name},
            "spec": {
                "fineTuning": {
                    "task": "SequenceClassification",
                    "labels": list(LABELS),
                    "evaluation": {"metric": METRIC, "keepBest": False, "bootstrapSamples": 0},
                },
                "model": {"pretrained": {"uri": self.model.as_uri()}},
                "data": {"sources": sources, "sequenceLength": self.sequence_length},
                "training": {
                    "budget": {"steps": self.num_steps},
                    "globalBatchSize": self.global_batch_size,
                    "microBatchSize": self.micro_batch_size,
                    "optimizer": {"name": "AdamW", "learningRate": self.learning_rate, **ADAM},
                    "schedule": {"name": "Linear", "warmupSteps": self.num_schedule_warm_up_steps},
                    "gradientClipping": 1.0,
                    "precision": "FP32",
                    "seed": self.seed,
                },
                "checkpoint": {"everySteps": 1_000_000},
            },
        }


@dataclass(frozen=True)
class Outcome:
    """What one arm made of a task."""

    macro_f1: float
    """On the held-out e-mails, 0 to 1."""
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
    """Train by `trainyard run` in processes of its own, as a person would.

    Args:
        task: what to learn.
        folder: where runs are kept.
        name: of the run; not used before in this folder.
    """
    train = write_source(task.train, folder / f"{name}-train.jsonl")
    test = write_source(task.test, folder / f"{name}-test.jsonl")
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(task.document(name, train, test)), encoding="utf-8")
    program = [sys.executable, "-m", "trainyard_trainer"]
    subprocess.run(
        [*program, "run", str(file), "--output", str(folder), "--quiet"], check=True, capture_output=True
    )
    run_folder = folder / name
    result = read_task_result(run_folder)
    assert result is not None, "a finished run of a task has a result"
    assert result.examples == len(task.test)
    steps = [record for record in read_history(run_folder) if record.tokens is not None]
    tokens = [record.tokens or 0 for record in steps]
    return Outcome(result.metrics[METRIC], rate_after_warm_up(tokens, [record.time for record in steps]))


def rate_after_warm_up(tokens: Sequence[int], ends: Sequence[float]) -> float:
    """Tokens per second from the end of the warm-up to the end of the last step.

    Args:
        tokens: of each step.
        ends: when each step was over, in seconds.
    """
    return sum(tokens[NUM_WARM_UP_STEPS:]) / (ends[-1] - ends[NUM_WARM_UP_STEPS - 1])


class _StepClock(TrainerCallback):
    """Notes when each optimizer step of Hugging Face Trainer ended."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002 - its API
        """Note the time."""
        self.ends.append(time.perf_counter())


class _CountingCollator(DataCollatorWithPadding):
    """Pads to the longest row of a micro-batch, as is usual, and remembers how many tokens each one had."""

    def __init__(self, tokenizer: Any) -> None:
        super().__init__(tokenizer)
        self.tokens: list[int] = []

    def __call__(self, features: list[dict[str, Any]]) -> Any:
        """One micro-batch."""
        batch = super().__call__(features)
        self.tokens.append(int(batch["attention_mask"].sum()))
        return batch


def hugging_face_outcome(task: Task, folder: Path) -> Outcome:
    """Train and judge by Hugging Face Trainer, with its usual padding, in this process."""
    tokenizer = AutoTokenizer.from_pretrained(task.model)
    torch.manual_seed(task.seed)
    model = AutoModelForSequenceClassification.from_pretrained(task.model, num_labels=len(LABELS))
    clock, collator = _StepClock(), _CountingCollator(tokenizer)
    trainer = HuggingFaceTrainer(
        model=model,
        args=_hugging_face_arguments(task, folder),
        train_dataset=_encoded(task.train, tokenizer, task.sequence_length),
        data_collator=collator,
        callbacks=[clock],
    )
    trainer.train()
    per_step = task.global_batch_size // task.micro_batch_size
    micro_batches = collator.tokens[: task.num_steps * per_step]
    tokens = [sum(micro_batches[at : at + per_step]) for at in range(0, len(micro_batches), per_step)]
    logits = trainer.predict(_encoded(task.test, tokenizer, task.sequence_length)).predictions
    predicted = np.asarray(logits).argmax(-1)
    actual = [LABELS.index(message.label) for message in task.test]
    return Outcome(macro_f1(actual, predicted.tolist()), rate_after_warm_up(tokens, clock.ends))


def _encoded(emails: Sequence[Email], tokenizer: Any, sequence_length: int) -> datasets.Dataset:
    texts = [message.text for message in emails]
    encoded = tokenizer(texts, truncation=True, max_length=sequence_length)
    labels = [LABELS.index(message.label) for message in emails]
    return datasets.Dataset.from_dict({**encoded, "labels": labels})


def _hugging_face_arguments(task: Task, folder: Path) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(folder),
        max_steps=task.num_steps,
        per_device_train_batch_size=task.micro_batch_size,
        per_device_eval_batch_size=task.micro_batch_size,
        gradient_accumulation_steps=task.global_batch_size // task.micro_batch_size,
        learning_rate=task.learning_rate,
        adam_beta1=ADAM["beta1"],
        adam_beta2=ADAM["beta2"],
        adam_epsilon=ADAM["epsilon"],
        weight_decay=ADAM["weightDecay"],
        lr_scheduler_type="linear",
        warmup_steps=task.num_schedule_warm_up_steps,
        max_grad_norm=1.0,
        dataloader_drop_last=True,
        optim="adamw_torch_fused",
        use_cpu=True,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        logging_strategy="no",
        seed=task.seed,
    )


def macro_f1(actual: Sequence[int], predicted: Sequence[int]) -> float:
    """The mean over the classes of F1, 0 for a class that is neither there nor predicted."""
    scores = []
    for label in range(len(LABELS)):
        hits = sum(a == label == p for a, p in zip(actual, predicted, strict=True))
        named = sum(a == label for a in actual) + sum(p == label for p in predicted)
        scores.append(2 * hits / named if named else 0.0)
    return sum(scores) / len(scores)
