"""Conditions by the Kubernetes convention, and the phase that sums them up for people."""

from collections.abc import Iterable, Sequence
from typing import Literal

from trainyard_api.names import ConditionType, Phase, Reason
from trainyard_api.status import Condition, Timestamp

ConditionStatus = Literal["True", "False", "Unknown"]


def set_condition(  # noqa: PLR0913 - the fields of a condition
    conditions: Sequence[Condition],
    condition_type: ConditionType,
    status: ConditionStatus,
    reason: Reason,
    message: str = "",
    *,
    now: Timestamp,
    observed_generation: int | None = None,
) -> list[Condition]:
    """The conditions with one of them added or replaced; the order of the others stays.

    `lastTransitionTime` moves only when the status changes, so that it tells since when the run is in that
    state, however often the reason or the message is refreshed.

    Args:
        conditions: the conditions so far.
        condition_type: which one to set.
        status: whether it holds.
        reason: why.
        message: why, for people.
        now: time of this decision.
        observed_generation: generation of the spec it is derived from.
    """
    previous = find_condition(conditions, condition_type)
    unchanged = previous is not None and previous.status == status
    condition = Condition(
        type=condition_type.value,
        status=status,
        reason=reason.value,
        message=message,
        last_transition_time=previous.last_transition_time if previous and unchanged else now,
        observed_generation=observed_generation,
    )
    if previous is None:
        return [*conditions, condition]
    return [condition if existing.type == condition_type else existing for existing in conditions]


def find_condition(conditions: Iterable[Condition], condition_type: ConditionType) -> Condition | None:
    """The condition of a type, or None when it was never set."""
    return next((condition for condition in conditions if condition.type == condition_type), None)


def holds(conditions: Iterable[Condition], condition_type: ConditionType) -> bool:
    """Whether a condition is set and True."""
    condition = find_condition(conditions, condition_type)
    return condition is not None and condition.status == "True"


def is_finished(conditions: Sequence[Condition]) -> bool:
    """Whether the run has ended for good: such a run is never started again."""
    return holds(conditions, ConditionType.COMPLETE) or holds(conditions, ConditionType.FAILED)


def derive_phase(conditions: Sequence[Condition]) -> Phase:
    """One word for the conditions; the most final one decides.

    An invalid spec shows as Failed, because it will never start as it stands; what runs already goes on.
    """
    validated = find_condition(conditions, ConditionType.VALIDATED)
    running = find_condition(conditions, ConditionType.RUNNING)
    if holds(conditions, ConditionType.COMPLETE):
        return Phase.SUCCEEDED
    is_running = running is not None and running.status == "True"
    is_invalid = validated is not None and validated.status == "False"
    if holds(conditions, ConditionType.FAILED) or (is_invalid and not is_running):
        return Phase.FAILED
    if holds(conditions, ConditionType.SUSPENDED):
        return Phase.SUSPENDED
    if is_running:
        return Phase.RUNNING
    if running is not None and running.reason == Reason.RESTARTING:
        return Phase.RESTARTING
    return Phase.PENDING
