"""The arms of the training benchmarks: Trainyard's loop, Hugging Face Trainer, and a bare PyTorch loop.

All arms of a comparison see the same rows of the same prepared text with the same model, batch, optimizer,
precision and threads, in this process, one after the other. Rates are useful (non-padding) tokens per second
of wall time after a warm-up.
"""

import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import torch
from hugging_face import StepClock, without_ranks
from transformers import (
    AutoModelForMaskedLM,
    AutoTokenizer,
    DataCollatorForLanguageModeling,
    TrainingArguments,
)
from transformers import Trainer as HuggingFaceTrainer

from trainyard_api.plan import Rendezvous, RunPlan, plan_run
from trainyard_api.spec import TrainingRun
from trainyard_trainer.batches import Batch, Supply
from trainyard_trainer.checkpoint import TrainState
from trainyard_trainer.data.dataset import PreparedData, open_prepared
from trainyard_trainer.data.prepare import prepare
from trainyard_trainer.distributed import Ranks, join_gang
from trainyard_trainer.methods.objective import build_objective
from trainyard_trainer.models.language_model import LanguageModel
from trainyard_trainer.network import build_network
from trainyard_trainer.optimization.optimizers import build_optimizer
from trainyard_trainer.progress import read_history
from trainyard_trainer.recorder import StepFigures
from trainyard_trainer.signals import StopRequest
from trainyard_trainer.startup import Startup
from trainyard_trainer.train import Trainer, run, set_up
from trainyard_trainer.workload import language_model

SEED = 7
LEARNING_RATE = 1.0e-3
MASKING_PROBABILITY = 0.3


@dataclass(frozen=True)
class Workload:
    """What is trained, whichever arm trains it."""

    text: Path
    """JSON Lines with a field `text`."""
    budget: dict[str, int]
    """`steps` or `tokens`, the warm-up included."""
    num_warm_up_steps: int = 5
    """Steps that are not timed."""
    preset: str = "bert-mini"
    sequence_length: int = 128
    micro_batch_size: int = 16
    global_batch_size: int = 32
    packed: bool = True
    vocabulary_size: int = 8192
    precision: str = "FP32"
    zero_stage: int = 1
    maximum_sequences: int = 16
    """Validation rows at the end of a run."""

    def document(self) -> dict[str, Any]:
        """The TrainingRun."""
        name = f"benchmark-{'packed' if self.packed else 'padded'}-{self.zero_stage}"
        return {
            "apiVersion": "trainyard.dev/v1alpha1",
            "kind": "TrainingRun",
            "metadata": {"name": name},
            "spec": {
                "pretraining": {"objective": "MaskedLM", "masking": {"probability": MASKING_PROBABILITY}},
                "model": {"architecture": {"preset": self.preset}},
                "tokenizer": {"train": {"algorithm": "WordPiece", "vocabularySize": self.vocabulary_size}},
                "data": {
                    "sources": [{"name": "text", "uri": self.text.as_uri(), "format": "JsonLines"}],
                    "validationFraction": 0.05,
                    "sequenceLength": self.sequence_length,
                    "packing": {"enabled": self.packed},
                },
                "training": {
                    "budget": self.budget,
                    "globalBatchSize": self.global_batch_size,
                    "microBatchSize": self.micro_batch_size,
                    "optimizer": {"name": "AdamW", "learningRate": LEARNING_RATE},
                    "schedule": {"name": "Constant"},
                    "precision": self.precision,
                    "seed": SEED,
                    "evaluation": {"maximumSequences": self.maximum_sequences},
                },
                "deepspeed": {"zeroStage": self.zero_stage},
                "checkpoint": {"everySteps": 1_000_000},
            },
        }


class PreparedWorkload:
    """A workload with its text prepared.

    Args:
        workload: what to train.
        storage: folder for everything.
        threads: threads of PyTorch.
    """

    def __init__(self, workload: Workload, storage: Path, threads: int) -> None:
        self.workload = workload
        self.plan: RunPlan = plan_run(
            TrainingRun.model_validate(workload.document()),
            storage_root=str(storage),
            rendezvous=Rendezvous(address="127.0.0.1"),
            threads_per_process=threads,
        )
        self.run_folder = Path(self.plan.paths.run_folder)
        self.run_folder.mkdir(parents=True, exist_ok=True)
        prepare(self.plan, report=lambda *_: None, cores=threads, should_stop=lambda: False)
        self.ranks: Ranks = join_gang(self.plan)
        self.data: PreparedData = open_prepared(self.run_folder)

    def with_deepspeed_config(self, config: dict[str, Any]) -> None:
        """Lay a DeepSpeed configuration over Trainyard's."""
        deepspeed = self.plan.spec.deepspeed.model_copy(update={"config": config})
        spec = self.plan.spec.model_copy(update={"deepspeed": deepspeed})
        self.plan = self.plan.model_copy(update={"spec": spec})

    def trainer(self) -> Trainer:
        """Trainyard's own trainer, from random weights, in an empty run folder."""
        for name in ("checkpoints", "history.jsonl", "events.jsonl", "progress.json"):
            path = self.run_folder / name
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        return set_up(self.plan, self.ranks, StopRequest(), Startup(time.time, time.time()), time.time)

    def language_model(self) -> LanguageModel:
        """The model that Trainyard trains, from random weights, without an engine."""
        objective = build_objective(self.plan.spec, self.data.manifest)
        network = build_network(self.plan, self.data, None)
        return language_model(self.plan.spec, objective, network.model).to(self.ranks.device)

    def tokens_by_step(self) -> list[int]:
        """Useful tokens of every step of the last Trainyard run."""
        history = read_history(self.run_folder)
        return [record.tokens for record in history if record.tokens is not None]


