"""What a podTemplate must leave alone: the parts of a worker pod that Trainyard reads back or relies on.

Each rule compares the pod before and after the merge, so that no way of writing a patch gets around it. What
only weakens the pod's security is left to the Pod Security admission of the namespace.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from trainyard_api.names import (
    GROUP,
    TRAINER_CONTAINER,
    Environment,
    KueueName,
    Label,
    PodEnvironment,
    PodPath,
)
from trainyard_api.problems import Problem
from trainyard_operator.resources.facts import Object
from trainyard_operator.resources.pod_template import TEMPLATE_PATH
from trainyard_operator.resources.worker_pod import PLAN_VOLUME, PROGRESS_VOLUME

SPEC_REMEDIES: Mapping[str, str] = {
    "restartPolicy": "Remove it; spec.restartPolicy restarts the gang as a whole",
    "hostname": "Remove it; rank 0 is found by the host name that Trainyard sets",
    "hostnameOverride": "Remove it; rank 0 is found by the host name that Trainyard sets",
    "subdomain": "Remove it; rank 0 is found in the Service that Trainyard makes",
    "activeDeadlineSeconds": "Set spec.activeDeadlineSeconds, which counts over restarts and suspensions",
    "priorityClassName": "Set spec.scheduling.priorityClassName",
    "ephemeralContainers": "Remove them; Kubernetes adds them to running pods only, by kubectl debug",
}
"""Fields of the pod's spec and what to do instead."""
CONTAINER_REMEDIES: Mapping[str, str] = {
    "command": "Remove it; the plan decides the command line",
    "args": "Remove it; the plan decides the command line",
    "image": "Set spec.workers.image",
    "restartPolicy": "Remove it; spec.restartPolicy restarts the gang as a whole",
    "restartPolicyRules": "Remove it; spec.restartPolicy restarts the gang as a whole",
    "terminationMessagePath": "Remove it; the operator reads there why the container ended",
    "terminationMessagePolicy": "Remove it; the operator reads there why the container ended",
    "stdin": "Remove it; the trainer takes a closed standard input for the end of its runner",
    "stdinOnce": "Remove it; the trainer takes a closed standard input for the end of its runner",
    "tty": "Remove it; nothing is attached to the trainer",
}
"""Fields of the worker container and what to do instead."""
QUEUE_REMEDIES: Mapping[str, str] = {
    KueueName.QUEUE: "Set spec.scheduling.queueName",
    KueueName.PRIORITY_CLASS: "Set it as a label of the TrainingRun itself",
    KueueName.POD_GROUP: "Remove it; each attempt is a group",
    KueueName.POD_GROUP_TOTAL: "Remove it; spec.workers.nodes is the count",
    KueueName.RETRIABLE_IN_GROUP: "Remove it; an attempt ends with its first failed pod",
}
"""Labels and annotations of Kueue that follow from the run, and what to do instead."""
RESERVED_VARIABLES = frozenset(
    {
        *Environment,
        *PodEnvironment,
        "RANK",
        "LOCAL_RANK",
        "GROUP_RANK",
        "WORLD_SIZE",
        "LOCAL_WORLD_SIZE",
        "MASTER_ADDR",
        "MASTER_PORT",
    }
)
RESERVED_PREFIXES = ("PET_", "TRAINYARD_", "KUBEFLOW_TRAINER_")
"""Variables of the rendezvous and of Trainyard itself."""
OWNED_VOLUMES = (PLAN_VOLUME, PROGRESS_VOLUME)
OWNED_MOUNTS = (PodPath.PLAN_FOLDER, PodPath.PROGRESS_FOLDER, PodPath.DATA)

_SPEC = f"{TEMPLATE_PATH}.spec"


def ownership_problems(template: Object, base: Object, merged: Object, resource_name: str) -> list[Problem]:
    """What the template changes that it must not.

    Args:
        template: the run's podTemplate.
        base: the pod template before the merge.
        merged: the pod template after it.
        resource_name: extended resource of the run's accelerator.
    """
    return [
        *_metadata_problems(template, base, merged),
        *_changed(base["spec"], merged["spec"], SPEC_REMEDIES, _SPEC),
        *_list_problems(base["spec"], merged["spec"], "volumes", OWNED_VOLUMES),
        *_container_problems(base["spec"], merged["spec"], resource_name),
    ]


