"""Which process of a gang failed first, and why: everything else died of it."""

import signal
from collections.abc import Iterable
from dataclasses import dataclass

from trainyard_api.names import PERMANENT_EXIT_CODES, ExitCode, Reason
from trainyard_api.progress import ExitRecord
from trainyard_api.status import Failure

SIMULTANEOUS_SECONDS = 5.0
"""Ends this close together are one event: peers notice a loss within milliseconds, parents poll slowly."""

_REASONS = {
    ExitCode.INVALID_CONFIGURATION: Reason.INVALID_CONFIGURATION,
    ExitCode.INVALID_DATA: Reason.INVALID_DATA,
    ExitCode.STORAGE_FULL: Reason.STORAGE_FULL,
    ExitCode.DIVERGED: Reason.DIVERGED,
    ExitCode.PREEMPTED: Reason.PREEMPTED,
    ExitCode.DEADLINE_EXCEEDED: Reason.DEADLINE_EXCEEDED,
}


@dataclass(frozen=True, slots=True)
class ProcessEnd:
    """How one process of a gang ended, as its parent saw it."""

    exit_code: int
    """Exit code; 128 + n or -n for death by signal n."""
    ended_at: float
    """Unix time, in seconds."""
    rank: int | None = None
    """Global rank; None for a process that is no rank, such as an agent."""
    pod: str = ""
    """Pod (on a laptop: the node's name)."""
    node: str = ""
    """Node it ran on."""
    log_tail: str = ""
    """The last lines of its log."""
    record: ExitRecord | None = None
    """What the process itself wrote when it left; a killed one writes nothing."""
    stopped: bool = False
    """Whether its parent stopped it because another one had failed."""
    out_of_memory: bool = False
    """Whether the kernel or the kubelet says that it was killed for memory (oom_kill, OOMKilled)."""


def first_failure(ends: Iterable[ProcessEnd]) -> Failure | None:
    """The failure that the others followed from, or None when every process succeeded.

    The earliest end decides. Among ends within SIMULTANEOUS_SECONDS of it the most telling one does: one that
    was killed or named a permanent cause comes before one that crashed, before one that lost a peer, before
    one that was told to stop.
    """
    failed = [end for end in ends if normalized_exit_code(end.exit_code) != ExitCode.SUCCEEDED]
    if not failed:
        return None
    unasked = [end for end in failed if not end.stopped] or failed
    earliest = min(end.ended_at for end in unasked)
    candidates = [end for end in unasked if end.ended_at <= earliest + SIMULTANEOUS_SECONDS]
    first = min(candidates, key=_precedence)
    return Failure(
        pod=first.pod,
        node=first.node,
        rank=first.rank,
        exit_code=normalized_exit_code(first.exit_code),
        reason=failure_reason(first),
        message=_message(first),
        log_tail=first.log_tail,
    )


def failure_reason(end: ProcessEnd) -> Reason:
    """Why a process ended; exit code 137 alone is no evidence of memory: anyone may send SIGKILL."""
    exit_code = normalized_exit_code(end.exit_code)
    if _ran_out_of_memory(end):
        return Reason.OUT_OF_MEMORY
    if exit_code in _REASONS:
        return _REASONS[ExitCode(exit_code)]
    if _signal_number(exit_code):
        return Reason.PROCESS_KILLED
    return Reason.PROCESS_FAILED


def normalized_exit_code(exit_code: int) -> int:
    """The exit code as a shell gives it: 128 + n where subprocess says -n."""
    return 128 - exit_code if exit_code < 0 else exit_code


def _precedence(end: ProcessEnd) -> tuple[int, float, int]:
    """Sort key: how telling the end is, then when it was, then the rank."""
    exit_code = normalized_exit_code(end.exit_code)
    if exit_code in (128 + signal.SIGTERM, 128 + signal.SIGINT, ExitCode.PREEMPTED):
        tellingness = 3
    elif exit_code == ExitCode.RETRYABLE:
        tellingness = 2
    elif _ran_out_of_memory(end) or _signal_number(exit_code) or exit_code in PERMANENT_EXIT_CODES:
        tellingness = 0
    else:
        tellingness = 1
    return tellingness, end.ended_at, -1 if end.rank is None else end.rank


def _ran_out_of_memory(end: ProcessEnd) -> bool:
    """Whether its parent says so, or the agent that speaks for a killed rank did."""
    return end.out_of_memory or (end.record is not None and end.record.reason == Reason.OUT_OF_MEMORY)


def _signal_number(exit_code: int) -> int:
    """Signal that a normalized exit code stands for, or 0."""
    number = exit_code - 128
    return number if 0 < number < signal.NSIG else 0


def _message(end: ProcessEnd) -> str:
    """What the process said itself, else what its exit code says."""
    exit_code = normalized_exit_code(end.exit_code)
    if _ran_out_of_memory(end):
        return "Killed because memory ran out; lower microBatchSize or sequenceLength, or give it more memory"
    if end.record is not None and end.record.message:
        return end.record.message
    number = _signal_number(exit_code)
    if number:
        name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
        return f"Killed by {name}"
    known = {code.value: code.name for code in ExitCode}
    return f"Exit code {exit_code}" + (f" ({known[exit_code]})" if exit_code in known else "")
