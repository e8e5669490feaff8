"""The process of one node: a torchrun agent that starts this node's ranks, in a pod and on a laptop alike.

The agent comes from torch.distributed.elastic, with static rendezvous and without restarts of its own: the
back end restarts gangs. It is told to leave SIGTERM and SIGINT to this module, which passes them on once and
waits for the ranks to save; the stock agent would kill them after 30 seconds.
"""

import os
import signal
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import FrameType

import psutil
from torch.distributed.elastic.multiprocessing.api import LogsDest, LogsSpecs
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from trainyard_api.names import Environment, ExitCode, Reason, Stage
from trainyard_api.plan import RunPlan
from trainyard_api.policy.failure import ProcessEnd, first_failure
from trainyard_api.progress import ExitRecord
from trainyard_trainer.exit_records import (
    exit_record_path,
    gang_logs,
    read_exit_record,
    write_exit_record,
)
from trainyard_trainer.lifeline import PARENT_VARIABLE, die_with_runner
from trainyard_trainer.memory_kills import count_memory_kills, with_memory_kills
from trainyard_trainer.pod import explained, is_in_pod, leave_message, write_lines_at_once
from trainyard_trainer.processes import log_tail
from trainyard_trainer.progress import timestamp
from trainyard_trainer.stage_run import STOPPED_CODES

MONITOR_INTERVAL_SECONDS = 0.1
SURVIVOR_TIMEOUT_SECONDS = 5
"""How long ranks may live on after one of them has failed: a gang that lost a rank cannot save."""

UNHANDLED_SIGNAL = "SIGHUP"
"""The only signal that the agent keeps for itself."""


class RankLogs(LogsSpecs):
    """Sends the output of each rank to `rank-N.log`, N being the global rank.

    Args:
        folder: where the files are.
        shown: whether this process prints the lines too, for the log of the container.
    """

    def __init__(self, folder: Path, *, shown: bool = False) -> None:
        super().__init__(log_dir=str(folder))
        self._folder = folder
        self._shown = shown

    @property
    def root_log_dir(self) -> str:
        """Folder of the logs."""
        return str(self._folder)

    def reify(self, envs: dict[int, dict[str, str]]) -> LogsDest:
        """A file per local rank; the rank sends its standard error there too."""
        self._folder.mkdir(parents=True, exist_ok=True)
        files = {local: str(rank_log(self._folder, int(env["RANK"]))) for local, env in envs.items()}
        return LogsDest(
            stdouts=files,
            stderrs=dict.fromkeys(envs, ""),
            tee_stdouts=files if self._shown else {},
            error_files=dict.fromkeys(envs, os.devnull),
        )


def rank_log(logs: Path, rank: int) -> Path:
    """The output of a rank."""
    return logs / f"rank-{rank}.log"


