"""The local back end of the plan: a whole run on this machine. Read `run_local` first.

The runner owns the run folder, starts each stage of the plan as processes, watches them, and lets the
policies that the operator uses decide what follows the end of an attempt.
"""

import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from trainyard_api.errors import ConfigurationError
from trainyard_api.names import ConditionType, ExitCode, File, Reason, Stage
from trainyard_api.plan import Rendezvous, RunPlan, plan_run
from trainyard_api.policy.conditions import holds
from trainyard_api.policy.deadline import active_seconds, is_deadline_exceeded
from trainyard_api.policy.restart import Action, EndedAttempt, RestartDecision, decide_restart
from trainyard_api.progress import EventRecord
from trainyard_api.spec import TrainingRun
from trainyard_api.status import ModelStatus
from trainyard_api.validation import load_run_file
from trainyard_trainer.accounting import RESTARTING, account
from trainyard_trainer.checkpoint_steps import latest_committed_step
from trainyard_trainer.display import Display
from trainyard_trainer.local_status import Outcome, StatusKeeper
from trainyard_trainer.metrics import MetricsServer
from trainyard_trainer.models.rules import MODEL_RULES
from trainyard_trainer.processes import free_port, wait_a_moment
from trainyard_trainer.progress import (
    append_record,
    read_events,
    read_history_lines,
    read_progress,
    write_json_atomically,
)
from trainyard_trainer.report import write_report
from trainyard_trainer.run_folder import RunFolder
from trainyard_trainer.single_stages import MODEL_STATUS
from trainyard_trainer.stage_run import StageOutcome, StopControl, run_stage
from trainyard_trainer.upstream import check_upstream

GRACE_SECONDS = 60.0
"""How long processes may take to save a checkpoint after they were asked to stop."""


@dataclass(frozen=True)
class LocalOptions:
    """What the command line adds to the file."""

    output: Path
    """Storage root; the run folder is a folder of it."""
    mounts: Mapping[str, str]
    """Path prefixes of source URIs and the folders that stand in for them."""
    cores: int
    """CPU cores to use; 0 takes all that this process may use."""
    metrics_port: int
    """Port of /metrics on loopback; 0 lets the system choose."""


def run_local(
    file: Path, options: LocalOptions, display: Display, clock: Callable[[], float] = time.time
) -> ExitCode:
    """Run a TrainingRun file to its end, or until it is stopped.

    Raises:
        TrainyardError: nothing was started; the error tells why.
    """
    run = load_run_file(file, MODEL_RULES)
    check_local(run)
    with RunFolder(options.output.resolve() / run.metadata.name) as folder:
        folder.claim(run)
        status = StatusKeeper(folder.read_status(), folder.write_status, clock)
        if holds(status.status.conditions, ConditionType.COMPLETE):
            display.message(f"{folder.path} is complete; nothing to do")
            return ExitCode.SUCCEEDED
        if run.spec.suspend:
            status.condition(ConditionType.SUSPENDED, "True", Reason.RUN_SUSPENDED, "spec.suspend is true")
            display.message("spec.suspend is true; the run stays suspended")
            return ExitCode.SUCCEEDED
        check_upstream(run, folder.path.parent)
        with MetricsServer(run, options.metrics_port) as metrics:
            runner = LocalRunner(run, folder, options, display, metrics, status, clock)
            display.message(f"run folder {folder.path}, metrics {metrics.url}")
            return runner.run_attempts()


def check_local(run: TrainingRun) -> None:
    """Refuse what cannot work on a machine without a cluster.

    Raises:
        ConfigurationError: FP16 on a CPU.
    """
    if run.spec.training.precision == "FP16" and not Path("/dev/nvidia0").exists():
        raise ConfigurationError(
            "spec.training.precision", "FP16 needs an accelerator and there is none here", "Use BF16 or FP32"
        )


def unused_fields(run: TrainingRun) -> list[str]:
    """The fields that are set and that only a cluster uses."""
    workers, scheduling = run.spec.workers, run.spec.scheduling
    candidates = {
        "workers.image": workers.image,
        "workers.accelerator": workers.accelerator.count,
        "workers.resources": workers.resources,
        "workers.podTemplate": workers.pod_template,
        "storage": run.spec.storage.volume_claim or run.spec.storage.uri,
        "scheduling": scheduling.queue_name or scheduling.priority_class_name,
        "queueDeadlineSeconds": run.spec.queue_deadline_seconds,
        "startupDeadlineSeconds": run.spec.startup_deadline_seconds,
        "stallTimeoutSeconds": run.spec.stall_timeout_seconds,
        "ttlSecondsAfterFinished": run.spec.ttl_seconds_after_finished,
    }
    return [f"spec.{name}" for name, value in candidates.items() if value]


