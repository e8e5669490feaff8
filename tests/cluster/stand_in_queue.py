"""Plays Kueue for pods: its webhook holds them back, and a test says when they are admitted.

What it writes is what Kueue 0.17 writes (pkg/controller/jobs/pod): a scheduling gate, a label and a finalizer
at creation; at admission no gate and the node selector of a flavor; at an eviction a condition and a
deletion; and the finalizer is taken away once a pod has ended. It has no quota: a test decides.
"""

import base64
import json
import ssl
import threading
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.cluster.addresses import LOOPBACK
from tests.cluster.rest import Object, Rest
from trainyard_api.names import KueueName

GATE = "kueue.x-k8s.io/admission"
FINALIZER = "kueue.x-k8s.io/managed"
MANAGED_LABEL = "kueue.x-k8s.io/managed"
FLAVOR = {"type": "kwok"}
"""Node selector of the only flavor; the fake nodes have it."""
_CONFIGURATIONS = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations"
_MUTATION = (
    {"op": "add", "path": "/spec/schedulingGates", "value": [{"name": GATE}]},
    {"op": "add", "path": f"/metadata/labels/{MANAGED_LABEL.replace('/', '~1')}", "value": "true"},
    {"op": "add", "path": "/metadata/finalizers", "value": [FINALIZER]},
)


class _Webhook(BaseHTTPRequestHandler):
    """Answers an AdmissionReview."""

    def do_POST(self) -> None:
        """Hold the pod back."""
        review = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        patch = base64.b64encode(json.dumps(_MUTATION).encode()).decode()
        review["response"] = {
            "uid": review["request"]["uid"],
            "allowed": True,
            "patchType": "JSONPatch",
            "patch": patch,
        }
        answer = json.dumps(review).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name that is overridden
        """Say nothing."""


class StandInQueue:
    """The queue of one namespace; a context.

    Args:
        rest: the API server, as an administrator.
        pki: folder with the cluster's authority and a certificate for this machine.
        namespace: whose pods it holds back, those with a queue's name.
    """

    def __init__(self, rest: Rest, pki: Path, namespace: str) -> None:
        self._rest = rest
        self._namespace = namespace
        self._authority = pki / "ca.crt"
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pki / "apiserver.crt", pki / "apiserver.key")
        self._server = ThreadingHTTPServer((LOOPBACK, 0), _Webhook)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, name="stand-in-queue")

    def __enter__(self) -> Self:
        self._thread.start()
        self._rest.send("POST", _CONFIGURATIONS, self._configuration())
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._rest.send("DELETE", f"{_CONFIGURATIONS}/{self._namespace}")
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self.release(self._rest.list("pods", self._namespace))

    def admit(self, pods: Sequence[Object]) -> None:
        """Let pods through, with the node selector of the flavor."""
        for pod in pods:
            self._merge(pod, {"spec": {"schedulingGates": [], "nodeSelector": FLAVOR}})

    def evict(self, pods: Sequence[Object]) -> None:
        """Stop pods in favor of others."""
        for pod in pods:
            condition = {
                "type": "TerminationTarget",
                "status": "True",
                "reason": "WorkloadEvictedDueToPreempted",
                "message": "Preempted to accommodate a workload of a higher priority",
                "lastTransitionTime": "2026-11-25T00:00:00Z",
            }
            name = pod["metadata"]["name"]
            known = self._rest.get("pods", self._namespace, name)["status"].get("conditions", [])
            path = f"/api/v1/namespaces/{self._namespace}/pods/{name}/status"
            patch = {"status": {"conditions": [*known, condition]}}
            self._rest.send("PATCH", path, patch, "application/merge-patch+json")
            self._rest.delete("pods", self._namespace, name)

    def release(self, pods: Sequence[Object]) -> None:
        """Take the finalizer away."""
        for pod in pods:
            if FINALIZER in pod["metadata"].get("finalizers", ()):
                self._merge(pod, {"metadata": {"finalizers": None}})

    def _merge(self, pod: Object, patch: Object) -> None:
        self._rest.merge("pods", self._namespace, pod["metadata"]["name"], patch)

    def _configuration(self) -> Object:
        """Where the API server finds the webhook, and for which pods."""
        return {
            "metadata": {"name": self._namespace},
            "webhooks": [
                {
                    "name": "mpod.kueue.test",
                    "clientConfig": {
                        "url": f"https://{LOOPBACK}:{self._server.server_address[1]}/mutate",
                        "caBundle": base64.b64encode(self._authority.read_bytes()).decode(),
                    },
                    "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": self._namespace}},
                    "objectSelector": {
                        "matchExpressions": [{"key": KueueName.QUEUE.value, "operator": "Exists"}]
                    },
                    "rules": [
                        {
                            "apiGroups": [""],
                            "apiVersions": ["v1"],
                            "operations": ["CREATE"],
                            "resources": ["pods"],
                        }
                    ],
                    "sideEffects": "None",
                    "admissionReviewVersions": ["v1"],
                    "failurePolicy": "Fail",
                }
            ],
        }
