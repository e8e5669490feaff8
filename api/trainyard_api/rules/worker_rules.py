"""Rules of the worker pods."""

import math
import re
from collections.abc import Iterable
from typing import Any

from trainyard_api.problems import Problem
from trainyard_api.quantities import parse_quantity
from trainyard_api.rules.rule import Rule, predicate_rule
from trainyard_api.spec import TrainingRun

_RESOURCE_KEYS = ("limits", "requests", "claims")
_POD_TEMPLATE_KEYS = ("metadata", "spec")
_IMAGE = "^[A-Za-z0-9][A-Za-z0-9._:/@-]*$"
_EXTENDED_RESOURCE = "^[a-z0-9]([a-z0-9.-]*[a-z0-9])?/[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$"
_OBJECT_NAME = "^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$"
_MAXIMUM_LABEL_LENGTH = 63
_MAXIMUM_NAME_LENGTH = 253
_TPU = "google.com/tpu"
_TPU_ACCELERATOR = "cloud.google.com/gke-tpu-accelerator"
_TPU_TOPOLOGY = "cloud.google.com/gke-tpu-topology"


def _resource_problems(run: TrainingRun) -> Iterable[Problem]:
    """Resources that are not Kubernetes resource requirements, or that repeat the accelerator."""
    resources = run.spec.workers.resources
    for key in resources:
        if key not in _RESOURCE_KEYS:
            yield Problem(
                f"spec.workers.resources.{key}",
                "Kubernetes resource requirements have only limits, requests and claims",
                f"Write {{limits: {{{key}: ...}}}} or {{requests: {{{key}: ...}}}}",
            )
    accelerator = run.spec.workers.accelerator.resource_name
    for key in ("limits", "requests"):
        amounts = resources.get(key, {})
        if not isinstance(amounts, dict):
            yield Problem(
                f"spec.workers.resources.{key}", "it is not an object", "Write {cpu: ..., memory: ...}"
            )
            continue
        if accelerator in amounts:
            yield Problem(
                f"spec.workers.resources.{key}",
                f"{accelerator} is set here",
                "Set workers.accelerator.count instead",
            )
        for name, amount in amounts.items():
            if parse_quantity(amount) is None:
                yield Problem(
                    f"spec.workers.resources.{key}.{name}",
                    f"{amount!r} is no quantity",
                    "Write an amount such as 500m, 2 or 16Gi",
                )
    yield from _inverted_resource_problems(resources.get("limits"), resources.get("requests"))


def _inverted_resource_problems(limits: Any, requests: Any) -> Iterable[Problem]:
    """Requests above their limits."""
    if not isinstance(limits, dict) or not isinstance(requests, dict):
        return
    for name in sorted(limits.keys() & requests.keys()):
        limit, request = parse_quantity(limits[name]), parse_quantity(requests[name])
        if limit is not None and request is not None and request > limit:
            yield Problem(
                f"spec.workers.resources.requests.{name}",
                f"{requests[name]} is above the limit {limits[name]}",
                "Lower it, or raise the limit",
            )


def _pod_template_problems(run: TrainingRun) -> Iterable[Problem]:
    """Pod fields written at the wrong level."""
    for key, value in run.spec.workers.pod_template.items():
        if key not in _POD_TEMPLATE_KEYS:
            yield Problem(
                f"spec.workers.podTemplate.{key}",
                "a pod template has only metadata and spec",
                f"Write podTemplate: {{spec: {{{key}: ...}}}}",
            )
        elif not isinstance(value, dict):
            yield Problem(
                f"spec.workers.podTemplate.{key}", "it is not an object", "Write its fields, or remove it"
            )


def _tpu_problems(run: TrainingRun) -> Iterable[Problem]:
    """TPUs without the node selectors that choose a slice, or in another number than the slice has.

    GKE places TPU pods by these two labels, and a slice is used as a whole (GKE, "Deploy TPU workloads").
    """
    workers = run.spec.workers
    if workers.accelerator.resource_name != _TPU or not workers.accelerator.count:
        return
    spec = workers.pod_template.get("spec")
    selector = spec.get("nodeSelector") if isinstance(spec, dict) else None
    labels = selector if isinstance(selector, dict) else {}
    for label, example in ((_TPU_ACCELERATOR, "tpu-v5-lite-podslice"), (_TPU_TOPOLOGY, "2x4")):
        if label not in labels:
            yield Problem(
                "spec.workers.podTemplate.spec.nodeSelector",
                f"TPU pods need the node label {label}",
                f"Add {label}: {example}, with the value of your slice",
            )
    topology = labels.get(_TPU_TOPOLOGY)
    if topology is None:
        return
    if not isinstance(topology, str) or not re.fullmatch(r"[1-9][0-9]{0,4}(x[1-9][0-9]{0,4}){1,2}", topology):
        yield Problem(
            f"spec.workers.podTemplate.spec.nodeSelector.{_TPU_TOPOLOGY}",
            f"{topology!r} is no topology",
            "Write it as 2x4 or 4x4x4",
        )
        return
    chips = math.prod(int(side) for side in topology.split("x"))
    if workers.nodes * workers.accelerator.count % chips:
        yield Problem(
            "spec.workers.accelerator.count",
            f"nodes {workers.nodes} x count {workers.accelerator.count} is no multiple of the {chips} chips "
            f"of a slice {topology}",
            "Set nodes and count so that they use whole slices",
        )


