"""One rank: train each plan without a stop, then again with a stop and a resume, and store both loss curves.

usage: optimizers.py OUTPUT.json STOP_AFTER PLAN.json [PLAN.json ...]
"""

import json
import shutil
import sys
from pathlib import Path

from tests.support.programs.losses import stop_after
from trainyard_api.names import ExitCode, File
from trainyard_api.plan import RunPlan
from trainyard_trainer.distributed import Ranks, join_gang, leave_gang
from trainyard_trainer.progress import read_history
from trainyard_trainer.signals import StopRequest
from trainyard_trainer.startup import Startup
from trainyard_trainer.train import run, set_up


def start(plan: RunPlan, ranks: Ranks, num_steps: int) -> list[float | None]:
    """Train until the end, or a stop after some steps; the losses so far."""
    trainer = set_up(plan, ranks, StopRequest(), Startup(lambda: 0.0, 0.0), lambda: 0.0)
    stop_after(trainer, num_steps)
    assert run(trainer) is (ExitCode.PREEMPTED if num_steps else ExitCode.SUCCEEDED)
    ranks.barrier()
    history = read_history(Path(plan.paths.run_folder))
    return [record.loss for record in history if record.loss is not None]


def forget(plan: RunPlan, ranks: Ranks) -> None:
    """Make it a run that has not started."""
    if ranks.is_first:
        shutil.rmtree(plan.paths.checkpoints)
        (Path(plan.paths.run_folder) / File.HISTORY).unlink()
    ranks.barrier()


def main() -> None:
    """Join once, then plan after plan."""
    output, num_steps, plans = Path(sys.argv[1]), int(sys.argv[2]), map(Path, sys.argv[3:])
    curves = {}
    for path in plans:
        plan = RunPlan.model_validate_json(path.read_text())
        ranks = join_gang(plan)
        whole = start(plan, ranks, 0)
        forget(plan, ranks)
        stopped = start(plan, ranks, num_steps)
        curves[plan.name] = {"whole": whole, "stopped": stopped, "resumed": start(plan, ranks, 0)}
    if ranks.is_first:
        output.write_text(json.dumps(curves))
    leave_gang()


if __name__ == "__main__":
    main()
