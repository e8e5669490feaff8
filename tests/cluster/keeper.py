"""Keeps one cluster: starts it, waits for the one who wanted it to go, and removes all of it.

    python -m tests.cluster.keeper '{"num_fake_nodes": 4, ...}'

It reads commands from standard input, a word a line, and answers each with a JSON line on standard output;
the first answer says that the cluster is up. When standard input ends, because its owner stopped it or was
killed, the cluster is taken down. Its programs die with the keeper, and what a killed keeper could not remove
is removed by the next one.
"""

import contextlib
import fcntl
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

from tests.cluster.control_plane import start_control_plane
from tests.cluster.fake_nodes import start_fake_nodes
from tests.cluster.locations import cluster_cache, states_folder
from tests.cluster.processes import Processes
from tests.cluster.real_node import start_real_node
from tests.cluster.state import State
from tests.cluster.teardown import remove_state
from trainyard_api.errors import TrainyardError, UnavailableError

START_REAL_NODE = "start-real-node"
DOWN = "down"

_LOCK = "keeper.lock"
_NODE_WAIT_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class Options:
    """What kind of cluster is wanted."""

    num_fake_nodes: int = 4
    real_node: bool = False
    """Whether the real node is started at once; it can be added later."""
    name: str = ""
    """Name of its state folder; a new one when empty."""
    detached: bool = False
    """Whether it stays up until a signal comes, instead of until standard input ends."""
    extra_arguments: dict[str, list[str]] = field(default_factory=dict)
    """More arguments of a program, such as {"kube-controller-manager": ["--kube-api-qps=1000"]}."""

    def to_json(self) -> str:
        """As the keeper's argument."""
        return json.dumps(asdict(self))


class Keeper:
    """One cluster and its programs.

    Args:
        state: its state folder, which exists and is locked.
        options: what kind of cluster.
    """

    def __init__(self, state: State, options: Options) -> None:
        self._state = state
        self._options = options
        self._processes = Processes(state.logs)
        self._node_lock: TextIO | None = None

    def start(self) -> dict[str, Any]:
        """Start the control plane and the fake nodes; what the owner has to know."""
        start_control_plane(self._state, self._processes, self._options.extra_arguments)
        start_fake_nodes(self._state, self._processes, self._options.num_fake_nodes)
        if self._options.real_node:
            self.obey(START_REAL_NODE)
        return {"folder": str(self._state.folder)}

    def obey(self, command: str) -> dict[str, Any]:
        """Do what the owner asks for."""
        if command == START_REAL_NODE:
            if self._node_lock is None:
                self._node_lock = _lock_real_node()
                start_real_node(self._state, self._processes)
            return {}
        raise UnavailableError(
            command, "the keeper knows no such command", f"Send {START_REAL_NODE} or {DOWN}"
        )

    def stop(self) -> dict[str, Any]:
        """Stop everything and remove its state; what went wrong before."""
        ended_early = self._processes.ended_early()
        self._processes.kill()
        remove_state(self._state.folder)
        if self._node_lock is not None:
            self._node_lock.close()
        return {"problems": ended_early}


@contextlib.contextmanager
def claimed_state(name: str) -> Iterator[State]:
    """A state folder of our own, once those of killed keepers are removed.

    Raises:
        UnavailableError: a cluster of that name is up.
    """
    states = states_folder()
    states.mkdir(parents=True, exist_ok=True)
    with (states.parent / "state.lock").open("w") as all_states:
        fcntl.flock(all_states, fcntl.LOCK_EX)
        for folder in states.iterdir():
            _remove_if_stale(folder)
        folder = states / name if name else Path(tempfile.mkdtemp(prefix="session-", dir=states))
        if name:
            try:
                folder.mkdir(mode=0o700)
            except FileExistsError:
                raise UnavailableError(
                    str(folder), "this cluster is up already", "Take it down first"
                ) from None
        lock = (folder / _LOCK).open("w")
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write(str(os.getpid()))
        lock.flush()
    with lock:
        yield State(folder)


def keeper_of(name: str) -> int | None:
    """The process that keeps the cluster of that name; None when none is up."""
    try:
        with (states_folder() / name / _LOCK).open() as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return int(lock.read())
    except FileNotFoundError:
        pass
    return None


def _remove_if_stale(folder: Path) -> None:
    """Remove a state folder that no living keeper holds."""
    with (folder / _LOCK).open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        remove_state(folder)


def _lock_real_node() -> TextIO:
    """The machine's only real node, for this keeper; waits for another one to be done with it."""
    lock = (cluster_cache() / "real-node.lock").open("w")
    deadline = time.monotonic() + _NODE_WAIT_SECONDS
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise UnavailableError(
                    "the real node",
                    f"another test session has held it for {_NODE_WAIT_SECONDS:.0f} s",
                    "Let that one end, or take its cluster down",
                ) from None
            time.sleep(0.5)
        else:
            return lock


def _answer(document: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(document) + "\n")
    sys.stdout.flush()


def _answer_error(error: TrainyardError) -> None:
    _answer({"error": [error.where, error.problem, error.remedy]})


def _leave(_signal: int, _frame: FrameType | None) -> None:
    """A request to stop, which ends the wait for commands."""
    raise SystemExit(0)


def _serve(keeper: Keeper, options: Options) -> None:
    """Answer commands until the owner is gone or wants the cluster down."""
    _answer(keeper.start())
    if options.detached:
        signal.pause()
    for line in sys.stdin:
        if line.strip() == DOWN:
            return
        try:
            _answer(keeper.obey(line.strip()))
        except TrainyardError as error:
            _answer_error(error)


def main() -> None:
    """Keep the cluster that the first argument describes."""
    options = Options(**json.loads(sys.argv[1]))
    signal.signal(signal.SIGTERM, _leave)
    try:
        with claimed_state(options.name) as state:
            keeper = Keeper(state, options)
            farewell: dict[str, Any] = {}
            try:
                _serve(keeper, options)
            finally:
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
                farewell = keeper.stop()
            with contextlib.suppress(BrokenPipeError):  # a killed owner reads no farewell
                _answer(farewell)
    except TrainyardError as error:
        _answer_error(error)
        sys.exit(1)


if __name__ == "__main__":
    main()
