"""Which changes of a status are events: one for each thing that happened."""

import pytest

from trainyard_api.names import ConditionType, Reason
from trainyard_api.policy.conditions import set_condition
from trainyard_api.status import TrainingRunStatus
from trainyard_operator.events import notes_of

BEFORE = "2026-11-25T00:00:00Z"
NOW = "2026-11-25T00:01:00Z"


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
