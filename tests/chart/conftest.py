"""Fixtures of the chart's tests."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.cluster.build import build_programs
from tests.cluster.cluster import Cluster, running_cluster
from tests.cluster.fixtures import give_up
from tests.cluster.go_tool import find_go
from tests.cluster.keeper import Options
from tests.cluster.needs import missing_for_control_plane
from tests.cluster.recipes import missing_programs, program_path
from tests.support.helm import NAMESPACE, Helm


@pytest.fixture(scope="session")
def helm(tmp_path_factory: pytest.TempPathFactory) -> Helm:
    """Helm without a cluster."""
    _build("helm")
    return Helm(tmp_path_factory.mktemp("helm"))


@pytest.fixture(scope="session")
def prometheus() -> Path:
    """The program that tells when alerts fire, by Prometheus' own engine."""
    _build("alerts")
    return program_path("alerts")


def _build(program: str) -> None:
    """Build a program that needs no cluster."""
    if missing_programs([program]):
        if find_go() is None:
            give_up(f"there is no Go to build {program} with: run `make init` or install Go")
        build_programs([program])


@pytest.fixture(scope="session")
def empty_cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """A cluster without Trainyard's definitions: charts bring their own here, and take them away."""
    if request.config.getoption("--cluster") == "existing":
        give_up("the chart is installed into a cluster of its own: run without --cluster=existing")
    if problem := missing_for_control_plane():
        give_up(problem)
    with running_cluster(Options(num_fake_nodes=2)) as running:
        yield running


@pytest.fixture
def home(empty_cluster: Cluster) -> Iterator[str]:
    """The operator's namespace, new and under Pod Security's `restricted`."""
    kubectl = empty_cluster.kubectl
    labels = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn")}
    kubectl.apply(
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": labels}}
    )
    kubectl.wait("create", "serviceaccount/default", f"--namespace={NAMESPACE}")
    yield NAMESPACE
    kubectl.run("delete", "namespace", NAMESPACE, "--ignore-not-found")


@pytest.fixture
def installer(helm: Helm, empty_cluster: Cluster) -> Helm:
    """Helm for the empty cluster."""
    return replace(helm, kubeconfig=empty_cluster.kubeconfig)
