"""The progress endpoint: HTTPS, for the pods of runs only. Read `ProgressEndpoint.answer` first.

Every answer is a short metav1.Status; nothing of a token or a body is repeated or logged. Connections are
bounded in number and in every phase: handshake, headers, body. They are closed after one answer, because an
idle TLS connection costs this process a quarter of a megabyte and a new one costs the client a millisecond.
"""

import asyncio
import logging
import math
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from aiohttp import web

from trainyard_api.names import ProgressOutcome, kubeflow_status_path, progress_path
from trainyard_api.progress import ProgressReport
from trainyard_operator.authentication import (
    Authenticator,
    ForeignTokenError,
    PodIdentity,
    RefusedTokenError,
    ReviewUnavailableError,
    TooManyRefusalsError,
)
from trainyard_operator.keys import RunKey
from trainyard_operator.post_limits import RateLimiter
from trainyard_operator.progress import InvalidReportError, parse_kubeflow_update, parse_report
from trainyard_operator.progress_store import ProgressStore

MAXIMUM_BODY_BYTES = 64 * 1024
BODY_TIMEOUT_SECONDS = 10.0
HANDSHAKE_TIMEOUT_SECONDS = 10.0
LINGERING_SECONDS = 1.0
"""How long what a refused client still sends is thrown away: a reset would reach it before the answer."""
IDLE_TIMEOUT_SECONDS = 10.0
"""How long a connection may be open without a whole request."""
MAXIMUM_CONNECTIONS = 256
BACKLOG = 512
RETRY_AFTER_SECONDS = 2.0
"""What clients are told when this replica cannot answer now."""
POSTS_PER_SECOND = 1.0
POSTS_BURST = 10
"""What one pod may post at once; the trainer posts every 5 seconds, and at once after a checkpoint."""

logger = logging.getLogger(__name__)

Observe = Callable[[str, ProgressOutcome, float], None]
"""Told protocol, outcome and seconds of every POST."""


@dataclass(frozen=True, slots=True)
class PodOwner:
    """Whose pod it is."""

    key: RunKey
    """The run."""
    attempt: int
    """The attempt of the run that it was made for."""


class PodDirectory(Protocol):
    """What the operator has observed."""

    def owner_of(self, identity: PodIdentity) -> PodOwner | None:
        """The run of a pod that exists; None when it does not, or belongs to no run."""
        ...

    def knows(self, key: RunKey) -> bool:
        """Whether the run exists."""
        ...