@dataclass
class LocalRunner:
    """One invocation of the runner on one run folder."""

    run: TrainingRun
    folder: RunFolder
    options: LocalOptions
    display: Display
    metrics: MetricsServer
    status: StatusKeeper
    clock: Callable[[], float]
    stop: StopControl = field(default_factory=StopControl)
    ended: list[EndedAttempt] = field(default_factory=list)
    grace_seconds: float = GRACE_SECONDS

    def run_attempts(self) -> ExitCode:
        """Start attempt after attempt until the run succeeds, is stopped, or has failed for good."""
        self.install_signals()
        self.status.close_broken_attempts()
        self.status.condition(ConditionType.VALIDATED, "True", Reason.SPEC_VALID)
        self.status.condition(ConditionType.SUSPENDED, "False", Reason.STAGE_STARTED)
        self.status.condition(ConditionType.FAILED, "False", Reason.STAGE_STARTED)
        unused = unused_fields(self.run)
        if unused:
            self.display.message(f"not used without a cluster: {', '.join(unused)}")
        while True:
            outcome, decision = self.run_attempt()
            match decision.action:
                case Action.PROCEED:
                    return self.finish(ExitCode.SUCCEEDED)
                case Action.SUSPEND:
                    return self.suspend(decision)
                case Action.FAIL:
                    return self.fail(outcome, decision)
                case Action.RESTART:
                    self.prepare_restart(decision)

    def install_signals(self) -> None:
        """Ctrl-C, SIGTERM and a closed terminal ask for a checkpoint; a second one insists."""

        def ask(number: int, frame: FrameType | None) -> None:
            del number, frame
            self.stop.ask()

        signal.signal(signal.SIGINT, ask)
        signal.signal(signal.SIGTERM, ask)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as it is under nohup
            signal.signal(signal.SIGHUP, ask)

    def run_attempt(self) -> tuple[StageOutcome, RestartDecision]:
        """Run the stages of one attempt and decide what follows."""
        start_step = self.checkpoint_step()
        number = self.status.start_attempt()
        self.status.condition(ConditionType.RUNNING, "True", Reason.STAGE_STARTED)
        outcome = self.run_stages(self.plan(number))
        self.ended.append(EndedAttempt(outcome.exit_code, start_step))
        decision = decide_restart(
            self.run.spec.restart_policy,
            self.ended,
            self.checkpoint_step(),
            stop_requested=self.stop.requested and not self.stop.deadline_exceeded,
        )
        self.refresh()
        self.status.end_attempt(outcome_name(outcome.exit_code), outcome.failure)
        self.status.accounting(account(read_history_lines(self.folder.path), read_events(self.folder.path)))
        return outcome, decision

    def plan(self, attempt: int) -> RunPlan:
        """The plan of an attempt, stored for its processes."""
        cores = self.options.cores or len(os.sched_getaffinity(0))
        workers = self.run.spec.workers
        plan = plan_run(
            self.run,
            storage_root=str(self.folder.path.parent),
            rendezvous=Rendezvous(address="127.0.0.1", port=free_port()),
            attempt=attempt,
            python=sys.executable,
            mounts=self.options.mounts,
            threads_per_process=max(1, cores // (workers.nodes * workers.processes_per_node)),
            preparation_processes=cores,
            shard_processes=max(1, cores // self.run.spec.data.preparation.shards),
        )
        write_json_atomically(self.folder.path / File.PLAN, plan)
        return plan

    def run_stages(self, plan: RunPlan) -> StageOutcome:
        """The stages in their order, until one does not succeed."""
        for stage in (planned.stage for planned in plan.stages):
            if self.stop.requested:
                return StageOutcome(self.stop.exit_code)
            started = self.clock()
            self.event("StageStarted", stage, plan.attempt)
            self.status.stage_started(stage)
            self.display.message(f"{stage} started (attempt {plan.attempt})")
            outcome = run_stage(
                plan,
                stage,
                self.stop,
                self.tick,
                clock=self.clock,
                grace_seconds=self.grace_seconds,
                at_once=plan.preparation_processes,
            )
            seconds = self.clock() - started
            if outcome.exit_code:
                kind = "AttemptStopped" if outcome.exit_code == ExitCode.PREEMPTED else "AttemptFailed"
                self.event(kind, stage, plan.attempt, describe(outcome), seconds)
                return outcome
            self.event("StageFinished", stage, plan.attempt, "", seconds)
            self.display.message(f"{stage} finished in {seconds:.1f} s")
        model = ModelStatus.model_validate_json((Path(plan.paths.logs) / MODEL_STATUS).read_bytes())
        self.status.model(model)
        return StageOutcome(ExitCode.SUCCEEDED)

    def tick(self) -> None:
        """Show what the processes tell, and look at the active deadline."""
        self.refresh()
        active = active_seconds(self.status.status.accounting, self.status.status.attempts, self.clock())
        limit = self.run.spec.active_deadline_seconds
        if not self.stop.requested and is_deadline_exceeded(limit, active):
            self.stop.deadline_exceeded = True
            self.stop.ask()

    def refresh(self) -> None:
        """Pass on the newest progress."""
        self.status.progress(read_progress(self.folder.path))
        self.metrics.update(self.status.status)
        self.display.update(self.status.status)

    def prepare_restart(self, decision: RestartDecision) -> None:
        """Count a restart and wait as long as the policy says."""
        self.display.message(decision.message)
        self.status.condition(ConditionType.RUNNING, "False", Reason.RESTARTING, decision.message)
        if decision.reason is Reason.RESTARTING:  # a preemption is no fault
            self.status.restarted()
        record = EventRecord(
            time=self.clock(), type=RESTARTING, attempt=self.status.status.attempt, message=decision.message
        )
        append_record(self.folder.path / File.EVENTS, record)
        until = self.clock() + decision.delay_seconds
        while self.clock() < until and not self.stop.requested:
            wait_a_moment()

    def suspend(self, decision: RestartDecision) -> ExitCode:
        """Leave so that the same command goes on."""
        self.status.condition(ConditionType.RUNNING, "False", Reason.STOPPED_BY_USER)
        self.status.condition(ConditionType.SUSPENDED, "True", Reason.STOPPED_BY_USER, decision.message)
        self.display.message(f"{decision.message}; run the same command again to go on")
        return self.finish(ExitCode.PREEMPTED)

    def fail(self, outcome: StageOutcome, decision: RestartDecision) -> ExitCode:
        """Leave for good, with the evidence."""
        message = f"{describe(outcome)}. {decision.message}"
        self.status.condition(ConditionType.RUNNING, "False", decision.reason)
        self.status.condition(ConditionType.FAILED, "True", decision.reason, message)
        self.display.error(message)
        if outcome.failure is not None and outcome.failure.log_tail:
            self.display.error(outcome.failure.log_tail)
        known = {code.value for code in ExitCode}
        code = ExitCode(outcome.exit_code) if outcome.exit_code in known else ExitCode.RETRYABLE
        return self.finish(code)

    def finish(self, code: ExitCode) -> ExitCode:
        """Write the last status and the report, and tell where things are."""
        if code is ExitCode.SUCCEEDED:
            self.status.condition(ConditionType.RUNNING, "False", Reason.RUN_SUCCEEDED)
            self.status.condition(ConditionType.COMPLETE, "True", Reason.RUN_SUCCEEDED)
        self.metrics.update(self.status.status)
        self.display.finished(self.status.status, self.folder.path, write_report(self.folder.path))
        return code

    def checkpoint_step(self) -> int | None:
        """Step of the newest committed checkpoint."""
        return latest_committed_step(self.folder.path / File.CHECKPOINTS)

    def event(
        self, kind: str, stage: Stage, attempt: int, message: str = "", seconds: float | None = None
    ) -> None:
        """Store something that happened once."""
        record = EventRecord(
            time=self.clock(), type=kind, stage=stage, attempt=attempt, message=message, seconds=seconds
        )
        append_record(self.folder.path / File.EVENTS, record)


def outcome_name(exit_code: int) -> Outcome:
    """How an attempt ended, in one word."""
    if exit_code == ExitCode.SUCCEEDED:
        return "Succeeded"
    return "Preempted" if exit_code == ExitCode.PREEMPTED else "Failed"


def describe(outcome: StageOutcome) -> str:
    """What ended a stage, for people."""
    failure = outcome.failure
    if failure is None:
        return f"Stopped by the runner (exit code {outcome.exit_code})"
    who = failure.pod if failure.rank is None else f"rank {failure.rank}"
    return f"{who}: {failure.reason}: {failure.message}"
