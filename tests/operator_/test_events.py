"""Which changes of a status are events: one for each thing that happened, and none is lost."""

import dataclasses

import pytest

from tests.support.fake_nodes import ordinary_life
from tests.support.operator_harness import crash_at, play
from trainyard_api.names import ConditionType, Reason
from trainyard_api.policy.conditions import set_condition
from trainyard_api.status import Attempt, TrainingRunStatus
from trainyard_api.timestamps import parse_timestamp
from trainyard_operator.cluster import EVENTS
from trainyard_operator.errors import UnavailableError
from trainyard_operator.events import RETOLD_SECONDS, event_of, notes_of, recent_notes_of
from trainyard_operator.keys import RunKey

BEFORE = "2026-11-25T00:00:00Z"
NOW = "2026-11-25T00:01:00Z"
LATER = "2026-11-25T00:02:00Z"
KEY = RunKey("research", "speeches", "run-1")


def status_of(*conditions, now=NOW):
    known = []
    for kind, truth, reason, message in conditions:
        known = set_condition(known, kind, truth, reason, message, now=now, observed_generation=1)
    return TrainingRunStatus(conditions=known)


AT_WORK = status_of(
    (ConditionType.RUNNING, "True", Reason.STAGE_STARTED, "Train: 2 pods"),
    (ConditionType.PROGRESSING, "True", Reason.STEPS_REPORTED, ""),
    now=BEFORE,
)


@pytest.mark.parametrize(
    ("conditions", "told"),
    [
        (
            [
                (ConditionType.RUNNING, "False", Reason.RESTARTING, "pod-1: OOMKilled"),
                (ConditionType.PROGRESSING, "False", Reason.RESTARTING, ""),
            ],
            [("Warning", "Restarting", "pod-1: OOMKilled")],
        ),
        (
            [
                (ConditionType.RUNNING, "False", Reason.DEADLINE_EXCEEDED, ""),
                (ConditionType.PROGRESSING, "False", Reason.DEADLINE_EXCEEDED, ""),
                (ConditionType.FAILED, "True", Reason.DEADLINE_EXCEEDED, "4 s are over"),
            ],
            [("Warning", "DeadlineExceeded", "4 s are over")],
        ),
        (
            [
                (ConditionType.RUNNING, "False", Reason.RUN_SUSPENDED, ""),
                (ConditionType.SUSPENDED, "True", Reason.RUN_SUSPENDED, "set it to false"),
            ],
            [("Normal", "RunSuspended", "set it to false")],
        ),
        (
            [
                (ConditionType.RUNNING, "False", Reason.RUN_SUCCEEDED, ""),
                (ConditionType.COMPLETE, "True", Reason.RUN_SUCCEEDED, ""),
            ],
            [("Normal", "RunSucceeded", "RunSucceeded")],
        ),
        ([(ConditionType.RUNNING, "False", Reason.PODS_PENDING, "Train: 1 of 2 pods run")], []),
        ([], []),
    ],
    ids=["a restart", "a deadline", "a suspension", "an end", "no trouble", "nothing"],
)
def test_one_thing_that_happened_is_one_event(conditions, told):
    known = [
        (ConditionType(each.type), each.status, Reason(each.reason), each.message)
        for each in AT_WORK.conditions
    ]
    changed = {kind for kind, *_ in conditions}
    new = status_of(*[each for each in known if each[0] not in changed], *conditions)
    notes = [(note.kind, note.reason, note.message) for note in notes_of(AT_WORK, new)]
    assert notes == told


def attempt(number, stage, started_at=BEFORE, stage_started_at=NOW, shards=None):
    return Attempt(
        number=number, stage=stage, started_at=started_at, stage_started_at=stage_started_at, shards=shards
    )


