"""One rank: the gradients of the first optimizer step of each plan, before the update, by parameter name.

usage: gradients.py OUTPUT.safetensors PLAN.json [PLAN.json ...]; tensors are named `<number of the
    plan>/<parameter>`.
"""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from trainyard_api.plan import RunPlan
from trainyard_trainer.distributed import join_gang, leave_gang
from trainyard_trainer.methods.loss_terms import term_factors
from trainyard_trainer.signals import StopRequest
from trainyard_trainer.startup import Startup
from trainyard_trainer.train import Trainer, agree_on_step, set_up


def gradients(trainer: Trainer) -> dict[str, torch.Tensor]:
    """Whole gradients after the step's last backward pass, averaged over the ranks by DeepSpeed."""
    micro_batches = trainer.source.step_batches(0)
    counts = agree_on_step(trainer, micro_batches)
    engine = trainer.engine
    factors = torch.tensor(term_factors(trainer.terms, counts))
    for batch in micro_batches[:-1]:
        engine.backward(engine.forward(batch).reshape(-1), factors)
        engine.mark_micro_step()
    engine.backward(engine.forward(micro_batches[-1]).reshape(-1), factors)
    return {
        name: parameter.grad.clone() for name, parameter in engine.deepspeed_engine.module.named_parameters()
    }


def main() -> None:
    """Join once, then build one engine per plan."""
    output, *plans = map(Path, sys.argv[1:])
    tensors: dict[str, torch.Tensor] = {}
    for number, path in enumerate(plans):
        plan = RunPlan.model_validate_json(path.read_text())
        ranks = join_gang(plan)
        trainer = set_up(plan, ranks, StopRequest(), Startup(lambda: 0.0, 0.0), lambda: 0.0)
        trainer.engine.train()
        tensors |= {f"{number}/{name}": value for name, value in gradients(trainer).items()}
    if ranks.is_first:
        save_file(tensors, output)
    leave_gang()


if __name__ == "__main__":
    main()
