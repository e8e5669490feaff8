"""kopf's connections to the API server: they tell when kopf lists, and bring no more than is needed."""

from collections.abc import Callable
from typing import Any

import aiohttp
import kopf

from trainyard_operator.cluster import METADATA, Resource


class WatchLogin:
    """Logs kopf in with sessions of our own, for one life of it.

    A list replaces what a broken watch would have told, but an object that is gone is not in it; kopf passes
    on the objects of a list, and of an empty one nothing at all. So whoever keeps objects has to know of it.

    Args:
        watched: what kopf watches.
        on_answer: told the plural of each list and each watch that kopf has got, and whether it is a list.
    """

    def __init__(self, watched: tuple[Resource, ...], on_answer: Callable[[str, bool], None]) -> None:
        self._watched = {resource.plural: resource for resource in watched}
        self._on_answer = on_answer
        self._sessions: dict[kopf.ConnectionInfo, aiohttp.ClientSession] = {}

    async def login(self, **kwargs: Any) -> kopf.AiohttpSession | None:
        """By the pod's service account, or a person's kubeconfig.

        Returns:
            None when there is neither, and for credentials that kopf had: it asks again when they were
            refused, and would ask for ever.
        """
        connection = kopf.login_with_service_account(**kwargs) or kopf.login_with_kubeconfig(**kwargs)
        if connection is None or connection in self._sessions:
            return None
        session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=connection.as_ssl_context()),
            headers=connection.as_http_headers(),
            proxy=connection.proxy_url,
            trust_env=connection.trust_env,
            trace_configs=[self._tracing()],
        )
        self._sessions[connection] = session
        return kopf.AiohttpSession(
            server=connection.server,
            default_namespace=connection.default_namespace,
            aiohttp_session=session,
        )

    async def close(self) -> None:
        """Close the connections that kopf has not closed itself."""
        for session in self._sessions.values():
            await session.close()

    def _tracing(self) -> aiohttp.TraceConfig:
        """What happens at the start and the end of each request."""
        config = aiohttp.TraceConfig()

        async def started(session: Any, context: Any, request: aiohttp.TraceRequestStartParams) -> None:
            del session, context
            resource = self._watched.get(request.url.name)
            # An empty list of metadata has null instead of items, on which kopf fails: its lists come whole.
            if resource is not None and resource.metadata_only and "watch" in request.url.query:
                request.headers["Accept"] = METADATA

        async def ended(session: Any, context: Any, request: aiohttp.TraceRequestEndParams) -> None:
            del session, context
            if request.url.name in self._watched and request.response.status == 200:
                self._on_answer(request.url.name, "watch" not in request.url.query)

        config.on_request_start.append(started)
        config.on_request_end.append(ended)
        return config
