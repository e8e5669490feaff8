"""One rank: gradients of a class-weighted loss on made-up examples, by parameter name, for each division.

usage: task_gradients.py OUTPUT.safetensors PLAN.json [PLAN.json ...]; tensors are named `<number of the
    plan>/<parameter>`, the mean loss `<number of the plan>/loss`.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from tests.support.task_examples import CLASS_WEIGHTS, LABELS, TOKEN_IDS, tiny_classifier
from trainyard_api.plan import RunPlan
from trainyard_trainer.checkpoint import TrainState
from trainyard_trainer.data.labelled.dataset import LabelledSample
from trainyard_trainer.distributed import Ranks, join_gang, leave_gang
from trainyard_trainer.engine import build_engine
from trainyard_trainer.methods.loss_terms import DATA_TERM, term_factors, term_means
from trainyard_trainer.models.task_model import TaskLoss, TaskModel
from trainyard_trainer.recorder import Recorder
from trainyard_trainer.signals import StopRequest
from trainyard_trainer.startup import Startup
from trainyard_trainer.task_batches import Collator, TaskBatch
from trainyard_trainer.train import Trainer, agree_on_step


class MadeUpSupply:
    """Gives a rank its share of the examples, as a run's supply does."""

    def __init__(self, plan: RunPlan, rank: int) -> None:
        self._batch = plan.batch
        self._rank = rank
        self._collator = Collator("Class", 0, CLASS_WEIGHTS.numpy())

    def step_batches(self, step: int) -> list[TaskBatch]:
        """The only step's micro-batches."""
        assert step == 0, "there is no other step"
        micro = self._batch.micro_batch_size
        starts = [
            (number * self._batch.world_size + self._rank) * micro
            for number in range(self._batch.accumulation_steps)
        ]
        return [
            self._collator.collate([sample(row) for row in range(start, start + micro)], range(micro), start)
            for start in starts
        ]

    def evaluation_batches(self, maximum_rows: int | None) -> Iterator[TaskBatch]:
        """None: nothing is held out."""
        del maximum_rows
        return iter(())


def sample(row: int) -> LabelledSample:
    """One of the examples, without its padding."""
    tokens = TOKEN_IDS[row][TOKEN_IDS[row] != 0].int().numpy()
    return LabelledSample(tokens, np.zeros(len(tokens), dtype=np.uint8), int(LABELS[row]))


def build_trainer(plan: RunPlan, ranks: Ranks) -> Trainer:
    """A trainer as a run has it, of a model and examples that no file holds."""
    model = TaskModel(tiny_classifier(), TaskLoss("SingleLabel"), CLASS_WEIGHTS)
    return Trainer(
        plan=plan,
        ranks=ranks,
        engine=build_engine(plan, model, ranks),
        terms=(DATA_TERM,),
        source=MadeUpSupply(plan, ranks.rank),
        writer=None,
        recorder=Recorder(None, 0, lambda: 0.0),
        stop=StopRequest(),
        startup=Startup(lambda: 0.0, 0.0),
        state=TrainState(),
        data_hash="",
        planned_steps=1,
        evaluator=None,
        clock=lambda: 0.0,
    )


def gradients(trainer: Trainer) -> dict[str, torch.Tensor]:
    """Whole gradients of one optimizer step, averaged over the ranks by DeepSpeed, and its loss."""
    engine = trainer.engine
    engine.eval()
    micro_batches = trainer.source.step_batches(0)
    factors = term_factors(trainer.terms, agree_on_step(trainer, micro_batches))
    loss_sum = 0.0
    for index, batch in enumerate(micro_batches):
        loss = engine.forward(batch).reshape(-1)
        loss_sum += float(loss.detach())
        engine.backward(loss, torch.tensor(factors))
        if index < len(micro_batches) - 1:
            engine.mark_micro_step()
    [mean] = term_means(trainer.terms, factors, trainer.ranks.sums([loss_sum])).values()
    found = {
        name: parameter.grad.clone() for name, parameter in engine.deepspeed_engine.module.named_parameters()
    }
    return {**found, "loss": torch.tensor(mean)}


def main() -> None:
    """Join once, then build one engine per plan."""
    output, *plans = map(Path, sys.argv[1:])
    tensors: dict[str, torch.Tensor] = {}
    for number, path in enumerate(plans):
        plan = RunPlan.model_validate_json(path.read_text())
        ranks = join_gang(plan)
        found = gradients(build_trainer(plan, ranks))
        tensors |= {f"{number}/{name}": value for name, value in found.items()}
    if ranks.is_first:
        save_file(tensors, output)
    leave_gang()


if __name__ == "__main__":
    main()
