"""Keeps kopf's watches open: what kopf calls fatal restarts the watches, not the operator."""

import asyncio
import logging
from collections.abc import Callable, Collection, Sequence
from typing import Any

import kopf

from trainyard_operator.cluster import Resource
from trainyard_operator.watch_login import WatchLogin

LOGGER = logging.getLogger(__name__)

RESTART_BASE_SECONDS = 0.5
RESTART_CAP_SECONDS = 15.0
CALM_SECONDS = 60.0
"""Watches that lived so long are restarted at once when they break."""
WATCHER = "watcher for "
"""How kopf names the tasks that watch."""
STOP_SECONDS = 5.0
"""How long kopf may take to end its tasks."""


class Watches:
    """Runs kopf until it is cancelled, again after each failure.

    kopf's own `run` ends every task of the event loop when it fails, ours included; so its tasks are started
    and ended here one by one.

    Args:
        watched: what is watched.
        make_registry: the handlers, anew for each start, because what logs kopf in lives as long as kopf.
        make_settings: kopf's settings, anew for each start, because kopf writes into them.
        namespaces: those that are served; all when empty.
        on_answer: told the plural of each list and watch that is answered, and whether it is a list. What
            went before a list is told by no event.
        install_signals: called whenever kopf has put its own handlers of SIGTERM and SIGINT in place.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - the parts of kopf's life
        self,
        watched: tuple[Resource, ...],
        make_registry: Callable[[WatchLogin], kopf.OperatorRegistry],
        make_settings: Callable[[], kopf.OperatorSettings],
        namespaces: Sequence[str],
        on_answer: Callable[[str, bool], None],
        install_signals: Callable[[], None],
    ) -> None:
        self._watched = watched
        self._make_registry = make_registry
        self._make_settings = make_settings
        self._namespaces = namespaces
        self._on_answer = on_answer
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
        login = WatchLogin(self._watched, self._on_answer)
        tasks: Collection[asyncio.Task[Any]] = await kopf.spawn_tasks(
            registry=self._make_registry(login),
            settings=self._make_settings(),
            clusterwide=not self._namespaces,
            namespaces=self._namespaces,
        )
        self._install_signals()
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                LOGGER.warning(
                    "%s has ended: %r; the watches are opened again", task.get_name(), _error_of(task)
                )
        finally:
            await _end(tasks)
            await _end(_left_behind())
            await login.close()


def _left_behind() -> Collection[asyncio.Task[Any]]:
    """The watchers that kopf leaves behind when one of them fails; each would wait for a login for ever."""
    return {task for task in asyncio.all_tasks() if task.get_name().startswith(WATCHER)}


async def _end(tasks: Collection[asyncio.Task[Any]]) -> None:
    """Cancel tasks, and wait until they have ended, or do not."""
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=STOP_SECONDS)
    for task in tasks:
        _error_of(task)


def _error_of(task: asyncio.Task[Any]) -> BaseException | None:
    """The error of a task that has ended; asking for it keeps asyncio from complaining."""
    return task.exception() if task.done() and not task.cancelled() else None
