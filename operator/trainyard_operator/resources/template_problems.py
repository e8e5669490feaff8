"""What is wrong with the parts of a TrainingRun that only a cluster reads, above all its podTemplate."""

from collections.abc import Iterator

from trainyard_api.errors import ConfigurationError
from trainyard_api.names import Stage
from trainyard_api.problems import Problem
from trainyard_api.spec import TrainingRun
from trainyard_operator.resources.cluster_plan import plan_for_cluster
from trainyard_operator.resources.facts import Owner, WorkerDefaults
from trainyard_operator.resources.pod_template import TEMPLATE_PATH
from trainyard_operator.resources.rendered_template import base_template, merged_template
from trainyard_operator.resources.template_fields import field_problems
from trainyard_operator.resources.template_rules import ownership_problems


def problems_of_templates(run: TrainingRun, defaults: WorkerDefaults) -> list[Problem]:
    """The problems on a cluster of a run that is valid by the API; none when its pods can be built."""
    return [*_setting_problems(run, defaults), *template_problems(run, defaults)]


def _setting_problems(run: TrainingRun, defaults: WorkerDefaults) -> Iterator[Problem]:
    """Fields that a laptop does without and a cluster does not."""
    if not (run.spec.workers.image or defaults.image):
        yield Problem(
            "spec.workers.image",
            "it is empty and the operator has no default",
            "Set it to an image with the trainer",
        )
    storage = run.spec.storage
    if storage.uri is not None:
        yield Problem(
            "spec.storage.uri",
            f"{storage.uri} is a folder of one machine, and the pods of a run share their storage",
            "Set spec.storage.volumeClaim.claimName instead",
        )
    elif storage.volume_claim is None and not defaults.default_claim_name:
        yield Problem(
            "spec.storage.volumeClaim",
            "it is missing and the operator has no default",
            "Set claimName to a PersistentVolumeClaim that all nodes can write (ReadWriteMany)",
        )


def template_problems(run: TrainingRun, defaults: WorkerDefaults) -> list[Problem]:
    """The problems of podTemplate: its fields first, as a merge of wrong ones would only confuse."""
    template = run.spec.workers.pod_template
    if not template:
        return []
    problems = list(field_problems(template, TEMPLATE_PATH))
    if problems:
        return problems
    owner = Owner(run.metadata.name, run.metadata.namespace, uid="")
    plan = plan_for_cluster(run, owner, 0, defaults)
    base = base_template(owner, plan, Stage.TRAIN, (), defaults)
    try:
        merged = merged_template(base, plan)
    except ConfigurationError as error:
        return [Problem(error.where, error.problem, error.remedy)]
    return ownership_problems(template, base, merged, run.spec.workers.accelerator.resource_name)
