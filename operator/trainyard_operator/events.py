"""Events: the story of a run as `kubectl describe` tells it, one per thing that happened.

They follow from the written status alone and have names that follow from what they tell. So whoever cannot
know whether an event was sent, such as an operator that has just started, sends it again: only one is kept.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from trainyard_api.names import API_VERSION, KIND, ConditionType, Reason, Stage
from trainyard_api.policy.conditions import find_condition
from trainyard_api.policy.stages import first_stage
from trainyard_api.status import Attempt, Condition, TrainingRunStatus
from trainyard_api.timestamps import parse_timestamp
from trainyard_operator.cluster import Object
from trainyard_operator.keys import RunKey

MAXIMUM_MESSAGE = 1_000
"""Characters; the API server takes 1,024."""
RETOLD_SECONDS = 600.0
"""How old a thing may be for its event to be sent again; the API server keeps events for an hour or so, and
one that it has dropped must not come back."""

_TOLD_WHEN_TRUE: Mapping[ConditionType, Literal["Normal", "Warning"]] = {
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
"""Reasons of a False condition that are no news."""
_NO_FAULTS = frozenset({Reason.PREEMPTED})
"""Reasons of a False condition that are news, but no trouble of the run's."""


@dataclass(frozen=True, slots=True)
class EventNote:
    """Something that happened once."""

    kind: Literal["Normal", "Warning"]
    reason: str
    message: str
    identity: str
    """Distinguishes it from others of the run, and is the same when it is found again after a crash."""
    happened_at: float
    """Unix time, in seconds; of a stage that another one followed within a write, when that one started."""


def recent_notes_of(status: TrainingRunStatus, now: float) -> Iterator[EventNote]:
    """What happened lately, as far as a status tells it."""
    for note in notes_of(TrainingRunStatus(), status):
        if now - note.happened_at <= RETOLD_SECONDS:
            yield note


def notes_of(old: TrainingRunStatus, new: TrainingRunStatus) -> Iterator[EventNote]:
    """What happened between two statuses."""
    known = {(attempt.number, stage) for attempt, stage in _stages_of(old)}
    for attempt, stage in _stages_of(new):
        if (attempt.number, stage) not in known:
            yield EventNote(
                "Normal",
                Reason.STAGE_STARTED.value,
                f"{stage} of attempt {attempt.number} started",
                f"{attempt.number}/{stage}",
                parse_timestamp(attempt.stage_started_at or attempt.started_at),
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


def _stages_of(status: TrainingRunStatus) -> Iterator[tuple[Attempt, Stage]]:
    """The stages that the known attempts have entered; the status itself holds the last one of each."""
    stages = list(Stage)
    for before, attempt in zip([None, *status.attempts], status.attempts, strict=False):
        first = _first_stage_of(status, before, attempt)
        for stage in stages[stages.index(first) : stages.index(Stage(attempt.stage)) + 1]:
            if stage is not Stage.CACHE or attempt.teacher_cache:
                yield attempt, stage


def _first_stage_of(status: TrainingRunStatus, before: Attempt | None, attempt: Attempt) -> Stage:
    """The stage that an attempt started with, from what was known then."""
    num_shards = attempt.shards or 1
    if before is None and attempt.number > 0:
        return Stage(attempt.stage)
    if before is None:
        return first_stage(prepared=False, last_stage=None, num_shards=num_shards)
    prepared_at, started_at = status.prepared_at, parse_timestamp(attempt.started_at)
    prepared = prepared_at is not None and parse_timestamp(prepared_at) <= started_at
    return first_stage(
        prepared=prepared,
        last_stage=Stage(before.stage),
        num_shards=num_shards,
        has_cache=bool(attempt.teacher_cache),
    )


def _notes_of_condition(condition: Condition) -> Iterator[EventNote]:
    """What a condition's change means to people; most changes are no news."""
    kind, reason = ConditionType(condition.type), condition.reason
    identity = f"{condition.type}/{condition.last_transition_time}"
    since = parse_timestamp(condition.last_transition_time)
    severity: Literal["Normal", "Warning"]
    if condition.status == "True" and kind in _TOLD_WHEN_TRUE:
        severity = _TOLD_WHEN_TRUE[kind]
        yield EventNote(severity, reason, condition.message or reason, identity, since)
    elif kind is ConditionType.SUSPENDED and condition.status == "False" and reason == Reason.RESUMED:
        yield EventNote("Normal", reason, "The run goes on", identity, since)
    elif (
        condition.status == "False"
        and kind not in _TOLD_WHEN_TRUE
        and reason not in _QUIET
        and condition.message  # without words of its own it only follows from another one, which is told
    ):
        severity = "Normal" if reason in _NO_FAULTS else "Warning"
        yield EventNote(severity, reason, condition.message, identity, since)
