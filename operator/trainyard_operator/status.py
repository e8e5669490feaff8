"""The status that a pass arrives at, step by step from the last one, and how soon it has to be written.

Whatever the cluster or a process said gets into a status, and from there into events, only through the
methods of StatusDraft: they black out what looks like a secret, so that nobody else has to think of it.
"""

from collections.abc import Mapping
from enum import IntEnum
from typing import Any

from trainyard_api.names import ConditionType, Reason, Stage
from trainyard_api.policy.conditions import ConditionStatus, derive_phase, find_condition, set_condition
from trainyard_api.policy.ledger import add_stage
from trainyard_api.redact import redact
from trainyard_api.status import Attempt, Failure, Progress, TrainingRunStatus
from trainyard_api.timestamps import format_timestamp
from trainyard_operator.cluster import Object

KEPT_ATTEMPTS = 20
"""Attempts that the status tells of; counts and accounts cover all of them."""
MAXIMUM_MESSAGE = 2_000
"""Characters of a condition's message; status is small."""

_DECISIVE = (
    ConditionType.VALIDATED,
    ConditionType.SUSPENDED,
    ConditionType.COMPLETE,
    ConditionType.FAILED,
)


class Urgency(IntEnum):
    """How soon a new status has to be written."""

    NONE = 0
    """It is what is there."""
    PROGRESS = 1
    """Figures and wording alone; every ten seconds are enough."""
    SOON = 2
    """Where the run stands; within seconds, so that what follows quickly is one write."""
    NOW = 3
    """Ends and decisions, which what comes next is built on."""


class StatusDraft:
    """A status in the making.

    Args:
        status: the last one.
        generation: of the spec that the new one derives from.
        now: Unix time, in seconds.
    """

    def __init__(self, status: TrainingRunStatus, generation: int, now: float) -> None:
        self._base = status.conditions
        self._status = status
        self._generation = generation
        self.now = now

    @property
    def status(self) -> TrainingRunStatus:
        """As it stands."""
        return self._status

    @property
    def timestamp(self) -> str:
        """Now, as Kubernetes writes it."""
        return format_timestamp(self.now)

    @property
    def attempt(self) -> Attempt | None:
        """The attempt that has not ended."""
        attempts = self._status.attempts
        return attempts[-1] if attempts and attempts[-1].finished_at is None else None

    @property
    def next_number(self) -> int:
        """Number of the attempt that would start now."""
        attempts = self._status.attempts
        return attempts[-1].number + 1 if attempts else 0

    def finish(self) -> TrainingRunStatus:
        """The new status, with what derives from the rest."""
        return self._status.model_copy(
            update={
                "phase": derive_phase(self._status.conditions),
                "observed_generation": self._generation,
            }
        )

    def update(self, **fields: object) -> None:
        """Set fields of the status."""
        self._status = self._status.model_copy(update=fields)

    def condition(
        self, kind: ConditionType, truth: ConditionStatus, reason: Reason, message: str = ""
    ) -> None:
        """Set a condition; set twice in a pass, only the last counts, also for the time of its change."""
        base = find_condition(self._base, kind)
        conditions = set_condition(
            [base if base is not None and known.type == kind else known for known in self._status.conditions],
            kind,
            truth,
            reason,
            message if base is not None and message == base.message else _cleared(message),
            now=self.timestamp,
            observed_generation=self._generation,
        )
        self.update(conditions=conditions)

    def clear(self, kind: ConditionType, reason: Reason, message: str = "") -> None:
        """Set a condition to False if it holds; one that was never set stays away."""
        condition = find_condition(self._status.conditions, kind)
        if condition is not None and condition.status == "True":
            self.condition(kind, "False", reason, message)

    def take_progress(self, progress: Progress) -> None:
        """Show what the processes told."""
        self.update(progress=progress.model_copy(update={"detail": redact(progress.detail)}))

    def open_attempt(self, stage: Stage, nodes: int, num_shards: int, *, has_cache: bool = False) -> None:
        """Begin an attempt."""
        checkpoint = self._status.checkpoint
        attempt = Attempt(
            number=self.next_number,
            started_at=self.timestamp,
            stage=stage.value,
            nodes=nodes,
            shards=num_shards if num_shards > 1 else None,
            teacher_cache=True if has_cache else None,
            start_checkpoint_step=None if checkpoint is None else checkpoint.step,
            stage_started_at=self.timestamp,
        )
        self.update(attempt=attempt.number, attempts=[*self._status.attempts, attempt][-KEPT_ATTEMPTS:])

    def change_attempt(self, **fields: object) -> None:
        """Set fields of the open attempt."""
        *ended, attempt = self._status.attempts
        self.update(attempts=[*ended, attempt.model_copy(update=fields)])

    def enter_stage(self, stage: Stage, accelerators_per_node: int) -> None:
        """The open attempt goes on to another stage."""
        self._account(accelerators_per_node)
        self.change_attempt(
            stage=stage.value,
            stage_started_at=self.timestamp,
            pods_created_at=None,
            pods_scheduled_at=None,
            pods_running_at=None,
        )

    def close_attempt(
        self, outcome: str, exit_code: int, failure: Failure | None, accelerators_per_node: int
    ) -> None:
        """End the open attempt and account for it."""
        if failure is not None:
            cleared = {"message": redact(failure.message), "log_tail": redact(failure.log_tail)}
            failure = failure.model_copy(update=cleared)
        self.change_attempt(finished_at=self.timestamp, outcome=outcome, exit_code=exit_code, failure=failure)
        self._account(accelerators_per_node)

    def _account(self, accelerators_per_node: int) -> None:
        """Account for the stage that ends now."""
        attempts = self._status.attempts
        account = add_stage(
            self._status.accounting,
            attempts[-1],
            attempts[-2] if len(attempts) > 1 else None,
            ended_at=self.timestamp,
            accelerators_per_node=accelerators_per_node,
        )
        self.update(accounting=account)


