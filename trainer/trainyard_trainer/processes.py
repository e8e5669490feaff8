"""Child processes of the local runner: each in a session of its own, with a log and a lifeline."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from trainyard_api.plan import NodePlan

LOG_TAIL_LINES = 20
LOG_TAIL_BYTES = 16_384


@dataclass
class ChildProcess:
    """A started node of a stage."""

    index: int
    """Number of the node."""
    popen: subprocess.Popen[bytes]
    """The process."""
    log: Path
    """Where its output goes."""
    ended_at: float | None = None
    """Unix time at which its end was seen."""
    stopped: bool = False
    """Whether the runner ended it because another one had failed."""

    def poll(self, now: float) -> int | None:
        """Exit code, or None while it runs."""
        code = self.popen.poll()
        if code is not None and self.ended_at is None:
            self.ended_at = now
        return code

    def send(self, number: signal.Signals) -> None:
        """Signal the process."""
        if self.popen.poll() is None:
            self.popen.send_signal(number)

    def kill_group(self) -> None:
        """End the process and its group at once; its ranks follow by their own death signal."""
        with suppress(ProcessLookupError):
            os.killpg(self.popen.pid, signal.SIGKILL)


@contextmanager
def started(
    nodes: Sequence[NodePlan], logs: Path, stage: str, inherited: Mapping[str, str]
) -> Iterator[list[ChildProcess]]:
    """Start the nodes of a stage; on leaving, none of them is left running."""
    logs.mkdir(parents=True, exist_ok=True)
    children: list[ChildProcess] = []
    try:
        for node in nodes:
            children.append(_start(node, logs / f"{stage.lower()}-node-{node.index}.log", inherited))  # noqa: PERF401 - a failure must find those that were started
        yield children
    finally:
        for child in children:
            child.kill_group()
        for child in children:
            child.popen.wait()
            if child.popen.stdin is not None:
                child.popen.stdin.close()


def _start(node: NodePlan, log: Path, inherited: Mapping[str, str]) -> ChildProcess:
    with log.open("ab") as output:
        popen = subprocess.Popen(
            node.argv,
            env={**inherited, **node.env},
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return ChildProcess(index=node.index, popen=popen, log=log)


def log_tail(path: Path, num_lines: int = LOG_TAIL_LINES) -> str:
    """The last lines of a log; empty when there is none."""
    if not path.exists():
        return ""
    with path.open("rb") as file:
        file.seek(0, os.SEEK_END)
        file.seek(max(0, file.tell() - LOG_TAIL_BYTES))
        lines = file.read().decode(errors="replace").splitlines()
    return "\n".join(lines[-num_lines:])


def wait_a_moment(seconds: float = 0.1) -> None:
    """Sleep between two looks at the children."""
    time.sleep(seconds)


def free_port() -> int:
    """A TCP port of loopback that nobody listens on at this moment."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
