"""Stages that are no gang: an Indexed Job, whose pods may fail and be repeated one by one."""

from trainyard_api.names import PERMANENT_EXIT_CODES, TRAINER_CONTAINER, Environment, Label, Stage
from trainyard_api.plan import NodePlan, RunPlan
from trainyard_api.spec import TrainingRun
from trainyard_operator.resources.admission import queue_labels
from trainyard_operator.resources.facts import Object, Owner, WorkerDefaults
from trainyard_operator.resources.metadata import child_labels, child_metadata
from trainyard_operator.resources.object_names import job_name
from trainyard_operator.resources.pods import with_environment
from trainyard_operator.resources.rendered_template import rendered_template

RETRIES_PER_INDEX = 2


def build_read_job(run: TrainingRun, owner: Owner, plan: RunPlan, defaults: WorkerDefaults) -> Object:
    """The Job that reads the sources, one index per shard.

    A permanent exit code of one index fails the Job at once: its data or configuration would fail again.
    A pod that the cluster took away costs no retry. An index is only repeated when its old pod is really
    gone; two processes of one shard would not harm each other, but one of them would wait for the other.
    Fields that Kueue writes (`suspend`, what it injects into the template) are left out, so that applying
    the Job again leaves them alone.

    Raises:
        ConfigurationError: podTemplate cannot be merged; `problems_of_templates` tells it beforehand.
        ValueError: the nodes differ in more than their index, which the pods of a Job cannot.
    """
    nodes = plan.stage(Stage.READ).nodes
    argv, environment = _shared_parts(nodes)
    template = rendered_template(owner, plan, Stage.READ, argv, defaults)
    labels = {**child_labels(owner, plan.attempt, Stage.READ), Label.INCARNATION.value: "0"}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": child_metadata(
            owner, job_name(owner, Stage.READ, plan.attempt), {**labels, **queue_labels(run)}
        ),
        "spec": {
            "completionMode": "Indexed",
            "completions": len(nodes),
            "parallelism": len(nodes),
            "backoffLimitPerIndex": RETRIES_PER_INDEX,
            "maxFailedIndexes": 0,
            "podReplacementPolicy": "Failed",
            "podFailurePolicy": {"rules": _failure_rules()},
            "template": {
                "metadata": {
                    **template["metadata"],
                    "labels": {**template["metadata"]["labels"], Label.INCARNATION.value: "0"},
                },
                "spec": {
                    **template["spec"],
                    "containers": [
                        with_environment(container, environment)
                        if container["name"] == TRAINER_CONTAINER
                        else container
                        for container in template["spec"]["containers"]
                    ],
                },
            },
        },
    }


def _shared_parts(nodes: tuple[NodePlan, ...]) -> tuple[tuple[str, ...], dict[str, str]]:
    """Command line and variables of all nodes, less the index, which the Job controller adds."""
    parts = [
        (node.argv, {name: value for name, value in node.env.items() if name != Environment.SHARD_INDEX})
        for node in nodes
    ]
    if any(part != parts[0] for part in parts):
        raise ValueError("shards differ in more than JOB_COMPLETION_INDEX")
    return parts[0]


def _failure_rules() -> list[Object]:
    return [
        {
            "action": "FailJob",
            "onExitCodes": {
                "containerName": TRAINER_CONTAINER,
                "operator": "In",
                "values": sorted(int(code) for code in PERMANENT_EXIT_CODES),
            },
        },
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
    ]