def trainyard_rate(prepared: PreparedWorkload) -> float:
    """Rate of `trainyard_trainer.train.run`, its files and collectives included."""
    return train(prepared.trainer(), prepared)


def train(trainer: Trainer, prepared: PreparedWorkload) -> float:
    """Run a trainer to the end of its budget and return its rate."""
    ends: list[float] = []
    after_each_step(trainer, lambda: ends.append(time.perf_counter()))
    run(trainer)
    warm_up = prepared.workload.num_warm_up_steps
    return sum(prepared.tokens_by_step()[warm_up:]) / (ends[-1] - ends[warm_up - 1])


def after_each_step(trainer: Trainer, act: Callable[[], None]) -> None:
    """Have something done when a step is over and recorded."""
    tell = trainer.recorder.step_done

    def tell_and_act(state: TrainState, figures: StepFigures, total_steps: int) -> None:
        tell(state, figures, total_steps)
        act()

    trainer.recorder.step_done = tell_and_act  # type: ignore[method-assign]


def hugging_face_rate(prepared: PreparedWorkload) -> float:
    """Rate of Hugging Face Trainer with its own collator for masked language modelling."""
    workload = prepared.workload
    num_rows = workload.budget["steps"] * workload.global_batch_size
    rows = [
        prepared.data.train.sample(index % len(prepared.data.train)).token_ids for index in range(num_rows)
    ]
    tokenizer = AutoTokenizer.from_pretrained(prepared.data.tokenizer_folder)
    clock = StepClock()
    with tempfile.TemporaryDirectory() as folder, without_ranks():
        trainer = HuggingFaceTrainer(
            model=AutoModelForMaskedLM.from_config(prepared.language_model().model.config),  # type: ignore[no-untyped-call]
            args=_hugging_face_arguments(folder, prepared),
            train_dataset=datasets.Dataset.from_dict({"input_ids": [row.tolist() for row in rows]}),
            data_collator=DataCollatorForLanguageModeling(tokenizer, mlm_probability=MASKING_PROBABILITY),
            callbacks=[clock],
        )
        trainer.train()
    warm_up = workload.num_warm_up_steps
    measured = rows[warm_up * workload.global_batch_size :]
    return sum(map(len, measured)) / (clock.ends[-1] - clock.ends[warm_up - 1])


def _hugging_face_arguments(folder: str, prepared: PreparedWorkload) -> TrainingArguments:
    workload = prepared.workload
    return TrainingArguments(
        output_dir=folder,
        max_steps=workload.budget["steps"],
        per_device_train_batch_size=workload.micro_batch_size,
        gradient_accumulation_steps=workload.global_batch_size // workload.micro_batch_size,
        learning_rate=LEARNING_RATE,
        adam_beta2=0.98,
        adam_epsilon=1.0e-6,
        weight_decay=0.01,
        lr_scheduler_type="constant",
        max_grad_norm=1.0,
        bf16=workload.precision == "BF16",
        optim="adamw_torch_fused",
        use_cpu=prepared.ranks.device.type == "cpu",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        logging_strategy="no",
        seed=SEED,
    )


def seconds_beside_a_bare_loop(
    prepared: PreparedWorkload, steps_per_block: int
) -> tuple[list[float], list[float]]:
    """Seconds per step of Trainyard's loop, and of the shortest loop for the same model and rows.

    Both advance in turn by blocks of a few steps in one process, so that whatever else the machine does hits
    both alike. The bare loop's batches are made beforehand and not timed.

    Returns:
        Seconds per step of each block, the first one of each left out: (Trainyard, bare loop).
    """
    trainer = prepared.trainer()
    model = prepared.language_model()
    optimizer = build_optimizer(model.named_parameters(), prepared.plan.spec.training.optimizer)
    model.train()
    ours: list[float] = []
    bare: list[float] = []
    block_start = time.perf_counter()

    def alternate() -> None:
        nonlocal block_start
        if trainer.state.step % steps_per_block:
            return
        ours.append((time.perf_counter() - block_start) / steps_per_block)
        first = trainer.state.step - steps_per_block
        batches = [trainer.source.step_batches(first + number) for number in range(steps_per_block)]
        started = time.perf_counter()
        for micro_batches in batches:
            bare_step(model, optimizer, micro_batches, prepared.ranks.device)
        bare.append((time.perf_counter() - started) / steps_per_block)
        block_start = time.perf_counter()

    after_each_step(trainer, alternate)
    run(trainer)
    return ours[1:], bare[1:]


def bare_step(
    model: LanguageModel,
    optimizer: torch.optim.Optimizer,
    micro_batches: Sequence[Batch],
    device: torch.device,
) -> float:
    """One optimizer step with nothing but PyTorch; returns the mean loss, as a loop that logs would."""
    num_labels = sum(batch.num_labels for batch in micro_batches)
    total = 0.0
    for batch in micro_batches:
        loss = model(*batch.model_arguments(device)) / num_labels
        loss.backward()
        total += float(loss.detach())
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    return total


def held_out_loss(trainer: Trainer, source: Supply, maximum_rows: int | None) -> float:
    """Loss of a trainer's model on the validation rows of a source, in nats per predicted token."""
    trainer.engine.eval()
    loss_sum, num_labels = 0.0, 0
    with torch.no_grad():
        for batch in source.evaluation_batches(maximum_rows):
            loss_sum += float(trainer.engine.forward(batch))
            num_labels += batch.num_labels
    trainer.engine.train()
    return loss_sum / num_labels
