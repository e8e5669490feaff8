"""A way to the API server that counts, and that fails on demand: requests, answers and watch streams.

It listens by plain HTTP on loopback and passes on what its clients send, their tokens included; towards the
API server it speaks TLS. Everything runs in a thread of its own; tests set `fault_of` and call the methods.
"""

import asyncio
import base64
import json
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import aiohttp
import yaml
from aiohttp import web

HOST = "127.0.0.1"
START_SECONDS = 30.0
LARGEST_BODY = 16 * 1024 * 1024
_ANSWER_SECONDS = 60.0
_FAREWELL_SECONDS = 0.3
_CONNECTION_HEADERS = frozenset({"connection", "host", "content-length", "transfer-encoding", "keep-alive"})


@dataclass(frozen=True, slots=True)
class Call:
    """A request that came."""

    method: str
    path: str
    is_watch: bool

    @property
    def is_write(self) -> bool:
        """Whether it changes something; a TokenReview is a question."""
        return self.method != "GET" and not self.path.endswith("/tokenreviews")

    @property
    def place(self) -> str:
        """Method and path without the names of namespaces and objects of one run, for people."""
        return f"{self.method} {urlsplit(self.path).path}"


class Fault(Enum):
    """What goes wrong with a request."""

    NONE = auto()
    CONFLICT = auto()
    """409: somebody else changed something at the same time; nothing is done."""
    THROTTLED = auto()
    """429: come back later; nothing is done."""
    FAILED = auto()
    """500: nothing is done."""
    LOST = auto()
    """It is done, but no answer comes in time."""
    CUT_BEFORE = auto()
    """Nothing is done, and the connection ends."""
    CUT_AFTER = auto()
    """It is done, and the connection ends without an answer."""


_ANSWERS = {
    Fault.CONFLICT: (409, "Conflict", "the object has been modified; please apply your changes again"),
    Fault.THROTTLED: (429, "TooManyRequests", "too many requests, please try again later"),
    Fault.FAILED: (500, "InternalError", "etcdserver: leader changed"),
}


def never(call: Call) -> Fault:
    """Everything works."""
    del call
    return Fault.NONE


class _Stream:
    """A watch that is open."""

    def __init__(self, response: web.StreamResponse) -> None:
        self.response = response
        self.is_silent = False
        self.ending = asyncio.Event()
        self.last_words = b""


