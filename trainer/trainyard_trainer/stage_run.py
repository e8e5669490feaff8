"""One stage on this machine: start its processes, watch them, and end them all when one fails."""

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from trainyard_api.names import GANG_STAGES, ExitCode, Stage
from trainyard_api.plan import RunPlan
from trainyard_api.policy.failure import ProcessEnd, first_failure, normalized_exit_code
from trainyard_api.status import Failure
from trainyard_trainer.exit_records import (
    gang_logs,
    read_exit_record,
    read_exit_records,
    stage_exit_record_path,
)
from trainyard_trainer.memory_kills import count_memory_kills, with_memory_kills
from trainyard_trainer.processes import ChildProcess, log_tail, started, wait_a_moment

SETTLE_SECONDS = 0.5
"""How long other ends are collected after the first failure, to find the cause among them."""

SURVIVOR_SECONDS = 10.0
"""How long processes that were asked to stop may go on when others have ended: alone they cannot save."""

STOPPED_CODES = frozenset({ExitCode.PREEMPTED, 128 + signal.SIGTERM, 128 + signal.SIGINT})
"""Exit codes of processes that only did what they were asked."""


@dataclass(frozen=True)
class StageOutcome:
    """How a stage ended."""

    exit_code: int
    """0, or the code of the process that failed first; 128 + n for death by signal n."""
    failure: Failure | None = None
    """The evidence; None when no process failed of itself."""


@dataclass
class StopControl:
    """What the runner was asked to do, by signals or by a deadline."""

    requested: bool = False
    """Whether the run is to stop after a checkpoint."""
    insisted: bool = False
    """Whether it is to stop at once."""
    deadline_exceeded: bool = False
    """Whether the active deadline is what stops it."""

    @property
    def exit_code(self) -> ExitCode:
        """The code of a stage that ended because it was asked to."""
        return ExitCode.DEADLINE_EXCEEDED if self.deadline_exceeded else ExitCode.PREEMPTED

    def ask(self) -> None:
        """Ask to stop; asked twice, insist."""
        self.insisted = self.requested
        self.requested = True


def run_stage(  # noqa: PLR0913 - what the runner knows and the plan does not
    plan: RunPlan,
    stage: Stage,
    stop: StopControl,
    tick: Callable[[], None],
    *,
    clock: Callable[[], float],
    grace_seconds: float,
    at_once: int = 1,
) -> StageOutcome:
    """Run the processes of a stage to their end.

    Args:
        plan: the run.
        stage: which stage.
        stop: read all the time.
        tick: called about ten times a second.
        clock: Unix time in seconds.
        grace_seconds: how long processes may take to save after they were asked to stop.
        at_once: processes of Read at a time, which know nothing of each other; others need all of theirs.
    """
    logs, nodes = Path(plan.paths.logs), plan.stage(stage).nodes
    size = at_once if stage is Stage.READ else len(nodes)
    kills_before = count_memory_kills()
    ends: list[ProcessEnd] = []
    for first in range(0, len(nodes), size):
        with started(nodes[first : first + size], logs, stage, os.environ) as children:
            watch(children, stop, tick, clock=clock, grace_seconds=grace_seconds)
        ends += process_ends(children, stage, logs, clock())
        if stop.requested or any(end.exit_code for end in ends):
            break
    if len(ends) < len(nodes) and all(end.exit_code == ExitCode.SUCCEEDED for end in ends):
        return StageOutcome(stop.exit_code)
    return outcome_of(with_memory_kills(ends, kills_before, count_memory_kills()), stop)


def outcome_of(ends: list[ProcessEnd], stop: StopControl) -> StageOutcome:
    """How a stage ended; processes that ended because the runner asked them to have not failed."""
    failure = first_failure(ends)
    if failure is None:
        return StageOutcome(ExitCode.SUCCEEDED)
    failed = [end for end in ends if end.exit_code != ExitCode.SUCCEEDED]
    if stop.requested and all(_followed_the_request(end) for end in failed):
        return StageOutcome(stop.exit_code)
    return StageOutcome(stop.exit_code if stop.deadline_exceeded else failure.exit_code, failure)


def _followed_the_request(end: ProcessEnd) -> bool:
    return end.stopped or normalized_exit_code(end.exit_code) in STOPPED_CODES


def watch(
    children: list[ChildProcess],
    stop: StopControl,
    tick: Callable[[], None],
    *,
    clock: Callable[[], float],
    grace_seconds: float,
) -> None:
    """Return when all processes have ended, or some have failed and the rest must be ended."""
    asked_at: float | None = None
    failed_at: float | None = None
    while True:
        now = clock()
        codes = [child.poll(now) for child in children]
        if all(code is not None for code in codes):
            return
        if failed_at is None and any(code for code in codes):
            failed_at = now
        if stop.requested and asked_at is None:
            asked_at = now
            for child in children:
                child.send(signal.SIGTERM)
        patience = SETTLE_SECONDS if asked_at is None else SURVIVOR_SECONDS
        out_of_patience = asked_at is not None and (stop.insisted or now - asked_at > grace_seconds)
        settled = failed_at is not None and now - failed_at > patience
        if out_of_patience or settled:
            for child, code in zip(children, codes, strict=True):
                child.stopped = code is None
            return
        tick()
        wait_a_moment()


def process_ends(children: list[ChildProcess], stage: Stage, logs: Path, now: float) -> list[ProcessEnd]:
    """How every process of the stage ended; of a gang, ranks as far as they told, else their agents."""
    alone = stage not in GANG_STAGES
    of_ranks = gang_logs(logs, stage)
    records = {} if alone else read_exit_records(of_ranks)
    own = [
        read_exit_record(stage_exit_record_path(logs, stage, child.index)) if alone else None
        for child in children
    ]
    ends = [
        ProcessEnd(
            exit_code=child.popen.returncode,
            ended_at=child.ended_at or now,
            pod=f"node-{child.index}",
            log_tail=log_tail(child.log),
            record=record if record and record.exit_code == child.popen.returncode else None,
            stopped=child.stopped,
        )
        for child, record in zip(children, own, strict=True)
    ]
    if all(end.exit_code == ExitCode.SUCCEEDED for end in ends):
        return ends
    told = [
        ProcessEnd(
            exit_code=record.exit_code,
            ended_at=min(end.ended_at for end in ends),
            rank=rank,
            log_tail=log_tail(of_ranks / f"rank-{rank}.log"),
            record=record,
        )
        for rank, record in records.items()
        if record.exit_code and any(_is_code_of(end, record.exit_code) for end in ends)
    ]
    explained = {end.exit_code for end in told}
    return told + [end for end in ends if normalized_exit_code(end.exit_code) not in explained]


def _is_code_of(end: ProcessEnd, exit_code: int) -> bool:
    return normalized_exit_code(end.exit_code) == exit_code and not end.stopped
