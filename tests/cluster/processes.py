"""The programs of one cluster, started as children that cannot outlive their keeper."""

import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from trainyard_api.errors import UnavailableError

_POLL_SECONDS = 0.05
_LOG_TAIL_BYTES = 2000


class Processes:
    """Starts programs with a log file each, and stops them.

    Args:
        logs: folder of the log files.
    """

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, command: Sequence[str | Path]) -> None:
        """Start a program in the background.

        `setpriv` asks the kernel to kill it when the keeper ends, whatever ends that.
        """
        with (self._logs / f"{name}.log").open("ab") as log:
            self._running[name] = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "--", *map(str, command)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self._logs,
                start_new_session=True,
            )

    def wait_until(self, is_ready: Callable[[], bool], names: Sequence[str], timeout_seconds: float) -> None:
        """Wait for a condition that the named programs bring about.

        Raises:
            UnavailableError: one of them ended, or the time is over; with the end of its log.
        """
        deadline = time.monotonic() + timeout_seconds
        while not is_ready():
            for name in names:
                code = self._running[name].poll()
                if code is not None:
                    raise self._failure(name, f"it ended with code {code}")
            if time.monotonic() > deadline:
                raise self._failure(names[-1], f"it was not ready after {timeout_seconds:.0f} s")
            time.sleep(_POLL_SECONDS)

    def kill(self) -> None:
        """End all programs at once: their state is thrown away, so that none has anything to save."""
        for process in self._running.values():
            process.kill()
        for process in self._running.values():
            process.wait()

    def ended_early(self) -> list[str]:
        """What is to say of programs that ended although nobody stopped them."""
        return [
            str(self._failure(name, f"it ended with code {process.returncode}"))
            for name, process in self._running.items()
            if process.poll() is not None
        ]

    def _failure(self, name: str, problem: str) -> UnavailableError:
        log = self._logs / f"{name}.log"
        tail = log.read_bytes()[-_LOG_TAIL_BYTES:].decode(errors="replace").strip()
        return UnavailableError(name, f"{problem}. Its log ends with:\n{tail}\n", f"Read {log}")
