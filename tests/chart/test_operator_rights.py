"""The real operator works with the rights that the chart gives it, and uses each of its rights to write."""

import contextlib
import json
import os
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.cluster import steering
from tests.cluster.addresses import free_ports
from tests.cluster.kubectl import Kubectl
from tests.cluster.real_pods import shared_folder_claim
from tests.support.helm import NAMESPACE, environment_of
from tests.support.permissions import used_permissions
from trainyard_api.names import PROGRESS_AUDIENCE, OperatorMetric, progress_path
from trainyard_api.status import ModelStatus

pytestmark = pytest.mark.control_plane

ACCOUNT = "trainyard-operator"
USER = f"system:serviceaccount:{NAMESPACE}:{ACCOUNT}"
QUICKSTART = Path(__file__).parents[2] / "manifests" / "samples" / "quickstart.yaml"
LEASE = "lease/trainyard-operator"
VALUES = {"watchNamespaces": [NAMESPACE], "settings": {"leaseRetrySeconds": 0.5}}
READING = {"get", "list", "watch"}
NOT_RECORDED = {
    ("services", "create"): "server-side apply creates, and the record calls it a patch",
    ("endpointslices", "create"): "server-side apply creates, and the record calls it a patch",
    ("jobs", "create"): "preparation with one node is a pod; more nodes, hence a Job, no run asks for yet",
    ("jobs", "delete"): "the same",
}
"""Rights that the run of the test needs or may need, and that no write in the audit log shows."""


@dataclass(frozen=True)
class Operator:
    """Where a running operator answers."""

    metrics_port: int
    progress_port: int

    def refused_requests(self) -> list[dict[str, str]]:
        """Its requests that the API server did not let it do."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=10) as answer:
            families = list(text_string_to_metric_families(answer.read().decode()))
        samples = [sample for family in families for sample in family.samples]
        requests = [sample.labels for sample in samples if sample.name == OperatorMetric.API_REQUESTS]
        assert len(requests) > 5
        return [labels for labels in requests if labels["code"] in ("401", "403")]

    def post(self, run: str, token: str) -> int:
        """Send a report, and return the status code of the answer."""
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        request = urllib.request.Request(
            f"https://127.0.0.1:{self.progress_port}{progress_path(NAMESPACE, run)}",
            data=b"{}",
            headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
            method="POST",
        )
        try:
            with urllib.request.urlopen(request, timeout=10, context=context) as answer:  # noqa: S310 - https
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code


def kubeconfig_of(kubectl: Kubectl, folder: Path) -> Path:
    """A kubeconfig with a token of the operator's account."""
    config = json.loads(kubectl.run("config", "view", "--raw", "--output=json"))
    token = kubectl.run("create", "token", ACCOUNT, f"--namespace={NAMESPACE}").strip()
    config["users"] = [{"name": user["name"], "user": {"token": token}} for user in config["users"]]
    path = folder / "operator.kubeconfig"
    path.write_text(json.dumps(config), encoding="utf-8")
    return path


@contextlib.contextmanager
def running_operator(kubectl: Kubectl, kubeconfig: Path, environment: dict[str, str]) -> Iterator[Operator]:
    """The operator as a process, with the chart's environment, from when it leads."""
    metrics_port, progress_port = free_ports(2)
    own = {
        "TRAINYARD_METRICS_PORT": str(metrics_port),
        "TRAINYARD_PROGRESS_PORT": str(progress_port),
        "KUBECONFIG": str(kubeconfig),
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "trainyard_operator"], env={**os.environ, **environment, **own}
    )
    try:
        kubectl.wait("create", LEASE)
        kubectl.wait("jsonpath={.spec.holderIdentity}=replica-0", LEASE)
        yield Operator(metrics_port, progress_port)
    finally:
        process.terminate()
        code = process.wait(timeout=30)
    assert code == 0


def run_document(name: str, *, ends: bool, exit_code: str = "0") -> dict[str, object]:
    """The quickstart; its pods run until they are stopped, or end after a second."""
    document = yaml.safe_load(QUICKSTART.read_text(encoding="utf-8"))
    document["metadata"] = {"name": name, "namespace": NAMESPACE}
    model = ModelStatus(uri="file:///data/runs/model", parameters=1)
    annotations = {
        steering.EXIT_CODE: exit_code,
        steering.EXIT_DELAY: "1s",
        steering.TERMINATION_MESSAGE: model.model_dump_json(by_alias=True),
    }
    template = {"metadata": {"annotations": annotations if ends else {}}}
    document["spec"] |= {"workers": {"nodes": 2, "podTemplate": template}}
    return document


@pytest.fixture
def kubectl(empty_cluster, home, helm, tmp_path) -> Iterator[Kubectl]:
    """What the chart installs is there, but for its Deployment, and the claim of runs."""
    kubectl = empty_cluster.kubectl.in_namespace(home)
    objects = [each for each in helm.template(VALUES) if each["kind"] != "Deployment"]
    volume, claim = shared_folder_claim("trainyard", home, tmp_path)
    kubectl.apply([*objects, volume, claim])
    kubectl.wait("condition=Established", "crd/trainingruns.trainyard.dev")
    yield kubectl
    kubectl.run("delete", "trainingruns", "--all")
    # The garbage collector learns of a new kind within half a minute, and the definition goes before that.
    kubectl.run("delete", "pods", "--all")
    kubectl.run("delete", "--filename=-", documents=[*objects, claim, volume])


def test_every_right_to_write_is_enough_and_needed(helm, empty_cluster, kubectl, tmp_path):
    fields = {"metadata.name": "replica-0", "metadata.namespace": NAMESPACE, "status.podIP": "192.0.2.7"}
    environment = environment_of(helm.template(VALUES), fields)
    kubeconfig = kubeconfig_of(kubectl, tmp_path)
    start = empty_cluster.audit.position()
    with running_operator(kubectl, kubeconfig, environment) as operator:
        kubectl.apply([run_document("finishes", ends=True), run_document("waits", ends=False)])
        kubectl.wait("jsonpath={.status.attempts[0].number}=0", "trainingrun/waits")
        kubectl.run("patch", "trainingrun", "waits", "--type=merge", '--patch={"spec":{"suspend":true}}')
        kubectl.wait("jsonpath={.status.phase}=Suspended", "trainingrun/waits")
        kubectl.wait("jsonpath={.status.phase}=Succeeded", "trainingrun/finishes")
        finish_at_once = '--patch={"spec":{"ttlSecondsAfterFinished":0}}'
        kubectl.run("patch", "trainingrun", "finishes", "--type=merge", finish_at_once)
        kubectl.wait("delete", "trainingrun/finishes")
        token = kubectl.run("create", "token", "default", f"--audience={PROGRESS_AUDIENCE}").strip()
        assert operator.post("waits", token) == 403
        assert operator.refused_requests() == []
    # A new process has a new authority, which goes to where pods are made next.
    with running_operator(kubectl, kubeconfig, environment) as operator:
        kubectl.apply(run_document("fails", ends=True, exit_code="64"))
        kubectl.wait("jsonpath={.status.phase}=Failed", "trainingrun/fails")
        assert operator.refused_requests() == []
    written = {
        (write.resource, write.verb) for write in empty_cluster.audit.writes(start) if write.user == USER
    }
    granted = {(right.resource, right.verb) for right in used_permissions() if right.verb not in READING}
    assert written - granted == set()
    assert granted - written == set(NOT_RECORDED)
