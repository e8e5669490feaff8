"""Why a gang failed: what its pods tell, and which of it is the cause."""

import pytest

from tests.operator_.test_store import pod_object
from trainyard_operator.evidence import failure_of

ENDED = {
    "exitCode": 3,
    "reason": "Error",
    "message": "no route to storage",
    "finishedAt": "2027-01-15T08:00:00Z",
}
NEVER_STARTED = [{"name": "trainer", "state": {"waiting": {"reason": "PodInitializing"}}}]


def init_containers(**ends):
    return [
        {"name": name, "state": {"terminated": {**ENDED, "exitCode": code}}} for name, code in ends.items()
    ]


def test_an_init_container_that_failed_is_told_with_its_name_and_its_own_exit_code():
    status = {"initContainerStatuses": init_containers(first=0, fetch=3), "containerStatuses": NEVER_STARTED}
    failure = failure_of([pod_object(status={"phase": "Failed", **status})], [], now=2_000.0)
    assert (failure.exit_code, failure.reason) == (3, "ProcessFailed")
    assert failure.message == "Init container fetch: Exit code 3"
    assert failure.log_tail == "no route to storage"


@pytest.mark.parametrize(("phase", "code"), [("Pending", 3), ("Running", 3), ("Failed", 0)])
def test_an_init_container_that_may_still_start_again_is_no_end_of_the_pod(phase, code):
    status = {"initContainerStatuses": init_containers(fetch=code), "containerStatuses": NEVER_STARTED}
    assert pod_object(status={"phase": phase, **status}).end is None
