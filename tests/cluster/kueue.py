"""The real Kueue as a process beside the test cluster, for pods with a queue's name.

The API server reaches its webhooks by a Service of the type ExternalName, which is this machine. Kueue makes
their certificate itself, and the kubelet that would mount it is played here.
"""

import base64
import json
import os
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from time import monotonic
from typing import Any

from tests.cluster.addresses import LOOPBACK, free_ports
from tests.cluster.kubectl import Kubectl
from tests.cluster.recipes import program_path
from tests.cluster.rest import Object
from tests.support.helm import Helm, of_kind
from trainyard_api.names import KueueName

NAMESPACE = "kueue-system"
QUEUE = "team"
URGENT = "urgent"
_API = "kueue.x-k8s.io/v1beta2"
_SERVICE = "kueue-webhook-service"
_CERTIFICATE = "kueue-webhook-server-cert"
_READY_SECONDS = 150.0
_INSTALLED_WEBHOOKS = frozenset(
    f"{verb}{kind}.kb.io" for verb in "mv" for kind in ("pod", "workload", "clusterqueue", "resourceflavor")
)
"""The chart has those of every framework."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Where Kueue listens, and where it reads its certificate."""

    health_port: int
    webhook_port: int
    certificates: Path

    def document(self) -> Object:
        """Kueue's configuration file."""
        return {
            "apiVersion": "config.kueue.x-k8s.io/v1beta2",
            "kind": "Configuration",
            "namespace": NAMESPACE,
            "health": {"healthProbeBindAddress": f"{LOOPBACK}:{self.health_port}"},
            "metrics": {"bindAddress": "0"},
            "webhook": {"host": LOOPBACK, "port": self.webhook_port, "certDir": str(self.certificates)},
            "leaderElection": {"leaderElect": False},
            "internalCertManagement": {
                "enable": True,
                "webhookServiceName": _SERVICE,
                "webhookSecretName": _CERTIFICATE,
            },
            "integrations": {"frameworks": ["pod"]},
        }


@contextmanager
def running_kueue(kubectl: Kubectl, helm: Helm, folder: Path) -> Iterator[None]:
    """Install Kueue's definitions and webhooks, and run its controller until the end of the context.

    Args:
        kubectl: the cluster, which runs on this machine, as an administrator.
        helm: renders Kueue's own chart.
        folder: empty, for settings and output.
    """
    health_port, webhook_port = free_ports(2)
    settings = Settings(health_port, webhook_port, folder / "certificates")
    settings.certificates.mkdir(mode=0o700)
    configuration = folder / "kueue.yaml"
    configuration.write_text(json.dumps(settings.document()))
    objects = _objects(helm, webhook_port)
    kubectl.run("create", "--filename=-", documents=objects)
    log = folder / "kueue.log"
    arguments = [
        f"--config={configuration}",
        f"--kubeconfig={kubectl.kubeconfig}",
        "--feature-gates=VisibilityOnDemand=false",
    ]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [program_path("kueue"), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env={"PATH": os.environ["PATH"]},
        )
        try:
            _wait(process, log, lambda: _mount_certificate(kubectl, settings.certificates))
            _wait(process, log, lambda: _answers(f"http://{LOOPBACK}:{health_port}/readyz"))
            yield
            _delete_queues(kubectl)
        finally:
            process.terminate()
            process.wait(timeout=_READY_SECONDS)
            kubectl.run("delete", "--filename=-", "--ignore-not-found", "--wait=false", documents=objects)


def queues(namespace: str, num_pods: int) -> list[Object]:
    """A queue of a namespace with room for some pods, and a class of runs that others make room for."""
    flavor = {"name": "fake", "resources": [{"name": "pods", "nominalQuota": num_pods}]}
    return [
        _object("ResourceFlavor", "fake", spec={"nodeLabels": {"type": "kwok"}}),
        _object("WorkloadPriorityClass", URGENT, value=1000, description="Before all others"),
        _object(
            "ClusterQueue",
            QUEUE,
            spec={
                "namespaceSelector": {},
                "resourceGroups": [{"coveredResources": ["pods"], "flavors": [flavor]}],
                "preemption": {"withinClusterQueue": "LowerPriority"},
            },
        ),
        _object("LocalQueue", QUEUE, namespace, spec={"clusterQueue": QUEUE}),
    ]


def _object(kind: str, name: str, namespace: str = "", **fields: Any) -> Object:
    metadata = {"name": name, **({"namespace": namespace} if namespace else {})}
    return {"apiVersion": _API, "kind": kind, "metadata": metadata, **fields}


def _objects(helm: Helm, port: int) -> list[Object]:
    """What of Kueue's own chart, which its module brings, is needed beside a controller that is a process."""
    chart = Helm(helm.home, chart=program_path("kueue-chart"))
    rendered = chart.template({}, "kueue", NAMESPACE)
    definitions = of_kind(rendered, "CustomResourceDefinition")
    for definition in definitions:
        if "conversion" in definition["spec"]:
            definition["spec"]["conversion"]["webhook"]["clientConfig"]["service"]["port"] = port
    webhooks = [
        each
        for kind in ("MutatingWebhookConfiguration", "ValidatingWebhookConfiguration")
        for each in of_kind(rendered, kind)
    ]
    for configuration in webhooks:
        installed = [each for each in configuration["webhooks"] if each["name"] in _INSTALLED_WEBHOOKS]
        configuration["webhooks"] = installed
        for webhook in installed:
            webhook["clientConfig"]["service"]["port"] = port
            if webhook["name"].endswith("pod.kb.io"):
                # Other tests' pods are none of Kueue's business, also while it starts and ends.
                queued = {"key": KueueName.QUEUE.value, "operator": "Exists"}
                webhook["objectSelector"] = {"matchExpressions": [queued]}
    service = {"type": "ExternalName", "externalName": "localhost"}
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}},
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": _SERVICE, "namespace": NAMESPACE},
            "spec": service,
        },
        *of_kind(rendered, "Secret"),
        *definitions,
        *webhooks,
    ]


def _mount_certificate(kubectl: Kubectl, folder: Path) -> bool:
    """Write the certificate that Kueue has made where it reads it, as a mounted Secret would be."""
    secret = kubectl.in_namespace(NAMESPACE).get(f"secret/{_CERTIFICATE}")
    data = secret.get("data") or {}
    if not data.get("tls.key"):
        return False
    for name, content in data.items():
        (folder / name).write_bytes(base64.b64decode(content))
    return True


def _wait(process: subprocess.Popen[bytes], log: Path, holds: Callable[[], bool]) -> None:
    deadline = monotonic() + _READY_SECONDS
    while not holds():
        assert process.poll() is None, f"Kueue has ended: {log.read_text()[-4_000:]}"
        assert monotonic() < deadline, f"Kueue is not ready: {log.read_text()[-4_000:]}"
        Event().wait(0.2)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=10.0):  # noqa: S310 - http
            return True
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False


def _delete_queues(kubectl: Kubectl) -> None:
    """Delete what has finalizers of Kueue, while Kueue is there to remove them."""
    for kind in ("localqueues", "workloads"):
        kubectl.run("delete", f"{kind}.kueue.x-k8s.io", "--all", "--all-namespaces")
    for kind in ("clusterqueues", "resourceflavors", "workloadpriorityclasses"):
        kubectl.run("delete", f"{kind}.kueue.x-k8s.io", "--all")
