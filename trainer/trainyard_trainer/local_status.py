"""The status of a local run, in the shape of the resource's, from what happened to `status.json`."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal

from trainyard_api.names import ConditionType, Reason, Stage
from trainyard_api.policy.conditions import derive_phase, set_condition
from trainyard_api.policy.deadline import attempt_seconds
from trainyard_api.progress import ProgressReport
from trainyard_api.status import Accounting, Attempt, Failure, ModelStatus, Progress, TrainingRunStatus
from trainyard_api.timestamps import parse_timestamp
from trainyard_trainer.progress import timestamp

KEPT_ATTEMPTS = 20
STAGES = [stage.value for stage in Stage]
WRITE_INTERVAL_SECONDS = 1.0

RUNNER_LOST = Failure(
    pod="runner",
    exit_code=137,
    reason=Reason.PROCESS_KILLED,
    message="The runner was gone without a word: it was killed, or the machine went down",
)
"""The evidence of an attempt that its runner did not end."""

Outcome = Literal["Running", "Succeeded", "Failed", "Preempted"]
Truth = Literal["True", "False", "Unknown"]


@dataclass
class StatusKeeper:
    """Holds the status and writes it at every transition, otherwise at most once a second.

    Attributes:
        status: the current status.
        write: where it goes.
        clock: Unix time in seconds.
    """

    status: TrainingRunStatus
    write: Callable[[TrainingRunStatus], None]
    clock: Callable[[], float]
    _last_write: float = field(default=float("-inf"))

    def condition(self, kind: ConditionType, truth: Truth, reason: Reason, message: str = "") -> None:
        """Set a condition; the phase follows from all of them."""
        conditions = set_condition(
            self.status.conditions, kind, truth, reason, message, now=timestamp(self.clock())
        )
        self._change(conditions=conditions, phase=derive_phase(conditions))

    def start_attempt(self) -> int:
        """Begin an attempt and return its number."""
        previous = self.status.attempts
        number = previous[-1].number + 1 if previous else 0
        attempt = Attempt(number=number, started_at=timestamp(self.clock()))
        self._change(attempt=number, attempts=[*previous, attempt][-KEPT_ATTEMPTS:])
        return number

    def end_attempt(self, outcome: Outcome, failure: Failure | None) -> None:
        """End the current attempt."""
        ended = self.status.attempts[-1].model_copy(
            update={"finished_at": timestamp(self.clock()), "outcome": outcome, "failure": failure}
        )
        self._change(attempts=[*self.status.attempts[:-1], ended], accounting=self._account_with([ended]))

    def close_broken_attempts(self) -> None:
        """End attempts that a killed runner left open, at the last moment that their processes told of.

        The time until now is no time of work: `activeDeadlineSeconds` does not count it.
        """
        closed = {
            attempt.number: attempt.model_copy(
                update={
                    "finished_at": timestamp(self._last_sign_of(attempt)),
                    "outcome": "Failed",
                    "failure": RUNNER_LOST,
                }
            )
            for attempt in self.status.attempts
            if attempt.finished_at is None
        }
        attempts = [closed.get(attempt.number, attempt) for attempt in self.status.attempts]
        self._change(attempts=attempts, accounting=self._account_with(closed.values()))

    def _account_with(self, ended: Iterable[Attempt]) -> Accounting:
        """The account with attempts that have just ended; older ones may be gone from the list."""
        account = self.status.accounting
        seconds = sum(attempt_seconds(attempt, self.clock()) for attempt in ended)
        return account.model_copy(update={"active_seconds": account.active_seconds + seconds})

    def _last_sign_of(self, attempt: Attempt) -> float:
        started = parse_timestamp(attempt.started_at)
        told = parse_timestamp(self.status.progress.updated_at) if self.status.progress else started
        return max(started, min(told, self.clock()))

    def restarted(self) -> None:
        """Count a restart."""
        self._change(restarts=self.status.restarts + 1)

    def stage_started(self, stage: Stage) -> None:
        """Show a stage before its processes tell anything; Export keeps the figures of training."""
        if stage is Stage.EXPORT:
            return
        checkpoint = self.status.checkpoint
        progress = Progress(
            stage=stage,
            detail="starting",
            step=checkpoint.step if checkpoint else 0,
            updated_at=timestamp(self.clock()),
        )
        self._change(progress=progress)

    def progress(self, report: ProgressReport | None) -> None:
        """Take over what the processes tell of the current attempt and stage."""
        if report is None or report.attempt != self.status.attempt:
            return
        shown = self.status.progress
        if shown is not None and STAGES.index(report.progress.stage) < STAGES.index(shown.stage):
            return
        self.status = self.status.model_copy(
            update={"progress": report.progress, "checkpoint": report.checkpoint or self.status.checkpoint}
        )
        if self.clock() - self._last_write >= WRITE_INTERVAL_SECONDS:
            self._write()

    def model(self, model: ModelStatus) -> None:
        """Tell of the exported model."""
        self._change(model=model)

    def accounting(self, accounting: Accounting) -> None:
        """Tell where the time went; the active seconds are counted here, as attempts end."""
        active_seconds = self.status.accounting.active_seconds
        self._change(accounting=accounting.model_copy(update={"active_seconds": active_seconds}))

    def _change(self, **fields: object) -> None:
        self.status = self.status.model_copy(update=fields)
        self._write()

    def _write(self) -> None:
        self._last_write = self.clock()
        self.write(self.status)
