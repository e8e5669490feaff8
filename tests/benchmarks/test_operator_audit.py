"""Arithmetic of the operator's benchmark."""

import json
from datetime import UTC, datetime

import pytest

from benchmarks.operator_audit import (
    JOB_CONTROLLER,
    OPERATOR,
    BenchmarkError,
    Recording,
    own_writes,
    percentile,
    seconds_between,
)
from tests.cluster.audit import AuditLog, Write


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [
        ([3.0, 1.0, 2.0], 0.5, 2.0),
        ([4.0, 3.0, 2.0, 1.0], 0.5, 2.0),
        ([float(value) for value in range(1, 101)], 0.99, 99.0),
        ([float(value) for value in range(1, 102)], 0.99, 100.0),
        ([5.0], 0.99, 5.0),
    ],
)
def test_a_percentile_is_the_smallest_value_that_the_share_does_not_exceed(values, share, expected):
    assert percentile(values, share) == expected


def test_no_values_have_no_percentile():
    with pytest.raises(ValueError, match="no values"):
        percentile([], 0.5)


def write(user, verb, resource, *, name="", code=200, received=0, answered=0):
    received_at, answered_at = (
        datetime(2026, 11, 25, 0, 0, 0, 1000 * milliseconds, UTC) for milliseconds in (received, answered)
    )
    return Write(user, "agent", verb, resource, "team", name, code, received_at, answered_at)


def test_own_writes_are_what_the_controllers_changed_without_new_pods_and_events():
    writes = [
        write(OPERATOR, "create", "pods", code=201),
        write(OPERATOR, "create", "configmaps", code=201),
        write(OPERATOR, "create", "configmaps", code=409),
        write(OPERATOR, "create", "events", code=201),
        write(OPERATOR, "patch", "trainingruns/status"),
        write(JOB_CONTROLLER, "patch", "pods"),
        write("system:kube-scheduler", "create", "pods/binding", code=201),
    ]
    assert own_writes(writes, (OPERATOR,)) == {"create configmaps": 1, "patch trainingruns/status": 1}
    assert own_writes(writes, (OPERATOR, JOB_CONTROLLER)).total() == 3


def test_a_span_reaches_from_the_first_request_to_the_last_answer():
    first = write("admin", "create", "trainingruns", received=10, answered=20)
    last = write(OPERATOR, "create", "pods", received=30, answered=250)
    assert seconds_between(first, last) == pytest.approx(0.24)


def line(resource, name, code=201, subresource=None):
    target = {"resource": resource, "namespace": "team", "name": name}
    if subresource:
        target["subresource"] = subresource
    document = {
        "stage": "ResponseComplete",
        "verb": "create",
        "user": {"username": OPERATOR},
        "objectRef": target,
        "responseStatus": {"code": code},
        "requestReceivedTimestamp": "2026-11-25T00:00:00.000000Z",
        "stageTimestamp": "2026-11-25T00:00:00.001000Z",
    }
    return json.dumps(document, separators=(",", ":")) + "\n"


def test_a_recording_counts_the_pods_that_were_made_after_its_start(tmp_path):
    log = tmp_path / "audit.jsonl"
    log.write_text(line("pods", "run-t0-0-old"))
    recording = Recording.begin(AuditLog(log), "team")
    with log.open("a") as file:
        file.write(line("pods", "run-p0-0-abc") + line("pods", "run-t0-0-abc"))
        file.write(
            line("pods", "run-t0-0-abc", subresource="binding") + line("pods", "run-t0-1-abc", code=403)
        )
        file.write(line("pods", "run-t0-2-abc").rstrip())  # still being written
    assert len(recording.writes()) == 4
    recording.wait_for_pods(2)
    recording.wait_for_pods(1, marker="-t0-")
    with pytest.raises(BenchmarkError, match="1 of 2 pods"):
        recording.wait_for_pods(2, marker="-t0-", seconds=0.0)
