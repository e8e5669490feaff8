"""Posts progress as a pod does: over TLS, with a token that is bound to the pod."""

import http.client
import json
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from tests.cluster.addresses import LOOPBACK
from tests.cluster.operator_process import CA_CONFIG_MAP, PROGRESS_SERVICE, Installation, OperatorProcess
from tests.cluster.rest import Object, Rest
from trainyard_api.names import PROGRESS_AUDIENCE, progress_path

_TOKEN_SECONDS = 3600
_ANSWER_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What the endpoint said."""

    code: int
    body: Object
    retry_after: str
    """Seconds after which it is worth another try; empty when it is not."""


class _ServiceConnection(http.client.HTTPSConnection):
    """A connection to a replica on this machine that has to prove that it is the Service."""

    def __init__(self, server_name: str, port: int, context: ssl.SSLContext) -> None:
        super().__init__(LOOPBACK, port, timeout=_ANSWER_SECONDS)
        self._server_name = server_name
        self._context = context

    def connect(self) -> None:
        http.client.HTTPConnection.connect(self)
        self.sock = self._context.wrap_socket(self.sock, server_hostname=self._server_name)


def token_of(rest: Rest, namespace: str, pod: Object | None = None, audience: str = PROGRESS_AUDIENCE) -> str:
    """A token of a namespace's default account, bound to a pod as the kubelet projects it."""
    spec: Object = {"audiences": [audience], "expirationSeconds": _TOKEN_SECONDS}
    if pod is not None:
        metadata = pod["metadata"]
        spec["boundObjectRef"] = {
            "apiVersion": "v1",
            "kind": "Pod",
            "name": metadata["name"],
            "uid": metadata["uid"],
        }
    path = f"/api/v1/namespaces/{namespace}/serviceaccounts/default/token"
    token: str = rest.send("POST", path, {"spec": spec})["status"]["token"]
    return token


def report_of(
    attempt: int, step: int, checkpoint_step: int | None = None, loss: float = 5.0
) -> dict[str, Any]:
    """A ProgressReport."""
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    report: dict[str, Any] = {
        "attempt": attempt,
        "progress": {"stage": "Train", "step": step, "totalSteps": 200, "loss": loss, "updatedAt": now},
    }
    if checkpoint_step is not None:
        report["checkpoint"] = {
            "step": checkpoint_step,
            "uri": f"file:///data/runs/checkpoints/step-{checkpoint_step:08d}",
            "committedAt": now,
        }
    return report


class Reporter:
    """The way from pods to one replica.

    Args:
        rest: the API server, as an administrator.
        installation: which Service.
        operator: which replica.
    """

    def __init__(self, rest: Rest, installation: Installation, operator: OperatorProcess) -> None:
        self._rest = rest
        self.server_name = f"{PROGRESS_SERVICE}.{installation.namespace}.svc"
        """Name that the replica has to prove."""
        self._operator = operator

    @property
    def port(self) -> int:
        """Port of the replica on this machine."""
        return self._operator.port

    def authorities(self, namespace: str) -> str:
        """What pods of a namespace trust: the certificates that the operator put there."""
        config_map = self._rest.get("configmaps", namespace, CA_CONFIG_MAP)
        certificates: str = config_map["data"]["ca.crt"]
        return certificates

    def trust(self, namespace: str) -> ssl.SSLContext:
        """The same for a connection."""
        return ssl.create_default_context(cadata=self.authorities(namespace))

    def post(
        self,
        namespace: str,
        run: str,
        token: str,
        body: Mapping[str, Any] | bytes,
        *,
        trust: ssl.SSLContext | None = None,
        content_type: str = "application/json",
        path: str = "",
    ) -> Answer:
        """Post a body for a run, by Trainyard's protocol unless another path is given."""
        context = trust or self.trust(namespace)
        connection = _ServiceConnection(self.server_name, self._operator.port, context)
        headers = {"Content-Type": content_type}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        try:
            connection.request(
                "POST",
                path or progress_path(namespace, run),
                body=body if isinstance(body, bytes) else json.dumps(body).encode(),
                headers=headers,
            )
            answer = connection.getresponse()
            return Answer(
                answer.status, json.loads(answer.read()), answer.getheader("Retry-After", default="")
            )
        finally:
            connection.close()
