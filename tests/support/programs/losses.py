"""One rank: train each plan to its end in this process and store the losses.

usage: losses.py OUTPUT.json STOP_AFTER PLAN.json [PLAN.json ...]; a STOP_AFTER above 0 asks every run to stop
after that many steps, as SIGTERM would.
"""

import json
import sys
from pathlib import Path

from trainyard_api.names import ExitCode
from trainyard_api.plan import RunPlan
from trainyard_trainer.cache_stage import open_writer
from trainyard_trainer.distributed import join_gang, leave_gang
from trainyard_trainer.progress import read_history
from trainyard_trainer.signals import StopRequest
from trainyard_trainer.startup import Startup
from trainyard_trainer.train import Trainer, run, set_up


def stop_after(trainer: Trainer, num_steps: int) -> None:
    """Ask to stop when a step is done, on the last rank only: the others must learn it from that one."""
    tell = trainer.recorder.step_done

    def tell_and_stop(*arguments: object) -> None:
        tell(*arguments)  # type: ignore[arg-type]
        if trainer.state.step == num_steps and trainer.ranks.rank == trainer.ranks.world_size - 1:
            trainer.stop.requested = True

    trainer.recorder.step_done = tell_and_stop  # type: ignore[assignment, method-assign]


def main() -> None:
    """Join once, then run plan after plan."""
    output, num_steps, plans = Path(sys.argv[1]), int(sys.argv[2]), map(Path, sys.argv[3:])
    losses = []
    for path in plans:
        plan = RunPlan.model_validate_json(path.read_text())
        ranks = join_gang(plan)
        if plan.spec.caches_teacher:
            open_writer(plan, ranks, StopRequest()).write()
        trainer = set_up(plan, ranks, StopRequest(), Startup(lambda: 0.0, 0.0), lambda: 0.0)
        stop_after(trainer, num_steps)
        expected = ExitCode.PREEMPTED if num_steps else ExitCode.SUCCEEDED
        assert run(trainer) is expected
        ranks.barrier()
        history = read_history(Path(plan.paths.run_folder))
        losses.append([record.loss for record in history if record.loss is not None])
    if ranks.is_first:
        output.write_text(json.dumps(losses))
    leave_gang()


if __name__ == "__main__":
    main()