def _metadata_problems(template: Object, base: Object, merged: Object) -> Iterator[Problem]:
    """Metadata other than labels and annotations of the author's own."""
    metadata = template.get("metadata") or {}
    path = f"{TEMPLATE_PATH}.metadata"
    for key in metadata:
        if key not in ("labels", "annotations", "$patch", "$retainKeys"):
            yield Problem(f"{path}.{key}", "only labels and annotations can be set", "Remove it")
    for kind in ("labels", "annotations"):
        for key in metadata.get(kind) or {}:
            owner = key.partition("/")[0]
            if key == Label.MANAGED_BY or owner == GROUP:
                yield Problem(f"{path}.{kind}.{key}", "Trainyard finds its pods by it", "Choose another name")
            elif key in QUEUE_REMEDIES:
                yield Problem(f"{path}.{kind}.{key}", "Trainyard sets it", QUEUE_REMEDIES[key])
    left = merged.get("metadata", {}).get("labels", {})
    if base["metadata"]["labels"].keys() - left.keys() - (metadata.get("labels") or {}).keys():
        yield Problem(
            f"{path}.labels",
            "the template takes labels away by which Trainyard finds its pods",
            "Add labels only",
        )


def _changed(base: Object, merged: Object, remedies: Mapping[str, str], path: str) -> Iterator[Problem]:
    """Fields that differ after the merge."""
    for key, remedy in remedies.items():
        if base.get(key) != merged.get(key):
            yield Problem(f"{path}.{key}", "Trainyard decides this field", remedy)


def _list_problems(base: Object, merged: Object, name: str, owned: tuple[str, ...]) -> Iterator[Problem]:
    """Elements of a list by name that differ after the merge."""
    before, after = _by(base.get(name), "name"), _by(merged.get(name), "name")
    for key in owned:
        if before.get(key) != after.get(key):
            yield Problem(
                f"{_SPEC}.{name}[{key}]",
                "Trainyard brings the plan and the pod's identity in it",
                "Choose another name",
            )


def _container_problems(base: Object, merged: Object, resource: str) -> Iterator[Problem]:
    """Changes to the worker container."""
    before = _by(base["containers"], "name")[TRAINER_CONTAINER]
    after = _by(merged["containers"], "name")[TRAINER_CONTAINER]
    path = f"{_SPEC}.containers[{TRAINER_CONTAINER}]"
    yield from _changed(before, after, CONTAINER_REMEDIES, path)
    mounts = _by(before.get("volumeMounts"), "mountPath"), _by(after.get("volumeMounts"), "mountPath")
    for place in OWNED_MOUNTS:
        if mounts[0].get(place) != mounts[1].get(place):
            yield Problem(
                f"{path}.volumeMounts[{place.value}]",
                "Trainyard mounts plan, storage or identity there",
                "Mount at another path; one below /data is fine",
            )
    yield from _variable_problems(_by(before.get("env"), "name"), _by(after.get("env"), "name"), path)
    for key in ("limits", "requests"):
        amounts = [(container.get("resources") or {}).get(key) or {} for container in (before, after)]
        if amounts[0].get(resource) != amounts[1].get(resource):
            yield Problem(
                f"{path}.resources.{key}",
                f"{resource} is set here",
                "Set spec.workers.accelerator.count instead",
            )


def _variable_problems(before: Object, after: Object, path: str) -> Iterator[Problem]:
    """Variables that carry rank, rendezvous or identity."""
    for name in sorted({*before, *after}):
        reserved = name in RESERVED_VARIABLES or name.startswith(RESERVED_PREFIXES)
        if reserved and before.get(name) != after.get(name):
            yield Problem(f"{path}.env[{name}]", "Trainyard sets this variable", "Choose another name")


def _by(entries: Any, key: str) -> dict[str, Any]:
    """Elements of a list by a field."""
    return {entry[key]: entry for entry in entries or []}