WORKER_RULES: tuple[Rule, ...] = (
    predicate_rule(
        path="spec.workers.processesPerNode",
        fields=("spec.workers.processesPerNode", "spec.workers.accelerator"),
        holds=lambda spec: spec.workers.accelerator.count in (0, spec.workers.processes_per_node),
        problem="processesPerNode differs from accelerator.count, so devices would idle or be shared",
        remedy="Set both to the number of devices of a worker pod",
        node="spec.workers",
        cel="self.accelerator.count == 0 || self.accelerator.count == self.processesPerNode",
    ),
    Rule(
        fields=("spec.workers.resources", "spec.workers.accelerator"),
        problem="resources are no Kubernetes resource requirements, or repeat the accelerator",
        remedy="Write limits and requests, and the devices in workers.accelerator",
        check=_resource_problems,
    ),
    Rule(
        fields=("spec.workers.podTemplate",),
        problem="podTemplate has fields other than metadata and spec",
        remedy="Write pod fields under podTemplate.spec",
        check=_pod_template_problems,
    ),
    Rule(
        fields=("spec.workers.podTemplate", "spec.workers.accelerator"),
        problem="TPUs lack the node selectors of their slice, or do not fill it",
        remedy=f"Set {_TPU_ACCELERATOR} and {_TPU_TOPOLOGY} in podTemplate.spec.nodeSelector",
        check=_tpu_problems,
    ),
    predicate_rule(
        path="spec.workers.image",
        fields=("spec.workers.image",),
        holds=lambda spec: not spec.workers.image or bool(re.fullmatch(_IMAGE, spec.workers.image)),
        problem="it is no reference of an image",
        remedy="Write registry/name:tag or registry/name@sha256:digest, without spaces",
        node="spec.workers",
        cel=f"self.image == '' || self.image.matches('{_IMAGE}')",
    ),
    predicate_rule(
        path="spec.workers.accelerator.resourceName",
        fields=("spec.workers.accelerator",),
        holds=lambda spec: bool(re.fullmatch(_EXTENDED_RESOURCE, spec.workers.accelerator.resource_name)),
        problem="it is no extended resource, whose names are domain/name",
        remedy="Write nvidia.com/gpu, amd.com/gpu, google.com/tpu, habana.ai/gaudi or what your nodes offer",
        node="spec.workers.accelerator",
        cel=f"self.resourceName.matches('{_EXTENDED_RESOURCE}')",
    ),
    predicate_rule(
        path="spec.scheduling.queueName",
        fields=("spec.scheduling.queueName",),
        holds=lambda spec: (
            not spec.scheduling.queue_name
            or (
                len(spec.scheduling.queue_name) <= _MAXIMUM_LABEL_LENGTH
                and bool(re.fullmatch(_OBJECT_NAME, spec.scheduling.queue_name))
            )
        ),
        problem="it is no name of a LocalQueue",
        remedy="Write at most 63 lower-case letters, digits, hyphens and dots",
        node="spec.scheduling",
        cel=f"self.queueName == '' || (self.queueName.size() <= {_MAXIMUM_LABEL_LENGTH} && "
        f"self.queueName.matches('{_OBJECT_NAME}'))",
    ),
    predicate_rule(
        path="spec.scheduling.priorityClassName",
        fields=("spec.scheduling.priorityClassName",),
        holds=lambda spec: (
            not spec.scheduling.priority_class_name
            or (
                len(spec.scheduling.priority_class_name) <= _MAXIMUM_NAME_LENGTH
                and bool(re.fullmatch(_OBJECT_NAME, spec.scheduling.priority_class_name))
            )
        ),
        problem="it is no name of a PriorityClass",
        remedy="Write at most 253 lower-case letters, digits, hyphens and dots",
        node="spec.scheduling",
        cel=f"self.priorityClassName == '' || (self.priorityClassName.size() <= {_MAXIMUM_NAME_LENGTH} && "
        f"self.priorityClassName.matches('{_OBJECT_NAME}'))",
    ),
)
