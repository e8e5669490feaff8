"""/metrics, /healthz and /readyz, by plain HTTP inside the cluster.

That /healthz answers shows that the event loop is alive; checks add what else has to hold.
"""

import asyncio
from collections.abc import Callable, Mapping

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

Check = Callable[[], str | None]
"""What is wrong, or None."""


class MetricsServer:
    """Serves until it is stopped.

    Args:
        registry: what /metrics shows.
        liveness: checks by name; a failing one has the pod restarted.
        readiness: checks by name; a failing one takes the pod out of Services.
        host: address to listen on; empty for all.
        port: port to listen on; 0 lets the system choose.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        *,
        liveness: Mapping[str, Check],
        readiness: Mapping[str, Check],
        host: str,
        port: int,
    ) -> None:
        self._registry = registry
        self._liveness = liveness
        self._readiness = readiness
        application = web.Application()
        application.router.add_get("/metrics", self._metrics)
        application.router.add_get("/healthz", self._healthz)
        application.router.add_get("/readyz", self._readyz)
        self._runner = web.AppRunner(application, access_log=None, handle_signals=False)
        self._address = (host or None, port)

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return int(self._runner.addresses[0][1]) if self._runner.addresses else self._address[1]

    async def start(self) -> None:
        """Listen.

        Raises:
            OSError: the port is in use.
        """
        await self._runner.setup()
        await web.TCPSite(self._runner, *self._address).start()

    async def stop(self) -> None:
        """Stop listening."""
        await self._runner.cleanup()

    async def _metrics(self, request: web.Request) -> web.Response:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        # Thousands of series take a while to write; the event loop goes on meanwhile.
        body = await asyncio.to_thread(encode, self._registry)
        response = web.Response(body=body, headers={"Content-Type": content_type})
        response.enable_compression()
        return response

    async def _healthz(self, request: web.Request) -> web.Response:
        del request
        return _verdict(self._liveness)

    async def _readyz(self, request: web.Request) -> web.Response:
        del request
        return _verdict(self._readiness)


def _verdict(checks: Mapping[str, Check]) -> web.Response:
    """200 when all checks hold, else 503 with what is wrong."""
    problems = {name: problem for name, check in checks.items() if (problem := check())}
    if not problems:
        return web.Response(text="ok\n")
    lines = "".join(f"{name}: {problem}\n" for name, problem in problems.items())
    return web.Response(text=lines, status=503)
