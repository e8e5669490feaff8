"""The commands that a plan starts: a node, a rank, and the stages that are no gang."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

PlanFile = Annotated[Path, typer.Option("--plan", help="plan.json of the run.")]


def node(plan: PlanFile) -> None:
    """Run the ranks of one node."""
    from trainyard_trainer.node import run_node  # noqa: PLC0415

    sys.exit(run_node(plan, os.environ))


def rank(plan: PlanFile) -> None:
    """Train one rank."""
    from trainyard_trainer.rank import run_rank  # noqa: PLC0415

    run_rank(plan)


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
