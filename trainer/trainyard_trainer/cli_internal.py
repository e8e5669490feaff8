"""The commands that a plan starts: a node, a rank, and the stages that are no gang."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from trainyard_api.names import Stage

PlanFile = Annotated[Path, typer.Option("--plan", help="plan.json of the run.")]
GangStage = Annotated[Stage, typer.Option("--stage", help="Cache or Train.")]


def node(plan: PlanFile, stage: GangStage = Stage.TRAIN) -> None:
    """Run the ranks of one node."""
    from trainyard_trainer.node import run_node  # noqa: PLC0415

    sys.exit(run_node(plan, os.environ, stage))


def rank(plan: PlanFile, stage: GangStage = Stage.TRAIN) -> None:
    """Do the work of one rank."""
    from trainyard_trainer.rank import run_rank  # noqa: PLC0415

    run_rank(plan, stage)


def read(plan: PlanFile) -> None:
    """Read one shard of the sources."""
    from trainyard_trainer.single_stages import run_read  # noqa: PLC0415

    sys.exit(run_read(plan, os.environ))


def prepare(
    plan: PlanFile,
    cores: Annotated[int, typer.Option(min=0, help="Worker processes; 0 decides by the plan.")] = 0,
) -> None:
    """Prepare the data."""
    from trainyard_trainer.single_stages import run_prepare  # noqa: PLC0415

    sys.exit(run_prepare(plan, cores))


def export(plan: PlanFile) -> None:
    """Export the model of the last committed checkpoint."""
    from trainyard_trainer.single_stages import run_export  # noqa: PLC0415

    sys.exit(run_export(plan))