class RefusalError(Exception):
    """A POST that changes nothing.

    Args:
        outcome: how it is counted.
        code: HTTP status.
        message: for the one who posted.
        retry_after: seconds after which it is worth a try; None when it is not.
    """

    def __init__(
        self, outcome: ProgressOutcome, code: int, message: str, retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.outcome = outcome
        self.code = code
        self.retry_after = retry_after


_REASONS = {
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    405: "MethodNotAllowed",
    408: "Timeout",
    409: "Conflict",
    413: "RequestEntityTooLarge",
    422: "Invalid",
    429: "TooManyRequests",
    503: "ServiceUnavailable",
}


class ProgressEndpoint:
    """Answers POSTs of both protocols.

    Args:
        store: takes accepted reports.
        directory: whose pod posts.
        authenticator: who posts.
        is_leading: whether this replica patches status; another one would take reports to nowhere.
        observe: told of every POST.
        clock: Unix time in seconds.
    """

    def __init__(  # noqa: PLR0913 - its collaborators
        self,
        *,
        store: ProgressStore,
        directory: PodDirectory,
        authenticator: Authenticator,
        is_leading: Callable[[], bool],
        observe: Observe,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._directory = directory
        self._authenticator = authenticator
        self._is_leading = is_leading
        self._observe = observe
        self._clock = clock
        self._limits = RateLimiter(POSTS_PER_SECOND, POSTS_BURST)

    def application(self) -> web.Application:
        """The routes."""
        application = web.Application()
        application.router.add_post(progress_path("{namespace}", "{name}"), self._trainyard)
        application.router.add_post(kubeflow_status_path("{namespace}", "{name}"), self._kubeflow)
        application.router.add_route("*", "/{anything:.*}", _nothing_here)
        return application

    async def _trainyard(self, request: web.Request) -> web.Response:
        return await self._respond(request, "trainyard")

    async def _kubeflow(self, request: web.Request) -> web.Response:
        return await self._respond(request, "kubeflow")

    async def _respond(self, request: web.Request, protocol: str) -> web.Response:
        """Answer, and count the answer."""
        started = time.perf_counter()
        try:
            await self.answer(request, protocol)
        except RefusalError as refusal:
            outcome = refusal.outcome
            response = status_response(refusal.code, str(refusal), refusal.retry_after)
        else:
            outcome = ProgressOutcome.ACCEPTED
            response = status_response(200, "")
        self._observe(protocol, outcome, time.perf_counter() - started)
        return response

    async def answer(self, request: web.Request, protocol: str) -> None:
        """Take a report over.

        Raises:
            RefusalError: it is not taken, and nothing has changed.
        """
        if not self._is_leading():
            raise RefusalError(
                ProgressOutcome.NOT_LEADER, 503, "this replica is not the leader", RETRY_AFTER_SECONDS
            )
        if (request.content_length or 0) > MAXIMUM_BODY_BYTES:
            raise _too_large()
        identity = await self._identify(request)
        wait = self._limits.take(identity.pod_uid, self._clock())
        if wait > 0:
            raise RefusalError(ProgressOutcome.RATE_LIMITED, 429, "this pod posts too often", wait)
        owner = self._owner(identity, request.match_info["namespace"], request.match_info["name"])
        body = await read_body(request)
        report = self._parse(body, protocol, owner)
        # The run may have been deleted, or the lease lost, while the body came in.
        if not self._directory.knows(owner.key):
            raise RefusalError(ProgressOutcome.NOT_FOUND, 404, "there is no such run")
        if not self._store.record(owner.key, report, self._clock()):
            raise RefusalError(ProgressOutcome.STALE, 409, "a later attempt has reported already")

    async def _identify(self, request: web.Request) -> PodIdentity:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise RefusalError(ProgressOutcome.UNAUTHENTICATED, 401, "a bearer token is required")
        try:
            return await self._authenticator.identify(token.strip(), request.remote or "")
        except RefusedTokenError:
            raise RefusalError(ProgressOutcome.UNAUTHENTICATED, 401, "the token is not valid here") from None
        except ForeignTokenError:
            raise RefusalError(ProgressOutcome.FORBIDDEN, 403, "the token belongs to no pod") from None
        except TooManyRefusalsError as error:
            raise RefusalError(
                ProgressOutcome.RATE_LIMITED, 429, "too many bad tokens came from this address", error.seconds
            ) from None
        except ReviewUnavailableError:
            raise RefusalError(
                ProgressOutcome.UNAVAILABLE, 503, "tokens cannot be reviewed now", RETRY_AFTER_SECONDS
            ) from None

    def _owner(self, identity: PodIdentity, namespace: str, name: str) -> PodOwner:
        """The pod's run, which has to be the one in the path; whether others exist is not told."""
        owner = self._directory.owner_of(identity)
        if owner is None or (owner.key.namespace, owner.key.name) != (namespace, name):
            raise RefusalError(ProgressOutcome.FORBIDDEN, 403, "this is not a pod of that run")
        if not self._directory.knows(owner.key):
            raise RefusalError(ProgressOutcome.NOT_FOUND, 404, "there is no such run")
        return owner

    def _parse(self, body: bytes, protocol: str, owner: PodOwner) -> ProgressReport:
        try:
            if protocol == "trainyard":
                return parse_report(body, attempt=owner.attempt)
            received = self._store.newest(owner.key)
            return parse_kubeflow_update(
                body,
                attempt=owner.attempt,
                previous=received.report if received is not None else None,
                now=self._clock(),
            )
        except InvalidReportError as error:
            raise RefusalError(ProgressOutcome.INVALID, 422, str(error)) from None


async def read_body(request: web.Request) -> bytes:
    """The body, within its limits of size and time.

    Raises:
        RefusalError: it is too large, too slow, or no JSON by its own word.
    """
    if request.content_type != "application/json":
        raise RefusalError(ProgressOutcome.INVALID, 422, "Content-Type: must be application/json")
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_TIMEOUT_SECONDS):
            async for chunk in request.content.iter_any():
                body += chunk
                if len(body) > MAXIMUM_BODY_BYTES:
                    raise _too_large()
    except TimeoutError:
        raise RefusalError(ProgressOutcome.TIMED_OUT, 408, "the body came too slowly") from None
    except (web.RequestPayloadError, ConnectionError):
        raise RefusalError(ProgressOutcome.INVALID, 422, "the body ended before its end") from None
    return bytes(body)


def _too_large() -> RefusalError:
    return RefusalError(ProgressOutcome.TOO_LARGE, 413, f"a body has at most {MAXIMUM_BODY_BYTES} bytes")


async def _nothing_here(request: web.Request) -> web.Response:
    """A path or method that is not served."""
    del request
    return status_response(404, "only progress of runs is taken here, by POST")


def status_response(code: int, message: str, retry_after: float | None = None) -> web.Response:
    """An answer as Kubernetes gives it, after which the connection ends."""
    is_success = code < 400
    body = {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Success" if is_success else "Failure",
        "message": message,
        "code": code,
    }
    if not is_success:
        body["reason"] = _REASONS.get(code, "Unknown")
    response = web.json_response(body, status=code)
    if retry_after is not None:
        response.headers["Retry-After"] = str(max(1, math.ceil(retry_after)))
    response.force_close()
    return response


class ProgressServer:
    """Listens for the endpoint; accepts connections itself, to bound their number and the handshake's time.

    Args:
        endpoint: answers.
        context: TLS, certificate included.
        host: address to listen on; empty for all, IPv4 and IPv6.
        port: port to listen on; 0 lets the system choose.
    """

    def __init__(self, endpoint: ProgressEndpoint, context: ssl.SSLContext, host: str, port: int) -> None:
        self._runner = web.AppRunner(
            endpoint.application(),
            access_log=None,
            handle_signals=False,
            auto_decompress=False,
            keepalive_timeout=IDLE_TIMEOUT_SECONDS,
            lingering_time=LINGERING_SECONDS,
        )
        self._context = context
        self._address = (host, port)
        self._listener: socket.socket | None = None
        self._acceptor: asyncio.Task[None] | None = None
        self._handshakes: set[asyncio.Task[None]] = set()

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return int(self._listener.getsockname()[1]) if self._listener is not None else self._address[1]

    async def start(self) -> None:
        """Listen.

        Raises:
            OSError: the address is in use.
        """
        await self._runner.setup()
        dual = not self._address[0] and socket.has_dualstack_ipv6()
        self._listener = socket.create_server(
            self._address,
            family=socket.AF_INET6 if dual else socket.AF_INET,
            backlog=BACKLOG,
            dualstack_ipv6=dual,
        )
        self._listener.setblocking(False)
        self._acceptor = asyncio.create_task(self._accept(self._listener), name="progress-acceptor")

    async def stop(self) -> None:
        """Stop listening and end what is open."""
        if self._acceptor is not None:
            self._acceptor.cancel()
            await asyncio.gather(self._acceptor, return_exceptions=True)
        if self._listener is not None:
            self._listener.close()
        for handshake in list(self._handshakes):
            handshake.cancel()
        await asyncio.gather(*self._handshakes, return_exceptions=True)
        await self._runner.cleanup()

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(listener)
            except OSError:
                # No file is left for another connection: those that are open end within seconds.
                await asyncio.sleep(1.0)
                continue
            if self._num_open() >= MAXIMUM_CONNECTIONS:
                connection.close()
                continue
            handshake = asyncio.create_task(self._shake_hands(connection))
            self._handshakes.add(handshake)
            handshake.add_done_callback(self._handshakes.discard)

    def _num_open(self) -> int:
        server = self._runner.server
        return len(self._handshakes) + (len(server.connections) if server is not None else 0)

    async def _shake_hands(self, connection: socket.socket) -> None:
        server = self._runner.server
        if server is None:
            connection.close()
            return
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                server,
                connection,
                ssl=self._context,
                ssl_handshake_timeout=HANDSHAKE_TIMEOUT_SECONDS,
                ssl_shutdown_timeout=1.0,
            )
        except OSError as error:
            # No client of ours, one that trusts another authority, or a slow one: nothing to answer. The
            # transport closes the socket; closing it here would free its number while it is still watched.
            logger.debug("A handshake failed: %s", error)
