"""Real Helm, as tests use it."""

import copy
import functools
import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.cluster.locations import REPOSITORY
from tests.cluster.recipes import KUBERNETES_VERSION, program_path

CHART = REPOSITORY / "charts" / "trainyard"
RELEASE = "trainyard"
NAMESPACE = "trainyard"
TIMEOUT_SECONDS = 240

Object = dict[str, Any]


class HelmError(AssertionError):
    """A command of Helm failed, with what it said; a failure of the test that gave it."""


@dataclass(frozen=True, slots=True)
class Helm:
    """Commands of Helm.

    Args:
        home: folder for what Helm keeps.
        kubeconfig: the cluster; None for commands that need none.
        chart: the chart.
    """

    home: Path
    kubeconfig: Path | None = None
    chart: Path = CHART

    def attempt(
        self, *arguments: str, values: Mapping[str, Any] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command, whatever comes of it; it reads `values` where they are given."""
        command = [str(program_path("helm")), *arguments]
        if values is not None:
            command += ["--values", "-"]
        if self.kubeconfig is not None:
            command.append(f"--kubeconfig={self.kubeconfig}")
        return subprocess.run(
            command,
            input=json.dumps(values or {}),
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
            env={**os.environ, **self.environment()},
            check=False,
        )

    def environment(self) -> dict[str, str]:
        """Variables that make a command of a shell use the same folders and the same cluster."""
        homes = {f"HELM_{name}_HOME": str(self.home / name.lower()) for name in ("CACHE", "CONFIG", "DATA")}
        return homes if self.kubeconfig is None else {**homes, "KUBECONFIG": str(self.kubeconfig)}

    def run(self, *arguments: str, values: Mapping[str, Any] | None = None) -> str:
        """Run a command that must succeed, and return what it printed.

        Raises:
            HelmError: it failed.
        """
        done = self.attempt(*arguments, values=values)
        if done.returncode != 0:
            raise HelmError(f"helm {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout

    def try_template(self, values: Mapping[str, Any]) -> subprocess.CompletedProcess[str]:
        """Render the chart, whatever comes of it."""
        arguments = ("template", RELEASE, str(self.chart), "--namespace", NAMESPACE)
        return self.attempt(*arguments, "--kube-version", KUBERNETES_VERSION, values=values)

    def template(
        self, values: Mapping[str, Any] | None = None, release: str = RELEASE, namespace: str = NAMESPACE
    ) -> list[Object]:
        """The objects of the chart; rendered once for the same values.

        Raises:
            HelmError: the chart does not render with these values.
        """
        return copy.deepcopy(_rendered(self, release, namespace, json.dumps(values or {}, sort_keys=True)))


@functools.cache
def _rendered(helm: Helm, release: str, namespace: str, values: str) -> list[Object]:
    place = ("--namespace", namespace, "--kube-version", KUBERNETES_VERSION)
    rendered = helm.run("template", release, str(helm.chart), *place, values=json.loads(values))
    return [document for document in yaml.safe_load_all(rendered) if document]


def of_kind(objects: list[Object], kind: str) -> list[Object]:
    """The objects of a kind."""
    return [each for each in objects if each["kind"] == kind]


def operator_pod(objects: list[Object]) -> Object:
    """The operator's pod template."""
    (deployment,) = of_kind(objects, "Deployment")
    template: Object = deployment["spec"]["template"]
    return template


def environment_of(objects: list[Object], fields: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of the operator's container.

    Args:
        objects: what the chart renders.
        fields: values of the pod's fields that variables refer to.
    """
    (container,) = operator_pod(objects)["spec"]["containers"]
    known = fields or {}
    return {
        entry["name"]: entry["value"]
        if "value" in entry
        else known.get(entry["valueFrom"]["fieldRef"]["fieldPath"], "")
        for entry in container["env"]
    }
