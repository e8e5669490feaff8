"""Rules of the worker pods."""

import re
from collections.abc import Iterable
from typing import Any

from trainyard_api.problems import Problem
from trainyard_api.quantities import parse_quantity
from trainyard_api.rules.rule import Rule, predicate_rule
from trainyard_api.spec import Accelerator, TrainingRun

_RESOURCE_KEYS = ("limits", "requests", "claims")
_POD_TEMPLATE_KEYS = ("metadata", "spec")
_IMAGE = "^[A-Za-z0-9][A-Za-z0-9._:/@-]*$"
_OBJECT_NAME = "^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$"
_MAXIMUM_LABEL_LENGTH = 63
_MAXIMUM_NAME_LENGTH = 253
_DEVICE_NAME = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$"
_DRIVEN_DEVICES = r"^(nvidia\.com/(gpu|gpu\.shared|mig-[0-9a-z.-]+)|amd\.com/gpu)$"
"""What PyTorch's own CUDA and ROCm builds compute on."""
_TPU = "google.com/tpu"


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


def _is_device_name(name: str) -> bool:
    return bool(re.fullmatch(_DEVICE_NAME, name))


def _has_its_place(accelerator: Accelerator) -> bool:
    """Whether what tells its nodes apart is set exactly where nodes are told apart by it."""
    is_tpu = accelerator.resource_name == _TPU
    return bool(accelerator.type) == bool(accelerator.topology) == is_tpu


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
    predicate_rule(
        path="spec.workers.image",
        fields=("spec.workers.image",),
        holds=lambda spec: not spec.workers.image or bool(re.fullmatch(_IMAGE, spec.workers.image)),
        problem="it is no reference of an image",
        remedy="Write registry/name:tag or registry/name@sha256:digest, without spaces",
        node="spec.workers.image",
        cel=f"self == '' || self.matches('{_IMAGE}')",
    ),
    predicate_rule(
        path="spec.workers.accelerator.resourceName",
        fields=("spec.workers.accelerator",),
        holds=lambda spec: _is_device_name(spec.workers.accelerator.resource_name),
        problem="it is no name of an extended resource",
        remedy="Write domain and device, such as nvidia.com/gpu, amd.com/gpu, google.com/tpu, "
        "habana.ai/gaudi or aws.amazon.com/neuron",
        node="spec.workers.accelerator.resourceName",
        cel=f"self.matches('{_DEVICE_NAME}')",
    ),
    predicate_rule(
        path="spec.workers.accelerator.resourceName",
        fields=("spec.workers.accelerator", "spec.workers.image"),
        holds=lambda spec: (
            bool(spec.workers.image)
            or not _is_device_name(spec.workers.accelerator.resource_name)
            or bool(re.fullmatch(_DRIVEN_DEVICES, spec.workers.accelerator.resource_name))
        ),
        problem="the default image drives no such device, and would train on the CPU",
        remedy="Write nvidia.com/gpu, nvidia.com/gpu.shared, nvidia.com/mig-... or amd.com/gpu, "
        "or name an image in workers.image whose PyTorch drives it",
        node="spec.workers",
        cel=f"self.image != '' || self.accelerator.resourceName.matches('{_DRIVEN_DEVICES}')".replace(
            "\\", "\\\\"
        ),
    ),
    predicate_rule(
        path="spec.workers.accelerator",
        fields=("spec.workers.accelerator",),
        holds=lambda spec: _has_its_place(spec.workers.accelerator),
        problem=f"type and topology tell nodes of {_TPU} apart, which needs both, and no other device any",
        remedy=f"Set both for {_TPU}, to the labels that its nodes have, and remove them for others",
        node="spec.workers.accelerator",
        cel=f"[self.type != '', self.topology != ''].all(x, x == (self.resourceName == '{_TPU}'))",
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
        node="spec.scheduling.queueName",
        cel=f"self == '' || (self.size() <= {_MAXIMUM_LABEL_LENGTH} && self.matches('{_OBJECT_NAME}'))",
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
        node="spec.scheduling.priorityClassName",
        cel=f"self == '' || (self.size() <= {_MAXIMUM_NAME_LENGTH} && self.matches('{_OBJECT_NAME}'))",
    ),
)
