"""One rank: train each plan to its end in this process and store the losses.

usage: losses.py OUTPUT.json PLAN.json [PLAN.json ...]
"""

import json
import sys
from pathlib import Path

from trainyard_api.names import ExitCode
from trainyard_api.plan import RunPlan
from trainyard_trainer.distributed import join_gang, leave_gang
from trainyard_trainer.progress import read_history
from trainyard_trainer.signals import StopRequest
from trainyard_trainer.train import Startup, run, set_up


def main() -> None:
    """Join once, then run plan after plan."""
    output, *plans = map(Path, sys.argv[1:])
    losses = []
    for path in plans:
        plan = RunPlan.model_validate_json(path.read_text())
        ranks = join_gang(plan)
        trainer = set_up(plan, ranks, StopRequest(), Startup(lambda: 0.0, 0.0), lambda: 0.0)
        assert run(trainer) is ExitCode.SUCCEEDED
        ranks.barrier()
        history = read_history(Path(plan.paths.run_folder))
        losses.append([record.loss for record in history if record.loss is not None])
    if ranks.is_first:
        output.write_text(json.dumps(losses))
    leave_gang()


if __name__ == "__main__":
    main()
