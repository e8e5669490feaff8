"""The first process of a container passes signals on and reaps what nobody waits for.

The kernel ignores signals to process 1 of a PID namespace that has no handler for them, and gives it every
orphan to wait for. Python with torch loads for seconds before a handler is there, so a SIGTERM in that time
would be lost and the pod would be killed at the end of its grace period. So process 1 stays small, and the
command runs in a child, in which signals work from its first instruction. Keep the imports here few: they are
what process 1 keeps in memory.
"""

import os
import signal
from collections.abc import Set as AbstractSet

FORWARDED = frozenset(
    {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2}
)


def continue_in_child_of_init() -> None:
    """Return in a child when this is the first process of its namespace; anywhere else return at once.

    The first process never returns: it ends with the child's exit code, 128 + n for death by signal n.
    """
    if os.getpid() != 1:
        return
    waited_for = FORWARDED | {signal.SIGCHLD}
    # Blocked signals stay pending, also for process 1, until they are waited for.
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, waited_for)
    child = os.fork()
    if child == 0:
        _take_terminal()
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)
        return
    os._exit(_wait_for(child, waited_for))


def _take_terminal() -> None:
    """Become a process group of its own, in front of the terminal where there is one.

    Otherwise Ctrl-C would reach the command twice, from the terminal and from the first process, and the
    second one means "at once".
    """
    os.setpgid(0, 0)
    if os.isatty(0):
        # Who takes the terminal from behind is stopped by this signal.
        previous = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTOU})
        os.tcsetpgrp(0, os.getpgrp())
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)


def _wait_for(child: int, signals: AbstractSet[signal.Signals]) -> int:
    """Pass signals on and reap orphans until the child has ended; its exit code."""
    while True:
        received = signal.sigwait(signals)
        if received != signal.SIGCHLD:
            os.kill(child, received)
            continue
        code = _reap(child)
        if code is not None:
            return code


def _reap(child: int) -> int | None:
    """Wait for every process that has ended; the child's exit code when it is among them."""
    code = None
    while True:
        try:
            process, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return code
        if process == 0:
            return code
        if process == child:
            exit_code = os.waitstatus_to_exitcode(status)
            code = 128 - exit_code if exit_code < 0 else exit_code
