"""The README's commands that install Trainyard, as they are written, with real Helm and a real API server."""

from collections.abc import Iterator

import pytest

from tests.cluster.cluster import Cluster
from tests.cluster.locations import REPOSITORY
from tests.support.helm import Helm, Object
from tests.support.readme import ON_A_CLUSTER, blocks, lines_of, run_as_written, section

pytestmark = pytest.mark.control_plane

WITH_HELM, WITH_KUBECTL, _, MONITORING = blocks("sh", section(ON_A_CLUSTER))
DEFINITION = "customresourcedefinition/trainingruns.trainyard.dev"


def definition_of(kind: str) -> Object:
    """A definition that takes anything, in place of the Prometheus operator's."""
    plural, group = f"{kind.lower()}s", "monitoring.coreos.com"
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    names = {"kind": kind, "plural": plural}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}"},
        "spec": {"group": group, "names": names, "scope": "Namespaced", "versions": [version]},
    }


@pytest.fixture
def prometheus_operator(empty_cluster: Cluster) -> Iterator[None]:
    """What of the Prometheus operator a chart needs: the kinds."""
    definitions = [definition_of(kind) for kind in ("ServiceMonitor", "PrometheusRule")]
    empty_cluster.kubectl.apply(definitions)
    empty_cluster.kubectl.wait(
        "condition=Established", *(f"crd/{each['metadata']['name']}" for each in definitions)
    )
    yield
    empty_cluster.kubectl.run("delete", "--filename=-", documents=definitions)


def test_helm_installs_and_adds_the_monitoring(
    installer: Helm, empty_cluster: Cluster, prometheus_operator: None
) -> None:
    kubectl = empty_cluster.kubectl.in_namespace("trainyard")
    environment = installer.environment()
    install, rollout = lines_of(WITH_HELM)
    run_as_written(install, REPOSITORY, environment)
    assert "successfully rolled out" in run_as_written(rollout, REPOSITORY, environment)
    for line in lines_of(MONITORING):
        run_as_written(line, REPOSITORY, environment)
    found = kubectl.run("get", "servicemonitors,prometheusrules,configmaps", "--output=name")
    for name in ("servicemonitor", "prometheusrule", "configmap/trainyard-dashboard"):
        assert name in found
    assert kubectl.get("service/trainyard-metrics")["spec"]["ports"]
    installer.run("uninstall", "trainyard", "--namespace", "trainyard", "--wait", "--timeout=150s")
    kubectl.run("delete", "namespace", "trainyard")
    kubectl.run("delete", DEFINITION)


def test_one_file_does_the_same_without_helm(installer: Helm, empty_cluster: Cluster) -> None:
    kubectl = empty_cluster.kubectl.in_namespace("trainyard")
    environment = installer.environment()
    for line in lines_of(WITH_KUBECTL):
        run_as_written(line, REPOSITORY, environment)
    _, rollout = lines_of(WITH_HELM)
    assert "successfully rolled out" in run_as_written(rollout, REPOSITORY, environment)
    kubectl.run("delete", "--filename", str(REPOSITORY / "manifests" / "install.yaml"))
