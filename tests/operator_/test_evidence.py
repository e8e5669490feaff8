"""Why a gang failed, told without what must not be told."""

import json

import pytest

from tests.operator_.test_store import pod_object
from trainyard_operator.evidence import failure_of

PLAIN = "hunter2-hunter2"


def failed_pod(message, exit_code=1, **status):
    ended = {"exitCode": exit_code, "message": message, "finishedAt": "2027-01-15T08:00:00Z"}
    containers = [{"name": "trainer", "state": {"terminated": ended}}]
    return pod_object(status={"phase": "Failed", "containerStatuses": containers, **status})


@pytest.mark.parametrize(
    "message",
    [
        f"Traceback: cannot open https://me:{PLAIN}@example.org/data",
        json.dumps({"rank": 0, "exitCode": 1, "message": f"password={PLAIN}", "logTail": "", "time": 0.0}),
        json.dumps({"rank": 0, "exitCode": 1, "message": "x", "logTail": f"token: {PLAIN}", "time": 0.0}),
    ],
    ids=["a log tail", "the message of a record", "the log tail of a record"],
)
def test_secrets_that_a_process_left_are_not_told(message):
    failure = failure_of([failed_pod(message)], [], now=2_000.0)
    told = failure.model_dump_json()
    assert PLAIN not in told
    assert "[redacted]" in told


def test_secrets_in_what_the_kubelet_says_are_not_told():
    pod = pod_object(status={"phase": "Failed", "reason": "Evicted", "message": f"volume secret={PLAIN}"})
    assert PLAIN not in failure_of([pod], [], now=2_000.0).message


def test_secrets_in_why_a_container_waits_are_not_seen():
    waiting = {"reason": "ErrImagePull", "message": f"https://me:{PLAIN}@registry.test/v2/ answered 401"}
    pod = pod_object(
        status={"phase": "Pending", "containerStatuses": [{"name": "trainer", "state": {"waiting": waiting}}]}
    )
    assert pod.waiting_message == "https://[redacted]@registry.test/v2/ answered 401"
