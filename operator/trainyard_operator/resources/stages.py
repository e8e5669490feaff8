"""Which kind of object runs a stage."""

from trainyard_api.names import Stage
from trainyard_api.plan import RunPlan
from trainyard_api.spec import TrainingRun
from trainyard_operator.resources.facts import Object, Owner, WorkerDefaults
from trainyard_operator.resources.jobs import build_read_job
from trainyard_operator.resources.pods import build_gang


def build_stage(
    run: TrainingRun, owner: Owner, plan: RunPlan, stage: Stage, defaults: WorkerDefaults
) -> list[Object]:
    """The one Job or the pods of a stage.

    A Job is for the shards of the sources, whose pods know nothing of each other: each may fail and be
    repeated alone. Everything else is a gang, also the single pod of the preparation (ADR 10).

    Raises:
        ConfigurationError: podTemplate cannot be merged; `problems_of_templates` tells it beforehand.
    """
    if stage is Stage.READ:
        return [build_read_job(run, owner, plan, defaults)]
    return build_gang(run, owner, plan, stage, defaults, {})