def urgency(old: TrainingRunStatus, new: TrainingRunStatus) -> Urgency:
    """How soon a status has to replace another."""
    if new == old:
        return Urgency.NONE
    if not old.conditions or _decisions(old) != _decisions(new):
        return Urgency.NOW
    return Urgency.SOON if _standing(old) != _standing(new) else Urgency.PROGRESS


def merge_patch(old: Mapping[str, Any], new: Mapping[str, Any]) -> Object:
    """The JSON merge patch (RFC 7386) that makes one object of another; null removes a field."""
    patch: Object = {name: None for name in old if name not in new}
    for name, value in new.items():
        known = old.get(name)
        if isinstance(value, Mapping) and isinstance(known, Mapping):
            inner = merge_patch(known, value)
            if inner:
                patch[name] = inner
        elif name not in old or known != value:
            patch[name] = value
    return patch


def status_patch(written: TrainingRunStatus, new: TrainingRunStatus) -> Object:
    """The merge patch from what the API server holds to another status, without `metadata`.

    Args:
        written: as it was read; fields that were not there are sent, also those that have their default.
        new: the other status.
    """
    held = written.model_dump(mode="json", by_alias=True, exclude_unset=True)
    wanted = new.model_dump(mode="json", by_alias=True, exclude_none=True)
    return {"status": merge_patch(held, wanted)}


def _cleared(message: str) -> str:
    """A message without secrets, cut to what a condition holds; in this order, or a cut secret would stay."""
    clean = redact(message)
    return clean if len(clean) <= MAXIMUM_MESSAGE else f"{clean[: MAXIMUM_MESSAGE - 3]}..."


def _decisions(status: TrainingRunStatus) -> tuple[object, ...]:
    """What later passes build on."""
    conditions = {condition.type: (condition.status, condition.reason) for condition in status.conditions}
    return (
        status.restarts,
        status.model,
        [conditions.get(kind) for kind in _DECISIVE],
        [attempt.number for attempt in status.attempts if attempt.finished_at is not None],
    )


def _standing(status: TrainingRunStatus) -> tuple[object, ...]:
    """Where a run stands, without figures and wording."""
    return (
        status.observed_generation,
        status.prepared_at,
        status.attempts,
        {condition.type: (condition.status, condition.reason) for condition in status.conditions},
    )
