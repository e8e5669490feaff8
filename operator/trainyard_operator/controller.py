"""The workers that take runs from the queue and reconcile them, as long as this replica leads."""

import asyncio
import logging
from collections.abc import Callable
from typing import Protocol

from trainyard_operator.errors import ClusterError, NotLeadingError, ThrottledError
from trainyard_operator.keys import RunKey
from trainyard_operator.work_queue import WorkQueue

LOGGER = logging.getLogger(__name__)


class Pass(Protocol):
    """One pass over one run."""

    async def reconcile(self, key: RunKey) -> None:
        """Do it."""


class Controller:
    """Runs passes.

    Args:
        queue: the runs to look at.
        reconciler: does the passes.
        is_leading: whether this replica may act; otherwise runs are dropped, and looked at once it may.
        on_pass: told the result (success, requeued, error) and the seconds of each pass.
        on_workers: told how many passes are at work, and how many may be.
    """

    def __init__(
        self,
        queue: WorkQueue[RunKey],
        reconciler: Pass,
        is_leading: Callable[[], bool],
        on_pass: Callable[[str, float], None],
        on_workers: Callable[[int, int], None],
    ) -> None:
        self._queue = queue
        self._reconciler = reconciler
        self._is_leading = is_leading
        self._on_pass = on_pass
        self._on_workers = on_workers
        self._maximum = 0
        self._active = 0

    async def run(self, workers: int) -> None:
        """Work until cancelled."""
        self._maximum = workers
        async with asyncio.TaskGroup() as group:
            for _ in range(workers):
                group.create_task(self._work())

    async def _work(self) -> None:
        while True:
            key = await self._queue.get()
            self._count(1)
            try:
                if self._is_leading():
                    await self._pass(key)
            finally:
                self._queue.done(key)
                self._count(-1)

    def _count(self, change: int) -> None:
        """A pass begins or ends."""
        self._active += change
        self._on_workers(self._active, self._maximum)

    async def _pass(self, key: RunKey) -> None:
        """One pass, with what follows from its errors; an error of one run never stops the others."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        try:
            await self._reconciler.reconcile(key)
            result = "success"
        except NotLeadingError:
            result = "requeued"
        except ClusterError as error:
            result = "requeued"
            least = error.retry_after if isinstance(error, ThrottledError) else 0.0
            delay = self._queue.add_after_error(key, least)
            LOGGER.warning("%s: %s: %s; again in %.1f s", key, type(error).__name__, error, delay)
        except Exception:
            result = "error"
            delay = self._queue.add_after_error(key)
            LOGGER.exception("%s: the pass failed; again in %.1f s", key, delay)
        self._on_pass(result, loop.time() - started)
