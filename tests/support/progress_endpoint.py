"""The real progress endpoint on loopback with real TLS, in a thread; only the API server is played."""

import asyncio
import base64
import json
import ssl
import threading
import time
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from trainyard_api.names import PROGRESS_AUDIENCE, ProgressOutcome
from trainyard_operator.authentication import Authenticator, PodIdentity
from trainyard_operator.certificates import ServingCertificate
from trainyard_operator.keys import RunKey
from trainyard_operator.progress_server import PodOwner, ProgressEndpoint, ProgressServer
from trainyard_operator.progress_store import ProgressStore

HOST = "127.0.0.1"
Result = TypeVar("Result")


def token_of(pod: str, *, audience: str = PROGRESS_AUDIENCE, expires_in: float = 3600.0) -> str:
    """A token that looks like one of a pod; only the played API server believes it."""
    claims = {"aud": [audience], "exp": int(time.time() + expires_in), "sub": pod}
    payload = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    return f"header.{payload}.signature-of-{pod}"


def review_status(namespace: str, pod: str | None) -> dict[str, Any]:
    """What a TokenReview says of a token of a pod, or of a service account without one."""
    extra = (
        {}
        if pod is None
        else {
            "authentication.kubernetes.io/pod-name": [pod],
            "authentication.kubernetes.io/pod-uid": [f"uid-of-{pod}"],
        }
    )
    user = {"username": f"system:serviceaccount:{namespace}:default", "extra": extra}
    return {"authenticated": True, "audiences": [PROGRESS_AUDIENCE], "user": user}


class PlayedReviewer:
    """TokenReview: knows some tokens."""

    def __init__(self) -> None:
        self.known: dict[str, Mapping[str, Any]] = {}
        self.num_reviews = 0
        self.is_down = False

    async def review_token(self, token: str, audience: str) -> Mapping[str, Any]:
        assert audience == PROGRESS_AUDIENCE
        self.num_reviews += 1
        await asyncio.sleep(0)
        if self.is_down:
            raise ConnectionError("no answer")
        return self.known.get(token, {"authenticated": False, "error": "invalid bearer token"})


class PlayedDirectory:
    """What the operator has observed: pods by UID, and runs."""

    def __init__(self) -> None:
        self.owners: dict[str, PodOwner] = {}
        self.runs: set[RunKey] = set()

    def owner_of(self, identity: PodIdentity) -> PodOwner | None:
        return self.owners.get(identity.pod_uid)

    def knows(self, key: RunKey) -> bool:
        return key in self.runs


class RunningEndpoint:
    """The endpoint, serving while the context is open.

    Args:
        folder: where `ca.crt` and tokens go.
        port: port to listen on; 0 lets the system choose.
    """

    def __init__(self, folder: Path, port: int = 0) -> None:
        self.folder = folder
        self.reviewer = PlayedReviewer()
        self.directory = PlayedDirectory()
        self.store = ProgressStore()
        self.outcomes: list[tuple[str, str]] = []
        self.reviews: list[str] = []
        self.is_leading = True
        self.certificate = ServingCertificate([HOST], time.time)
        self.ca_file = folder / "ca.crt"
        self.ca_file.write_text(self.certificate.authority_pem)
        self._port = port
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="endpoint")

    def __enter__(self) -> Self:
        self._thread.start()
        self.call(self._start)
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.call(self._server.stop)
        self.call(self._loop.shutdown_default_executor)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _start(self) -> None:
        endpoint = ProgressEndpoint(
            store=self.store,
            directory=self.directory,
            authenticator=Authenticator(self.reviewer, time.time, self.reviews.append),
            is_leading=lambda: self.is_leading,
            observe=self._observe,
        )
        self._server = ProgressServer(endpoint, self.certificate.context, HOST, self._port)
        await self._server.start()

    def _observe(self, protocol: str, outcome: ProgressOutcome, seconds: float) -> None:
        assert seconds >= 0
        self.outcomes.append((protocol, outcome.value))

    def call(self, function: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
        """Run a coroutine in the endpoint's thread."""
        return asyncio.run_coroutine_threadsafe(function(), self._loop).result(timeout=30)

    @property
    def port(self) -> int:
        return self._server.port

    @property
    def url(self) -> str:
        return f"https://{HOST}:{self.port}"

    def client_context(self) -> ssl.SSLContext:
        """TLS as a pod has it."""
        return ssl.create_default_context(cafile=str(self.ca_file))

    def add_pod(self, pod: str, key: RunKey, attempt: int = 0) -> str:
        """Make a pod of a run known, and return its token."""
        token = token_of(pod)
        self.reviewer.known[token] = review_status(key.namespace, pod)
        self.directory.owners[f"uid-of-{pod}"] = PodOwner(key, attempt)
        self.directory.runs.add(key)
        return token

    def token_file(self, token: str) -> Path:
        """A token as a pod finds it."""
        file = self.folder / "token"
        file.write_text(token)
        return file
