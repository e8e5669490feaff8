"""What happens after an attempt has ended: go on, restart, suspend or fail."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from trainyard_api.names import PERMANENT_EXIT_CODES, ExitCode, Reason
from trainyard_api.spec import RestartPolicy

BACKOFF_BASE_SECONDS = 2.0
BACKOFF_CAP_SECONDS = 120.0


class Action(StrEnum):
    """What to do next."""

    PROCEED = "Proceed"
    """The attempt succeeded: go on."""
    RESTART = "Restart"
    """Start the next attempt from the last committed checkpoint, after `delay_seconds`."""
    SUSPEND = "Suspend"
    """Stop in order; the run resumes when it is started again."""
    FAIL = "Fail"
    """The run has failed for good."""


@dataclass(frozen=True, slots=True)
class EndedAttempt:
    """The facts of an attempt that the decision needs."""

    exit_code: int
    """Exit code of the process that failed first, or 0; 128 + n (or -n) for death by signal n."""
    start_checkpoint_step: int | None
    """Step of the newest committed checkpoint when the attempt started; None when there was none."""


@dataclass(frozen=True, slots=True)
class RestartDecision:
    """What to do next, and why."""

    action: Action
    reason: Reason
    message: str
    delay_seconds: float = 0.0
    """Seconds to wait before a restart."""
    faults_since_checkpoint: int = 0
    """Faults since the newest checkpoint was committed; a restart needs them to be at most `maxRestarts`."""


def decide_restart(
    policy: RestartPolicy,
    attempts: Sequence[EndedAttempt],
    checkpoint_step: int | None,
    *,
    stop_requested: bool = False,
) -> RestartDecision:
    """Decide what follows the last attempt.

    A fault is charged to the newest committed checkpoint: once a newer one is committed, older faults no
    longer count, so a long run survives any number of faults that are further apart than its checkpoints.
    Preemption (exit code 80) is not a fault.

    Args:
        policy: the run's restart policy.
        attempts: every attempt that has ended, oldest first; the last is the one to decide about.
        checkpoint_step: step of the newest committed checkpoint now; None when there is none.
        stop_requested: whether a person or the spec asked the run to stop.

    Raises:
        ValueError: no attempt has ended.
    """
    if not attempts:
        raise ValueError("no attempt has ended, so there is nothing to decide")
    return decide_after_end(
        policy,
        attempts[-1].exit_code,
        faults_since_checkpoint(attempts, checkpoint_step),
        checkpoint_step,
        stop_requested=stop_requested,
    )


def decide_after_end(
    policy: RestartPolicy,
    exit_code: int,
    faults: int,
    checkpoint_step: int | None,
    *,
    stop_requested: bool = False,
) -> RestartDecision:
    """Decide what follows an attempt whose faults are counted already; see `decide_restart`.

    Args:
        policy: the run's restart policy.
        exit_code: of the process that failed first, or 0; 128 + n (or -n) for death by signal n.
        faults: faults since the newest checkpoint was committed, this end included when it is one.
        checkpoint_step: step of the newest committed checkpoint now; None when there is none.
        stop_requested: whether a person or the spec asked the run to stop.
    """
    if exit_code == ExitCode.SUCCEEDED:
        return RestartDecision(Action.PROCEED, Reason.STAGE_FINISHED, "The attempt succeeded")
    if exit_code == ExitCode.DEADLINE_EXCEEDED:
        return RestartDecision(Action.FAIL, Reason.DEADLINE_EXCEEDED, "activeDeadlineSeconds is over")
    if exit_code in PERMANENT_EXIT_CODES:
        message = f"Exit code {exit_code} ({ExitCode(exit_code).name}): a restart cannot help"
        return RestartDecision(Action.FAIL, Reason.PERMANENT_FAILURE, message)
    if stop_requested:
        message = f"Stopped on request; will resume {_place(checkpoint_step)}"
        return RestartDecision(Action.SUSPEND, Reason.RUN_SUSPENDED, message)
    if exit_code == ExitCode.PREEMPTED:
        message = f"Preempted; resuming {_place(checkpoint_step)}"
        return RestartDecision(Action.RESTART, Reason.PREEMPTED, message)
    return _after_fault(policy, exit_code, faults, checkpoint_step)


def backoff_seconds(faults_since_checkpoint: int) -> float:
    """Seconds to wait before a restart: none after the first fault, then 2, 4, 8 ... up to 120.

    A first fault is usually the loss of a process or machine, and waiting would only lengthen the recovery; a
    fault that comes back without progress between is likely to come back again.
    """
    if faults_since_checkpoint <= 1:
        return 0.0
    doublings = min(faults_since_checkpoint - 2, 32)  # bounded, so that the power cannot overflow
    return min(BACKOFF_CAP_SECONDS, BACKOFF_BASE_SECONDS * 2.0**doublings)


def faults_since_checkpoint(attempts: Sequence[EndedAttempt], checkpoint_step: int | None) -> int:
    """Attempts that ended in a fault after the newest checkpoint was committed.

    The newest checkpoint at the end of an attempt is the one that the next attempt started from.
    """
    end_steps = [attempt.start_checkpoint_step for attempt in attempts[1:]] + [checkpoint_step]
    return sum(
        attempt.exit_code not in (ExitCode.SUCCEEDED, ExitCode.PREEMPTED) and end_step == checkpoint_step
        for attempt, end_step in zip(attempts, end_steps, strict=True)
    )


def count_faults(
    previous: int, start_checkpoint_step: int | None, checkpoint_step: int | None, exit_code: int
) -> int:
    """Faults since the newest checkpoint at the end of an attempt, without the list of all attempts.

    Args:
        previous: the same count at the end of the attempt before.
        start_checkpoint_step: step of the newest committed checkpoint when this attempt started.
        checkpoint_step: the same at its end; a newer one wipes out older faults.
        exit_code: how this attempt ended.
    """
    kept = previous if start_checkpoint_step == checkpoint_step else 0
    return kept + (exit_code not in (ExitCode.SUCCEEDED, ExitCode.PREEMPTED))


def _after_fault(
    policy: RestartPolicy, exit_code: int, faults: int, checkpoint_step: int | None
) -> RestartDecision:
    """Restart while the budget lasts."""
    if faults > policy.max_restarts:
        return RestartDecision(
            Action.FAIL,
            Reason.RESTARTS_EXHAUSTED,
            f"{faults} faults {_place(checkpoint_step)} without a newer checkpoint; "
            f"spec.restartPolicy.maxRestarts is {policy.max_restarts}",
            faults_since_checkpoint=faults,
        )
    return RestartDecision(
        Action.RESTART,
        Reason.RESTARTING,
        f"Exit code {exit_code}; restart {faults} of {policy.max_restarts} {_place(checkpoint_step)}",
        delay_seconds=backoff_seconds(faults),
        faults_since_checkpoint=faults,
    )


def _place(checkpoint_step: int | None) -> str:
    """Where a run stands, for messages."""
    return "from the start" if checkpoint_step is None else f"from the checkpoint of step {checkpoint_step}"
