"""Runs tasks in worker processes: results in the order of the tasks, whatever the number of processes.

Workers are spawned, not forked, so that threads and locks of the parent do no harm. They die with their
parent, ignore Ctrl-C (the parent stops them), and never import torch.
"""

import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Generic, TypeVar

from trainyard_api.errors import PreemptedError, TrainyardError, TransientError

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

Task = TypeVar("Task")
Result = TypeVar("Result")

Advance = Callable[[int], None]
"""Called by a task with the amount of work done since its last call; it may raise PreemptedError."""

POLL_SECONDS = 0.1
TERMINATE_SECONDS = 5.0


class WorkerError(Exception):
    """An error that a task did not foresee; holds the worker's traceback."""


@dataclass(frozen=True)
class Pool:
    """How tasks are run.

    Attributes:
        cores: worker processes at most; 1 runs the tasks in this process.
        should_stop: whether to give up; asked at least every POLL_SECONDS.
    """

    cores: int
    should_stop: Callable[[], bool] = field(default=lambda: False)

    def run(
        self,
        function: Callable[[Task, Advance], Result],
        tasks: Sequence[Task],
        advance: Advance = lambda _amount: None,
        *,
        always_spawn: bool = False,
    ) -> list[Result]:
        """The result of each task.

        Args:
            function: a module-level function of a task; results must not depend on the order of the tasks.
            tasks: what to do.
            advance: told about the work done.
            always_spawn: use a process also for a single one, because it could not be stopped otherwise.

        Raises:
            PreemptedError: should_stop became true; no worker is left.
            TransientError: a worker died.
            TrainyardError: a task raised it; no worker is left.
        """
        if not always_spawn and (self.cores == 1 or len(tasks) == 1):
            return [function(task, self._checked(advance)) for task in tasks]
        with_workers = _Workers(function, tasks, min(self.cores, len(tasks)))
        try:
            while not with_workers.finished:
                self._raise_if_stopped()
                advance(with_workers.poll())
        finally:
            with_workers.stop()
        return with_workers.results()

    def _checked(self, advance: Advance) -> Advance:
        def advance_unless_stopped(amount: int) -> None:
            self._raise_if_stopped()
            advance(amount)

        return advance_unless_stopped

    def _raise_if_stopped(self) -> None:
        if self.should_stop():
            raise stopped()


def stopped() -> PreemptedError:
    """The error of a preparation that was told to stop."""
    return PreemptedError("data preparation", "told to stop", "Start the run again to go on")


class _Workers(Generic[Task, Result]):
    """Worker processes and what each of them works on."""

    def __init__(
        self, function: Callable[[Task, Advance], Result], tasks: Sequence[Task], num_workers: int
    ) -> None:
        self._tasks = tasks
        self._results: dict[int, Result] = {}
        self._next = 0
        self._working: dict[Connection, int] = {}
        self._processes: list[BaseProcess] = []
        context = multiprocessing.get_context("spawn")
        for _ in range(num_workers):
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(function, theirs), daemon=True)
            process.start()
            theirs.close()
            self._processes.append(process)
            self._assign(ours)

    @property
    def finished(self) -> bool:
        return len(self._results) == len(self._tasks)

    def results(self) -> list[Result]:
        return [self._results[index] for index in range(len(self._tasks))]

    def poll(self) -> int:
        """Wait a moment for messages; returns the amount of work done."""
        amount = 0
        for connection in wait(list(self._working), timeout=POLL_SECONDS):
            assert isinstance(connection, Connection)  # noqa: S101 - narrows the type for mypy
            try:
                kind, value = connection.recv()
            except (EOFError, ConnectionResetError) as error:
                raise TransientError(
                    "data preparation",
                    "a worker process died, perhaps for lack of memory",
                    "Run again with fewer cores (--cores)",
                ) from error
            if kind == "error":
                raise value
            if kind == "advance":
                amount += value
            else:
                self._results[self._working.pop(connection)] = value
                self._assign(connection)
        return amount

    def stop(self) -> None:
        """End all workers."""
        for connection in list(self._working):
            connection.close()
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.join(TERMINATE_SECONDS)
            if process.is_alive():
                process.kill()
                process.join()

    def _assign(self, connection: Connection) -> None:
        if self._next == len(self._tasks):
            connection.close()
            return
        connection.send(self._tasks[self._next])
        self._working[connection] = self._next
        self._next += 1


def _work(function: Callable[[Task, Advance], Result], connection: Connection) -> None:
    """Body of a worker: tasks in, results out, until the parent closes the connection or dies."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            task = connection.recv()
            reporter = _Reporter(connection)
            try:
                result = function(task, reporter.advance)
            except (BrokenPipeError, ConnectionResetError):
                raise
            except (TrainyardError, OSError) as error:
                connection.send(("error", error))
            except Exception:  # noqa: BLE001 - sent to the parent, which raises it
                connection.send(("error", WorkerError(traceback.format_exc())))
            else:
                reporter.flush()
                connection.send(("result", result))


class _Reporter:
    """Sends the amount of work done, a few times a second."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._amount = 0
        self._sent_at = time.monotonic()

    def advance(self, amount: int) -> None:
        self._amount += amount
        if time.monotonic() - self._sent_at >= POLL_SECONDS:
            self.flush()

    def flush(self) -> None:
        self._connection.send(("advance", self._amount))
        self._amount = 0
        self._sent_at = time.monotonic()
