"""The comparison with the API server: now and then, and soon after watches may have lost something."""

import asyncio
from collections.abc import Sequence

from trainyard_operator.cluster import Cluster
from trainyard_operator.intake import Intake

SETTLE_SECONDS = 3.0
"""Between request and comparison: one serves many requests, and watches are open again by then."""


class Resync:
    """Keeps memory and API server together.

    Args:
        intake: compares.
        cluster: the API server.
        namespaces: those that are served; all when empty.
        interval_seconds: between two comparisons that nobody asked for.
    """

    def __init__(
        self, intake: Intake, cluster: Cluster, namespaces: Sequence[str], interval_seconds: float
    ) -> None:
        self._intake = intake
        self._cluster = cluster
        self._namespaces = namespaces
        self._interval_seconds = interval_seconds
        self._requested = asyncio.Event()
        self.is_done_once = False
        """Whether everything was seen at least once."""

    def request(self) -> None:
        """Compare soon."""
        self._requested.set()

    async def now(self) -> None:
        """Compare, however long it takes to get the lists."""
        self._requested.clear()
        await self._intake.resync_until_done(self._cluster, self._namespaces)
        self.is_done_once = True

    async def run(self) -> None:
        """Compare until cancelled."""
        while True:
            try:
                async with asyncio.timeout(self._interval_seconds):
                    await self._requested.wait()
            except TimeoutError:
                pass  # nobody asked for it; it is time
            else:
                await asyncio.sleep(SETTLE_SECONDS)
            await self.now()
