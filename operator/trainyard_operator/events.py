"""Events: the story of a run as `kubectl describe` tells it, one per thing that happened."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from trainyard_api.names import API_VERSION, KIND, ConditionType, Reason
from trainyard_api.policy.conditions import find_condition
from trainyard_api.status import Condition, TrainingRunStatus
from trainyard_operator.cluster import Object
from trainyard_operator.keys import RunKey

MAXIMUM_MESSAGE = 1_000
"""Characters; the API server takes 1,024."""

_TOLD_WHEN_TRUE = {
    ConditionType.SUSPENDED: "Normal",
    ConditionType.COMPLETE: "Normal",
    ConditionType.FAILED: "Warning",
}
_QUIET = frozenset(
    {
        Reason.PODS_PENDING,
        Reason.STAGE_FINISHED,
        Reason.RUN_SUCCEEDED,
        Reason.RUN_SUSPENDED,
        Reason.SUSPENDING,
        Reason.NODES_CHANGED,
        Reason.WAITING_FOR_QUOTA,
        Reason.WAITING_FOR_RUN,
    },
)
"""Reasons of a False condition that are no trouble."""


@dataclass(frozen=True, slots=True)
class EventNote:
    """Something that happened once."""

    kind: Literal["Normal", "Warning"]
    reason: str
    message: str
    identity: str
    """Distinguishes it from others of the run, and is the same when it is found again after a crash."""


def notes_of(old: TrainingRunStatus, new: TrainingRunStatus) -> Iterator[EventNote]:
    """What happened between two statuses."""
    known = {(attempt.number, attempt.stage) for attempt in old.attempts}
    for attempt in new.attempts:
        if (attempt.number, attempt.stage) not in known:
            yield EventNote(
                "Normal",
                Reason.STAGE_STARTED.value,
                f"{attempt.stage} of attempt {attempt.number} started",
                f"{attempt.number}/{attempt.stage}",
            )
    for condition in new.conditions:
        before = find_condition(old.conditions, ConditionType(condition.type))
        if before is None or (before.status, before.reason) != (condition.status, condition.reason):
            yield from _notes_of_condition(condition)


def event_of(key: RunKey, note: EventNote, timestamp: str, reporter: str) -> Object:
    """The Event object, with a name that is the same whenever the same thing is told again."""
    digest = hashlib.sha256(f"{key.uid}/{note.reason}/{note.identity}".encode()).hexdigest()[:16]
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{key.name[:200]}.{digest}", "namespace": key.namespace},
        "involvedObject": {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "name": key.name,
            "namespace": key.namespace,
            "uid": key.uid,
        },
        "type": note.kind,
        "reason": note.reason,
        "message": note.message[:MAXIMUM_MESSAGE],
        "source": {"component": "trainyard-operator"},
        "reportingComponent": "trainyard.dev/operator",
        "reportingInstance": reporter,
        "firstTimestamp": timestamp,
        "lastTimestamp": timestamp,
        "count": 1,
    }


def _notes_of_condition(condition: Condition) -> Iterator[EventNote]:
    """What a condition's change means to people; most changes are no news."""
    kind, reason = ConditionType(condition.type), condition.reason
    identity = f"{condition.type}/{condition.last_transition_time}"
    if condition.status == "True" and kind in _TOLD_WHEN_TRUE:
        severity: Literal["Normal", "Warning"] = "Warning" if kind is ConditionType.FAILED else "Normal"
        yield EventNote(severity, reason, condition.message or reason, identity)
    elif kind is ConditionType.SUSPENDED and condition.status == "False" and reason == Reason.RESUMED:
        yield EventNote("Normal", reason, "The run goes on", identity)
    elif (
        condition.status == "False"
        and kind not in _TOLD_WHEN_TRUE
        and reason not in _QUIET
        and condition.message  # without words of its own it only follows from another one, which is told
    ):
        yield EventNote("Warning", reason, condition.message, identity)
