"""Keeps kopf's watches open: what kopf calls fatal restarts the watches, not the operator."""

import asyncio
import logging
from collections.abc import Callable, Collection, Sequence
from typing import Any

import kopf

LOGGER = logging.getLogger(__name__)

RESTART_BASE_SECONDS = 0.5
RESTART_CAP_SECONDS = 15.0
CALM_SECONDS = 60.0
"""Watches that lived so long are restarted at once when they break."""
STOP_SECONDS = 5.0
"""How long kopf may take to end its tasks."""


class Watches:
    """Runs kopf until it is cancelled, again after each failure.

    kopf's own `run` ends every task of the event loop when it fails, ours included; so its tasks are started
    and ended here one by one.

    Args:
        registry: the handlers.
        make_settings: kopf's settings, anew for each start, because kopf writes into them.
        namespaces: those that are served; all when empty.
        on_restart: called when they are opened again, to find what was lost in between.
        install_signals: called whenever kopf has put its own handlers of SIGTERM and SIGINT in place.
    """

    def __init__(
        self,
        registry: kopf.OperatorRegistry,
        make_settings: Callable[[], kopf.OperatorSettings],
        namespaces: Sequence[str],
        on_restart: Callable[[], None],
        install_signals: Callable[[], None],
    ) -> None:
        self._registry = registry
        self._make_settings = make_settings
        self._namespaces = namespaces
        self._on_restart = on_restart
        self._install_signals = install_signals
        self.restarts = 0
        """How often they broke."""

    async def run(self) -> None:
        """Watch until cancelled."""
        loop = asyncio.get_running_loop()
        delay = RESTART_BASE_SECONDS
        while True:
            started_at = loop.time()
            await self._run_once()
            self.restarts += 1
            if loop.time() - started_at >= CALM_SECONDS:
                delay = RESTART_BASE_SECONDS
            await asyncio.sleep(delay)
            delay = min(2.0 * delay, RESTART_CAP_SECONDS)

    async def _run_once(self) -> None:
        """One life of kopf; returns when it has broken and everything of it is ended."""
        tasks: Collection[asyncio.Task[Any]] = await kopf.spawn_tasks(
            registry=self._registry,
            settings=self._make_settings(),
            clusterwide=not self._namespaces,
            namespaces=self._namespaces,
        )
        self._install_signals()
        try:
            if self.restarts:
                self._on_restart()
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                LOGGER.warning(
                    "%s has ended: %r; the watches are opened again", task.get_name(), _error_of(task)
                )
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=STOP_SECONDS)
            for task in tasks:
                _error_of(task)


def _error_of(task: asyncio.Task[Any]) -> BaseException | None:
    """The error of a task that has ended; asking for it keeps asyncio from complaining."""
    return task.exception() if task.done() and not task.cancelled() else None
