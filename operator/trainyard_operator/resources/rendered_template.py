"""The pod template of a stage: Trainyard's pod with the run's podTemplate merged over it."""

from trainyard_api.errors import ConfigurationError
from trainyard_api.names import TRAINER_CONTAINER, PodPath, Stage
from trainyard_api.plan import RunPlan
from trainyard_api.quantities import format_bytes, parse_quantity
from trainyard_operator.resources.facts import Object, Owner, WorkerDefaults
from trainyard_operator.resources.metadata import child_labels
from trainyard_operator.resources.pod_template import TEMPLATE_PATH, strategic_merge
from trainyard_operator.resources.worker_pod import worker_pod_spec


def base_template(
    owner: Owner, plan: RunPlan, stage: Stage, argv: tuple[str, ...], defaults: WorkerDefaults
) -> Object:
    """The pod template before the run's podTemplate."""
    return {
        "metadata": {"labels": child_labels(owner, plan.attempt, stage)},
        "spec": worker_pod_spec(owner, plan, stage, argv, defaults),
    }


def merged_template(base: Object, plan: RunPlan) -> Object:
    """The pod template after the run's podTemplate.

    Raises:
        ConfigurationError: podTemplate cannot be merged, or takes the worker container away.
    """
    merged = strategic_merge(base, plan.spec.workers.pod_template, TEMPLATE_PATH)
    containers = merged.get("spec", {}).get("containers", [])
    if not any(container["name"] == TRAINER_CONTAINER for container in containers):
        raise ConfigurationError(
            f"{TEMPLATE_PATH}.spec.containers",
            f"the template takes the container {TRAINER_CONTAINER} away",
            "Leave it in, and change its fields where you need to",
        )
    return merged


def rendered_template(
    owner: Owner, plan: RunPlan, stage: Stage, argv: tuple[str, ...], defaults: WorkerDefaults
) -> Object:
    """The pod template of a stage, ready for use.

    Raises:
        ConfigurationError: podTemplate cannot be merged.
    """
    return _with_counted_memory(merged_template(base_template(owner, plan, stage, argv, defaults), plan))


def _with_counted_memory(template: Object) -> Object:
    """The template with the shared memory added to the memory of the worker container.

    Pages of a memory-backed volume count as memory of the container that wrote them: without the addition, a
    full /dev/shm would take the place of what the user meant for the processes, and end in an OOM kill.
    """
    extra = _shared_memory(template["spec"])
    if not extra:
        return template
    containers = [
        {**container, "resources": _with_more_memory(container.get("resources", {}), extra)}
        if container["name"] == TRAINER_CONTAINER
        else container
        for container in template["spec"]["containers"]
    ]
    return {**template, "spec": {**template["spec"], "containers": containers}}


def _shared_memory(spec: Object) -> int:
    """Bytes of the memory-backed volume at /dev/shm of the worker container."""
    container = next(entry for entry in spec["containers"] if entry["name"] == TRAINER_CONTAINER)
    volumes = {
        mount["name"]
        for mount in container.get("volumeMounts", [])
        if mount["mountPath"] == PodPath.SHARED_MEMORY
    }
    sizes = (
        parse_quantity(volume["emptyDir"].get("sizeLimit"))
        for volume in spec.get("volumes", [])
        if volume["name"] in volumes and volume.get("emptyDir", {}).get("medium") == "Memory"
    )
    return int(next((size for size in sizes if size is not None), 0))


def _with_more_memory(resources: Object, extra: int) -> Object:
    """Resource requirements with bytes added to the memory that is limited or requested."""
    changed = dict(resources)
    for key in ("limits", "requests"):
        amounts = resources.get(key, {})
        memory = parse_quantity(amounts.get("memory"))
        if memory is not None:
            changed[key] = {**amounts, "memory": format_bytes(int(memory) + extra)}
    return changed
