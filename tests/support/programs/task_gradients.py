"""One rank: gradients of a class-weighted loss on made-up examples, by parameter name, for each division.

usage: task_gradients.py OUTPUT.safetensors PLAN.json [PLAN.json ...]; tensors are named `<number of the
    plan>/<parameter>`, the mean loss `<number of the plan>/loss`.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file

from tests.support.task_examples import CLASS_WEIGHTS, LABELS, TOKEN_IDS, tiny_classifier
from trainyard_api.plan import RunPlan
from trainyard_trainer.distributed import Ranks, join_gang, leave_gang
from trainyard_trainer.engine import build_engine
from trainyard_trainer.models.task_model import TaskLoss, TaskModel


@dataclass(frozen=True)
class MadeUpBatch:
    """Some of the examples."""

    rows: slice

    @property
    def labels(self) -> torch.Tensor:
        """The classes."""
        return LABELS[self.rows]

    @property
    def loss_weight(self) -> float:
        """Sum of the weights of its classes."""
        return float(CLASS_WEIGHTS[self.labels].sum())

    @property
    def num_labels(self) -> int:
        """Examples."""
        return len(self.labels)

    @property
    def num_tokens(self) -> int:
        """Tokens."""
        return int((TOKEN_IDS[self.rows] != 0).sum())

    @property
    def num_positions(self) -> int:
        """Positions."""
        return TOKEN_IDS[self.rows].numel()

    @property
    def num_compared(self) -> int:
        """Places that are compared with a teacher."""
        return 0

    @property
    def first_row(self) -> int:
        """First example."""
        return int(self.rows.start)

    def model_arguments(self, device: torch.device) -> tuple[torch.Tensor, ...]:
        """The tensors of a task's batch."""
        tokens = TOKEN_IDS[self.rows]
        tensors = (tokens, (tokens != 0).long(), torch.zeros_like(tokens), self.labels, self.labels)
        return tuple(tensor.to(device) for tensor in tensors)


def gradients(plan: RunPlan, ranks: Ranks) -> dict[str, torch.Tensor]:
    """Whole gradients of one optimizer step, averaged over the ranks by DeepSpeed, and its loss."""
    model = TaskModel(tiny_classifier(), TaskLoss("SingleLabel"), CLASS_WEIGHTS)
    engine = build_engine(plan, model, ranks)
    engine.eval()
    micro = plan.batch.micro_batch_size
    starts = [
        (number * ranks.world_size + ranks.rank) * micro for number in range(plan.batch.accumulation_steps)
    ]
    batches = [MadeUpBatch(slice(start, start + micro)) for start in starts]
    weight = ranks.sums([sum(batch.loss_weight for batch in batches)])[0]
    loss_sum = 0.0
    for index, batch in enumerate(batches):
        loss = engine.forward(batch)
        loss_sum += float(loss.detach())
        engine.backward(loss.reshape(1), torch.tensor([1.0 / weight]))
        if index < len(batches) - 1:
            engine.mark_micro_step()
    found = {
        name: parameter.grad.clone() for name, parameter in engine.deepspeed_engine.module.named_parameters()
    }
    return {**found, "loss": torch.tensor(ranks.sums([loss_sum])[0] / weight)}


def main() -> None:
    """Join once, then build one engine per plan."""
    output, *plans = map(Path, sys.argv[1:])
    tensors: dict[str, torch.Tensor] = {}
    for number, path in enumerate(plans):
        plan = RunPlan.model_validate_json(path.read_text())
        ranks = join_gang(plan)
        tensors |= {f"{number}/{name}": value for name, value in gradients(plan, ranks).items()}
    if ranks.is_first:
        save_file(tensors, output)
    leave_gang()


if __name__ == "__main__":
    main()
