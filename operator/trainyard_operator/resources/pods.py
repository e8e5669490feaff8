"""Gangs: the pods of a stage that live and die together."""

from collections.abc import Mapping

from trainyard_api.names import TRAINER_CONTAINER, Label, Stage
from trainyard_api.plan import NodePlan, RunPlan
from trainyard_api.spec import TrainingRun
from trainyard_operator.resources.admission import pod_group_metadata
from trainyard_operator.resources.facts import Object, Owner, WorkerDefaults
from trainyard_operator.resources.metadata import child_metadata
from trainyard_operator.resources.object_names import gang_name, hostname, pod_name, service_name
from trainyard_operator.resources.rendered_template import rendered_template


def build_gang(  # noqa: PLR0913, PLR0917 - what decides a pod, in the order of the other builders
    run: TrainingRun,
    owner: Owner,
    plan: RunPlan,
    stage: Stage,
    defaults: WorkerDefaults,
    incarnations: Mapping[int, int],
) -> list[Object]:
    """The pods of a stage, by index.

    Args:
        run: the run.
        owner: the run as the API server knows it.
        plan: the plan of the attempt.
        stage: a stage that is a gang.
        defaults: settings of the operator.
        incarnations: number of the pod at each index; 0 where it is missing.

    Raises:
        ConfigurationError: podTemplate cannot be merged; `problems_of_templates` tells it beforehand.
    """
    nodes = plan.stage(stage).nodes
    template = rendered_template(owner, plan, stage, nodes[0].argv, defaults)
    labels, annotations = pod_group_metadata(run, gang_name(owner, stage, plan.attempt), len(nodes))
    metadata = {
        "labels": {**template["metadata"]["labels"], **labels},
        "annotations": {**template["metadata"].get("annotations", {}), **annotations},
    }
    template = {"metadata": metadata, "spec": template["spec"]}
    return [
        _pod(
            owner,
            template,
            stage=stage,
            attempt=plan.attempt,
            node=node,
            incarnation=incarnations.get(node.index, 0),
        )
        for node in nodes
    ]


def _pod(  # noqa: PLR0913 - what makes one pod differ from the next
    owner: Owner, template: Object, *, stage: Stage, attempt: int, node: NodePlan, incarnation: int
) -> Object:
    """One pod: the template with its own name, place and variables."""
    metadata = child_metadata(
        owner,
        pod_name(owner, stage, attempt, node.index, incarnation),
        {
            **template["metadata"]["labels"],
            Label.NODE_INDEX.value: str(node.index),
            Label.INCARNATION.value: str(incarnation),
        },
    )
    if template["metadata"]["annotations"]:
        metadata["annotations"] = template["metadata"]["annotations"]
    containers = [
        with_environment(container, node.env) if container["name"] == TRAINER_CONTAINER else container
        for container in template["spec"]["containers"]
    ]
    spec = {
        **template["spec"],
        "hostname": hostname(stage, attempt, node.index),
        "subdomain": service_name(owner),
        "containers": containers,
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def with_environment(container: Object, environment: Mapping[str, str]) -> Object:
    """A container with variables of the plan first, so that those of podTemplate may refer to them."""
    own = [{"name": str(name), "value": value} for name, value in environment.items()]
    return {**container, "env": [*own, *container.get("env", [])]}