class ApiProxy:
    """The way; a context.

    Args:
        kubeconfig: the API server; users come with their own tokens.
        fault_of: what goes wrong with each request; called in the proxy's thread.
        lost_seconds: how long the client of a lost answer is left waiting.
    """

    def __init__(
        self, kubeconfig: Path, fault_of: Callable[[Call], Fault] = never, lost_seconds: float = 5.0
    ) -> None:
        cluster = yaml.safe_load(kubeconfig.read_text())["clusters"][0]["cluster"]
        self._server: str = cluster["server"]
        if "certificate-authority-data" in cluster:
            authority = base64.b64decode(cluster["certificate-authority-data"]).decode()
            self._trust = ssl.create_default_context(cadata=authority)
        else:
            self._trust = ssl.create_default_context(cafile=cluster["certificate-authority"])
        self.fault_of = fault_of
        self._lost_seconds = lost_seconds
        self.calls: list[Call] = []
        self.refused_watches: int | None = None
        """Status code that new watches are refused with; None lets them through."""
        self._streams: set[_Stream] = set()
        self._loop = asyncio.new_event_loop()
        # A daemon: a proxy that doesn't end fails its test, and doesn't keep the process of all tests alive.
        self._thread = threading.Thread(target=self._loop.run_forever, name="api-proxy", daemon=True)
        self._port = 0

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(START_SECONDS)
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(START_SECONDS)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://{HOST}:{self._port}"

    @property
    def writes(self) -> list[Call]:
        """The writes that came so far."""
        return [call for call in self.calls if call.is_write]

    def silence_watches(self) -> None:
        """From now on nothing comes through the watches that are open; new ones work."""
        self._in_loop(self._silence)

    def break_watches(self, code: int) -> None:
        """End all open watches with an event that reports an error."""
        self._in_loop(lambda: self._break(code))

    async def _start(self) -> None:
        self._session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=_ANSWER_SECONDS),
            connector=aiohttp.TCPConnector(limit=0, ssl=self._trust),
            auto_decompress=False,
        )
        application = web.Application(client_max_size=LARGEST_BODY)
        application.router.add_route("*", "/{anything:.*}", self._pass_on)
        self._runner = web.AppRunner(
            application,
            access_log=None,
            handle_signals=False,
            auto_decompress=False,
            # aiohttp takes 0 for no limit, and a watch that opens meanwhile has no end of its own.
            shutdown_timeout=_FAREWELL_SECONDS,
        )
        await self._runner.setup()
        await web.TCPSite(self._runner, HOST, 0).start()
        self._port = int(self._runner.addresses[0][1])

    async def _stop(self) -> None:
        self._break(0)
        await self._runner.cleanup()
        await self._session.close()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        # Connections are closed by callbacks; those of TLS take leave of the API server first.
        await asyncio.sleep(_FAREWELL_SECONDS)

    def _in_loop(self, action: Callable[[], None]) -> None:
        """Do something in the proxy's thread, and wait until it is done."""

        async def act() -> None:
            action()

        asyncio.run_coroutine_threadsafe(act(), self._loop).result(START_SECONDS)

    def _silence(self) -> None:
        for stream in self._streams:
            stream.is_silent = True

    def _break(self, code: int) -> None:
        status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code}
        event = {"type": "ERROR", "object": {**status, "reason": "Test", "message": f"broken by {code}"}}
        for stream in self._streams:
            stream.last_words = json.dumps(event).encode() + b"\n" if code else b""
            stream.ending.set()

    async def _pass_on(self, request: web.Request) -> web.StreamResponse:
        """Answer a request as the API server does, or as the fault wants it."""
        call = Call(request.method, request.path_qs, request.query.get("watch") == "true")
        self.calls.append(call)
        if call.is_watch:
            return await self._watch(request)
        fault = self.fault_of(call)
        if fault in _ANSWERS:
            return _answer(*_ANSWERS[fault])
        if fault is Fault.CUT_BEFORE:
            return self._cut(request)
        async with await self._forward(request) as upstream:
            body = await upstream.read()
            if fault is Fault.LOST:
                await asyncio.sleep(self._lost_seconds)
            if fault in (Fault.LOST, Fault.CUT_AFTER):
                return self._cut(request)
            headers = {"Content-Type": upstream.headers.get("Content-Type", "application/json")}
            return web.Response(status=upstream.status, body=body, headers=headers)

    async def _forward(self, request: web.Request) -> aiohttp.ClientResponse:
        headers = {
            name: value for name, value in request.headers.items() if name.lower() not in _CONNECTION_HEADERS
        }
        headers["Accept-Encoding"] = "identity"
        body = await request.read()
        # Without a body there must be no type of it either.
        return await self._session.request(
            request.method, f"{self._server}{request.path_qs}", headers=headers, data=body or None
        )

    @staticmethod
    def _cut(request: web.Request) -> web.Response:
        if request.transport is not None:
            request.transport.abort()
        return web.Response()

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        if self.refused_watches is not None:
            return _answer(self.refused_watches, "Test", f"refused by {self.refused_watches}")
        async with await self._forward(request) as upstream:
            response = web.StreamResponse(
                status=upstream.status, headers={"Content-Type": upstream.headers["Content-Type"]}
            )
            await response.prepare(request)
            stream = _Stream(response)
            self._streams.add(stream)
            pump = asyncio.create_task(self._pump(upstream, stream))
            end = asyncio.create_task(stream.ending.wait())
            try:
                await asyncio.wait({pump, end}, return_when=asyncio.FIRST_COMPLETED)
                if stream.last_words:
                    await response.write(stream.last_words)
            except ConnectionError:
                pass  # the client has left, as clients may
            finally:
                self._streams.discard(stream)
                for task in (pump, end):
                    task.cancel()
                await asyncio.gather(pump, end, return_exceptions=True)
            return response

    @staticmethod
    async def _pump(upstream: aiohttp.ClientResponse, stream: _Stream) -> None:
        """Pass events on; of a silent stream they are lost, and it stays open."""
        async for chunk in upstream.content.iter_any():
            if not stream.is_silent:
                await stream.response.write(chunk)
        if stream.is_silent:
            await asyncio.Event().wait()


def _answer(code: int, reason: str, message: str) -> web.Response:
    """A failure as the API server tells it."""
    body = {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "reason": reason,
        "message": message,
        "code": code,
    }
    headers = {"Retry-After": "1"} if code == 429 else {}
    return web.json_response(body, status=code, headers=headers)
