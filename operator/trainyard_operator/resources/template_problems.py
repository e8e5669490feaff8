"""What is wrong with the parts of a TrainingRun that only a cluster reads, above all its podTemplate."""

from trainyard_api.errors import ConfigurationError
from trainyard_api.names import Stage
from trainyard_api.problems import Problem
from trainyard_api.spec import TrainingRun
from trainyard_operator.resources.cluster_plan import plan_for_cluster
from trainyard_operator.resources.facts import Owner, WorkerDefaults
from trainyard_operator.resources.rendered_template import rendered_template


def problems_of_templates(run: TrainingRun, defaults: WorkerDefaults) -> list[Problem]:
    """The problems of a valid run on a cluster; none when its pods can be built."""
    owner = Owner(run.metadata.name, run.metadata.namespace, uid="")
    plan = plan_for_cluster(run, owner, 0, defaults)
    try:
        rendered_template(owner, plan, Stage.TRAIN, (), defaults)
    except ConfigurationError as error:
        return [Problem(error.where, error.problem, error.remedy)]
    return []
