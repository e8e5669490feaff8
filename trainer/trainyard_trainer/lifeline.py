"""No process outlives the one that started it, also when that one is killed with SIGKILL.

The local runner gives its children a pipe as standard input and never writes to it: when the runner is gone,
they read its end. In a pod standard input is no pipe and nothing is watched. A rank dies with its agent by
PR_SET_PDEATHSIG, which Linux offers; the agent tells its process number, so that a rank whose agent died
before it could ask notices that too.
"""

import ctypes
import os
import signal
import stat
import sys
import threading

PR_SET_PDEATHSIG = 1
PARENT_VARIABLE = "TRAINYARD_PARENT_PROCESS"
"""Environment variable with the process number of the agent."""


def die_with_runner() -> None:
    """Kill the own process group when the pipe on standard input is closed; nothing when it is no pipe."""
    try:
        is_pipe = stat.S_ISFIFO(os.fstat(0).st_mode)
    except OSError:
        return
    if is_pipe:
        threading.Thread(target=_wait_for_end, name="lifeline", daemon=True).start()


def _wait_for_end() -> None:
    while os.read(0, 1):
        pass
    os.killpg(os.getpgrp(), signal.SIGKILL)


def die_with_parent() -> None:
    """Ask the kernel for SIGKILL when the parent ends (Linux; elsewhere nothing happens)."""
    if not sys.platform.startswith("linux"):
        return
    parent = int(os.environ.get(PARENT_VARIABLE, os.getppid()))
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        # The parent ended before the request was made.
        os.kill(os.getpid(), signal.SIGKILL)