@pytest.mark.parametrize(
    ("attempts", "prepared_at", "stages"),
    [
        ([attempt(0, "Prepare")], None, ["Prepare of attempt 0"]),
        ([attempt(0, "Read", shards=2)], None, ["Read of attempt 0"]),
        (
            [attempt(0, "Read", shards=2), attempt(1, "Prepare", started_at=NOW, shards=2)],
            None,
            ["Read of attempt 0", "Read of attempt 1", "Prepare of attempt 1"],
        ),
        (
            [attempt(0, "Prepare", shards=2), attempt(1, "Train", started_at=NOW, shards=2)],
            LATER,
            ["Read of attempt 0", "Prepare of attempt 0", "Prepare of attempt 1", "Train of attempt 1"],
        ),
        ([attempt(0, "Export")], NOW, ["Prepare of attempt 0", "Train of attempt 0", "Export of attempt 0"]),
        (
            [attempt(0, "Prepare"), attempt(1, "Train", started_at=NOW)],
            LATER,
            ["Prepare of attempt 0", "Prepare of attempt 1", "Train of attempt 1"],
        ),
        (
            [attempt(0, "Prepare"), attempt(1, "Train", started_at=NOW)],
            BEFORE,
            ["Prepare of attempt 0", "Train of attempt 1"],
        ),
        (
            [attempt(0, "Train"), attempt(1, "Export", started_at=NOW)],
            BEFORE,
            ["Prepare of attempt 0", "Train of attempt 0", "Train of attempt 1", "Export of attempt 1"],
        ),
        (
            [attempt(0, "Export"), attempt(1, "Export", started_at=NOW)],
            BEFORE,
            ["Prepare of attempt 0", "Train of attempt 0", "Export of attempt 0", "Export of attempt 1"],
        ),
        ([attempt(7, "Export")], BEFORE, ["Export of attempt 7"]),
    ],
    ids=[
        "the first stage",
        "shards",
        "read twice",
        "read once",
        "stages that nobody saw",
        "an attempt that failed while it prepared",
        "an attempt that was stopped when it had prepared",
        "an attempt that failed in training",
        "an attempt that failed in the export",
        "attempts of which the older ones are forgotten",
    ],
)
def test_every_stage_that_an_attempt_entered_is_an_event(attempts, prepared_at, stages):
    status = TrainingRunStatus(attempts=attempts, prepared_at=prepared_at)
    told = [note.message for note in notes_of(TrainingRunStatus(), status)]
    assert told == [f"{stage} started" for stage in stages]
    assert list(notes_of(status, status)) == []


@pytest.mark.parametrize(("age", "told"), [(0, True), (RETOLD_SECONDS, True), (RETOLD_SECONDS + 1, False)])
def test_what_happened_long_ago_is_not_told_again(age, told):
    now = parse_timestamp(NOW) + age
    suspended = (ConditionType.SUSPENDED, "True", Reason.RUN_SUSPENDED, "set it to false")
    status = status_of(suspended).model_copy(update={"attempts": [attempt(0, "Prepare")]})
    assert bool(list(recent_notes_of(status, now))) == told


def test_an_event_that_is_sent_again_has_the_name_of_the_first():
    status = TrainingRunStatus(attempts=[attempt(0, "Train")])
    once, again = (
        [event_of(KEY, note, timestamp, reporter)["metadata"]["name"] for note in notes]
        for timestamp, reporter, notes in (
            (NOW, "a", notes_of(TrainingRunStatus(), status)),
            (LATER, "b", recent_notes_of(status, parse_timestamp(LATER))),
        )
    )
    assert once == again
    assert len(set(once)) == 2


def events_of(world):
    return [(event["type"], event["reason"], event["message"]) for event in world.cluster.objects(EVENTS)]


STORY = [
    ("Normal", "StageStarted", "Prepare of attempt 0 started"),
    ("Normal", "StageStarted", "Train of attempt 0 started"),
    ("Normal", "StageStarted", "Export of attempt 0 started"),
    ("Normal", "RunSucceeded", "RunSucceeded"),
]


def test_stages_that_are_over_before_the_next_status_write_are_told():
    async def scenario(world):
        world.create()
        await world.after(30)
        assert sorted(events_of(world)) == sorted(STORY)

    def life(pod):
        return dataclasses.replace(ordinary_life(pod), start_seconds=0.1, run_seconds=0.1)

    play(scenario, life_of=life)


@pytest.mark.parametrize("committed", [False, True], ids=["refused", "no answer"])
def test_events_that_could_not_be_sent_are_sent_later_and_once(committed):
    async def scenario(world):
        is_broken = True

        def fault(call, is_committed):
            if is_broken and call.resource == "events" and is_committed == committed:
                raise UnavailableError("no answer")

        world.cluster.fault = fault
        world.create()
        await world.after(100)
        assert world.status().phase == "Succeeded"
        assert events_of(world) == (STORY if committed else [])
        is_broken = False
        await world.after(100)
        assert sorted(events_of(world)) == sorted(STORY)

    play(scenario)


def test_a_status_write_whose_answer_is_lost_is_told_all_the_same():
    async def scenario(world):
        def fault(call, committed):
            if committed and call.verb == "patch_status":
                raise UnavailableError("no answer")

        world.cluster.fault = fault
        world.create()
        await world.after(300)
        assert world.status().phase == "Succeeded"
        assert sorted(events_of(world)) == sorted(STORY)

    play(scenario)


def test_an_operator_that_starts_tells_nothing_that_is_long_past():
    async def scenario(world):
        world.create()
        await world.after(RETOLD_SECONDS * 2)
        del world.cluster.calls[:]
        world.cluster.fault = crash_at(1, committed=False)
        world.edit(ttlSecondsAfterFinished=10**6)
        await world.after(10)
        world.cluster.fault = lambda call, committed: None
        await world.after(60)
        assert world.starts == 2
        assert [call for call in world.cluster.calls if call.resource == "events"] == []

    play(scenario)