class StopForwarder:
    """Passes SIGTERM and SIGINT on to the ranks."""

    def __init__(self) -> None:
        self.requested = False

    def install(self) -> None:
        """Take both signals; must be called in the main thread."""
        signal.signal(signal.SIGTERM, self._forward)
        signal.signal(signal.SIGINT, self._forward)

    def _forward(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        first, self.requested = not self.requested, True
        ranks = psutil.Process().children()
        if not ranks:
            # Still meeting the other nodes: nothing to save.
            raise SystemExit(ExitCode.PREEMPTED)
        if first:
            for rank in ranks:
                with suppress(psutil.NoSuchProcess):  # it has ended meanwhile
                    rank.send_signal(signal.SIGTERM)


def run_node(plan_file: Path, environment: Mapping[str, str], stage: Stage = Stage.TRAIN) -> int:
    """Run this node's ranks to their end and return the exit code of the first that failed, or 0."""
    die_with_runner()
    stop = StopForwarder()
    stop.install()
    plan = RunPlan.model_validate_json(plan_file.read_bytes())
    command = ("-m", "trainyard_trainer", "rank", "--plan", str(plan_file), "--stage", stage.value)
    logs = gang_logs(Path(plan.paths.logs), stage)
    os.environ[PARENT_VARIABLE] = str(os.getpid())
    write_lines_at_once()
    kills_before = count_memory_kills()
    with explained(environment, rank=first_rank(environment)):
        try:
            elastic_launch(launch_config(plan, environment, logs), sys.executable)(*command)
        except ChildFailedError as error:
            ends = with_memory_kills(process_ends(error.failures, logs), kills_before, count_memory_kills())
            leave_evidence(ends, logs)
            code = exit_code_of(ends, stop_requested=stop.requested)
            leave_message(end_of_node(ends, logs, code), environment)
            return code
    return ExitCode.SUCCEEDED


def first_rank(environment: Mapping[str, str]) -> int:
    """The lowest global rank of this node."""
    return int(environment[Environment.NODE_RANK]) * int(environment[Environment.PROCESSES_PER_NODE])


def launch_config(plan: RunPlan, environment: Mapping[str, str], logs: Path) -> LaunchConfig:
    """What torchrun would make of the plan's environment; the ranks' output goes to a folder."""
    address, port = environment[Environment.MASTER_ADDRESS], environment[Environment.MASTER_PORT]
    num_nodes = int(environment[Environment.NODES])
    return LaunchConfig(
        min_nodes=num_nodes,
        max_nodes=num_nodes,
        nproc_per_node=int(environment[Environment.PROCESSES_PER_NODE]),
        run_id=f"{plan.namespace}-{plan.name}-{plan.attempt}",
        role="rank",
        rdzv_backend="static",
        rdzv_endpoint=f"{address}:{port}",
        rdzv_configs={"rank": int(environment[Environment.NODE_RANK])},
        max_restarts=0,
        monitor_interval=MONITOR_INTERVAL_SECONDS,
        logs_specs=RankLogs(logs, shown=is_in_pod(environment)),
        log_line_prefix_template="[rank ${rank}] ",
        signals_to_handle=UNHANDLED_SIGNAL,
        shutdown_timeout=SURVIVOR_TIMEOUT_SECONDS,
    )


def exit_code_of(ends: list[ProcessEnd], *, stop_requested: bool) -> int:
    """The code of the rank that failed first; ranks that only followed a stop count as preempted."""
    failure = first_failure(ends)
    if failure is None:
        return ExitCode.SUCCEEDED
    if stop_requested and failure.exit_code in STOPPED_CODES:
        return ExitCode.PREEMPTED
    return failure.exit_code


def process_ends(failures: Mapping[int, ProcessFailure], logs: Path) -> list[ProcessEnd]:
    """How the ranks of this node ended that did not succeed, by the agent's account and their own.

    The agent also lists those that it killed itself, SURVIVOR_TIMEOUT_SECONDS after the first failure; its
    times are whole seconds.
    """
    first = min(failure.timestamp for failure in failures.values())
    return [
        ProcessEnd(
            exit_code=failure.exitcode,
            ended_at=failure.timestamp,
            rank=rank,
            record=read_exit_record(exit_record_path(logs, rank)),
            stopped=failure.exitcode == -signal.SIGKILL
            and failure.timestamp - first >= SURVIVOR_TIMEOUT_SECONDS - 1,
        )
        for rank, failure in failures.items()
    ]


def leave_evidence(ends: list[ProcessEnd], logs: Path) -> None:
    """Say on behalf of each rank that was killed what it could no longer say itself."""
    for end in ends:
        failure = first_failure([end])
        if failure is None or end.rank is None or end.record is not None or end.stopped:
            continue
        record = ExitRecord(
            rank=end.rank,
            exit_code=failure.exit_code,
            reason=failure.reason,
            message=failure.message,
            time=timestamp(end.ended_at),
        )
        write_exit_record(exit_record_path(logs, end.rank), record)


def end_of_node(ends: list[ProcessEnd], logs: Path, code: int) -> ExitRecord:
    """The record of the rank that failed first, with the end of its log and the node's exit code."""
    failure = first_failure(ends)
    if failure is None or failure.rank is None:
        return ExitRecord(rank=0, exit_code=code, reason=Reason.PROCESS_FAILED, time=timestamp(time.time()))
    own = next((end.record for end in ends if end.rank == failure.rank), None)
    return ExitRecord(
        rank=failure.rank,
        exit_code=code,
        reason=Reason.PREEMPTED if code == ExitCode.PREEMPTED else failure.reason,
        message=failure.message,
        log_tail=log_tail(rank_log(logs, failure.rank)),
        step=own.step if own is not None else None,
        time=own.time if own is not None else timestamp(time.time()),
    )
