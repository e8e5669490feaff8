"""Rules of the worker pods."""

from collections.abc import Iterable

from trainyard_api.problems import Problem
from trainyard_api.rules.rule import Rule, predicate_rule
from trainyard_api.spec import TrainingRun

_RESOURCE_KEYS = ("limits", "requests", "claims")
_POD_TEMPLATE_KEYS = ("metadata", "spec")


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
        amounts = resources.get(key)
        if isinstance(amounts, dict) and accelerator in amounts:
            yield Problem(
                f"spec.workers.resources.{key}",
                f"{accelerator} is set here",
                "Set workers.accelerator.count instead",
            )


def _pod_template_problems(run: TrainingRun) -> Iterable[Problem]:
    """Pod fields written at the wrong level."""
    for key in run.spec.workers.pod_template:
        if key not in _POD_TEMPLATE_KEYS:
            yield Problem(
                f"spec.workers.podTemplate.{key}",
                "a pod template has only metadata and spec",
                f"Write podTemplate: {{spec: {{{key}: ...}}}}",
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
)
