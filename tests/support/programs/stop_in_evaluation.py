"""One rank: asked to stop during the last evaluation, then started again; stores what both starts came to.

usage: stop_in_evaluation.py OUTPUT.json PLAN.json
"""

import json
import sys
from pathlib import Path

from trainyard_api.plan import RunPlan
from trainyard_trainer.checkpoint import latest_committed
from trainyard_trainer.distributed import join_gang, leave_gang
from trainyard_trainer.signals import StopRequest
from trainyard_trainer.startup import Startup
from trainyard_trainer.train import Trainer, run, set_up


def stop_when_evaluating(trainer: Trainer) -> None:
    """Ask to stop as soon as the model is put into evaluation mode."""
    put = trainer.engine.eval

    def put_and_stop() -> None:
        put()
        trainer.stop.requested = True

    trainer.engine.eval = put_and_stop  # type: ignore[method-assign]


def main() -> None:
    """Start twice."""
    output = Path(sys.argv[1])
    plan = RunPlan.model_validate_json(Path(sys.argv[2]).read_text())
    ranks = join_gang(plan)
    starts = []
    for is_stopped in (True, False):
        trainer = set_up(plan, ranks, StopRequest(), Startup(lambda: 0.0, 0.0), lambda: 0.0)
        if is_stopped:
            stop_when_evaluating(trainer)
        code = run(trainer)
        ranks.barrier()
        newest = latest_committed(trainer.checkpoints)
        assert newest is not None
        starts.append({"code": code, **newest.manifest.state.model_dump()})
    if ranks.is_first:
        output.write_text(json.dumps(starts))
    leave_gang()


if __name__ == "__main__":
    main()
