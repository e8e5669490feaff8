"""What the operator keeps of what it sees: the newest versions, evidence of what went, and lists compared."""

import copy

import pytest

from tests.support.operator_harness import NAMESPACE, run_document
from trainyard_api.errors import ConfigurationError
from trainyard_api.status import TrainingRunStatus
from trainyard_operator.intake import Intake
from trainyard_operator.observe import observe_job, observe_pod, observe_run, version_number
from trainyard_operator.status import status_patch
from trainyard_operator.store import Store
from trainyard_operator.work_queue import WorkQueue

POD = {
    "metadata": {
        "name": "speeches-t0-1-abcdef",
        "namespace": NAMESPACE,
        "uid": "pod-1",
        "resourceVersion": "20",
        "labels": {
            "trainyard.dev/run": "speeches",
            "trainyard.dev/run-uid": "run-1",
            "trainyard.dev/stage": "train",
            "trainyard.dev/attempt": "0",
            "trainyard.dev/node-index": "1",
        },
        "ownerReferences": [{"kind": "TrainingRun", "uid": "run-1"}],
    },
    "status": {"phase": "Running"},
}


def raw_run(name="speeches", uid="run-1", version="10"):
    document = run_document(name)
    document["metadata"] |= {
        "uid": uid,
        "resourceVersion": version,
        "creationTimestamp": "2027-01-15T08:00:00Z",
    }
    return document


def run_object(name="speeches", uid="run-1", version="10", upstream=""):
    document = raw_run(name, uid, version)
    if upstream:
        document["spec"]["model"] = {"fromRun": {"name": upstream}}
    return observe_run(document)


def pod_object(version="20", now=1_000.0, **changes):
    raw = copy.deepcopy(POD)
    raw["metadata"] |= {"resourceVersion": version} | changes.pop("metadata", {})
    raw |= changes
    return observe_pod(raw, now)


def test_an_older_version_never_replaces_a_newer_one():
    store = Store()
    newer = run_object(version="11")
    assert store.put_run(newer) == {newer.key}
    assert store.put_run(run_object(version="10")) == set()
    assert store.put_run(run_object(version="11")) == set()
    assert store.run(newer.key) is newer


def test_an_event_about_a_version_that_is_known_is_not_even_read(caplog):
    store, queue = Store(), WorkQueue()
    intake = Intake(store, queue, lambda: 0.0)
    unreadable = {"status": {"attempts": "none"}}
    store.put_run(run_object(version="11"))
    for version in ("10", "11"):
        intake.run_event("MODIFIED", raw_run(version=version) | unreadable)
    assert (len(queue), caplog.messages) == (0, [])
    intake.run_event("MODIFIED", raw_run(version="12") | unreadable)
    assert "status.attempts" in caplog.text


def test_versions_are_compared_as_numbers():
    store = Store()
    store.put_run(run_object(version="9"))
    assert store.put_run(run_object(version="10"))
    assert version_number("none") == 0


def test_a_belief_lasts_until_the_run_has_a_new_version():
    store = Store()
    run = run_object(version="10")
    store.put_run(run)
    believed = TrainingRunStatus(restarts=3)
    store.believe(run.key, believed)
    assert store.run(run.key).status is believed
    assert store.run(run.key).written == TrainingRunStatus()
    store.put_run(run_object(version="12"))
    assert store.run(run.key).status == TrainingRunStatus()


def test_a_pod_that_went_stays_as_evidence_until_its_attempt_is_settled():
    store = Store()
    run, pod = run_object(), pod_object()
    store.put_run(run)
    store.put_pod(pod)
    assert store.run_of_pod(NAMESPACE, pod.name, "pod-1") == run.key
    assert store.remove_pod(pod, now=2_000.0) == {run.key}
    (kept,) = store.pods(run.key)
    assert (kept.gone, kept.ended_at) == (True, 2_000.0)
    assert store.run_of_pod(NAMESPACE, pod.name, "pod-1") is None
    assert store.put_pod(pod_object(version="30")) == set()
    store.drop_evidence(run.key, before_attempt=0)
    assert list(store.pods(run.key)) == [kept]
    store.drop_evidence(run.key, before_attempt=1)
    assert list(store.pods(run.key)) == []


def test_another_pod_of_the_same_name_replaces_one_that_went():
    store = Store()
    store.put_pod(pod_object())
    store.remove_pod(pod_object(), now=2_000.0)
    second = pod_object(version="40", metadata={"uid": "pod-2"})
    assert store.put_pod(second)
    (kept,) = store.pods(second.run)
    assert (kept.uid, kept.gone) == ("pod-2", False)
    assert store.remove_pod(pod_object(), now=3_000.0) == set()


def test_the_time_of_an_end_is_when_it_was_first_seen():
    store = Store()
    ended = {"phase": "Failed"}
    store.put_pod(pod_object(version="21", now=1_000.0, status=ended))
    store.put_pod(pod_object(version="22", now=1_500.0, status=ended))
    (kept,) = store.pods(pod_object().run)
    assert kept.ended_at == 1_000.0


@pytest.mark.parametrize(
    "metadata",
    [
        {"ownerReferences": []},
        {"ownerReferences": [{"kind": "TrainingRun", "uid": "run-of-somebody-else"}]},
        {"labels": {}},
        {"labels": {**POD["metadata"]["labels"], "trainyard.dev/stage": "lunch"}},
        {"labels": {**POD["metadata"]["labels"], "trainyard.dev/attempt": "-1"}},
    ],
)
def test_a_pod_that_only_looks_like_ours_is_none_of_ours(metadata):
    assert pod_object(metadata=metadata) is None


def test_a_list_finds_what_watches_lost_and_leaves_what_came_meanwhile():
    store = Store()
    lost, kept, changed = run_object("lost", "1"), run_object("kept", "2"), run_object("changed", "3")
    for run in (lost, kept, changed):
        store.put_run(run)
    pod = pod_object()
    store.put_pod(pod)
    before = store.versions()
    store.put_run(run_object("changed", "3", version="50"))
    late = run_object("late", "4", version="60")
    store.put_run(late)
    unseen = run_object("unseen", "5", version="40")
    found = store.compare([kept, unseen], [], before, now=2_000.0)
    assert {key.name for key in found} == {"lost", "unseen", "speeches"}
    assert {key.name for key in store.all_keys()} == {"kept", "changed", "late", "unseen"}
    assert [seen.gone for seen in store.pods(pod.run)] == [True]


def test_runs_that_wait_for_another_are_looked_at_when_it_changes():
    store = Store()
    student = run_object("student", "1", upstream="teacher")
    store.put_run(student)
    teacher = run_object("teacher", "2")
    assert store.put_run(teacher) == {teacher.key, student.key}
    assert store.remove_run(teacher.key) == {teacher.key, student.key}
    store.remove_run(student.key)
    assert store.put_run(run_object("teacher", "3")) == {run_object("teacher", "3").key}


def test_a_name_belongs_to_the_run_that_has_it_now():
    store = Store()
    old, new = run_object(uid="1", version="10"), run_object(uid="2", version="20")
    store.put_run(new)
    store.put_run(old)
    assert store.run_by_name(NAMESPACE, "speeches") == new
    store.remove_run(old.key)
    assert store.run_by_name(NAMESPACE, "speeches") == new
    store.remove_run(new.key)
    assert store.run_by_name(NAMESPACE, "speeches") is None


def test_a_status_that_is_none_of_ours_is_refused_with_its_field():
    document = run_document()
    document["metadata"] |= {"uid": "1", "resourceVersion": "1", "creationTimestamp": "2027-01-15T08:00:00Z"}
    document["status"] = {"restarts": "many"}
    with pytest.raises(ConfigurationError, match=r"status\.restarts"):
        observe_run(document)


def test_a_status_that_another_version_of_the_operator_wrote_is_read():
    document = run_document()
    document["metadata"] |= {"uid": "1", "resourceVersion": "1", "creationTimestamp": "2027-01-15T08:00:00Z"}
    attempt = {"number": 0, "startedAt": "2027-01-15T08:00:00Z", "colour": "red"}
    document["status"] = {"restarts": 3, "attempts": [attempt], "forecast": "sunny"}
    run = observe_run(document)
    assert (run.status.restarts, run.status.attempts[0].number) == (3, 0)
    # What is not known is left as it is.
    changed = run.status.model_copy(update={"restarts": 4})
    assert "forecast" not in status_patch(run.written, changed)["status"]


def job_of(uid, owner="run-1"):
    labels = POD["metadata"]["labels"] | {"trainyard.dev/stage": "prepare"}
    metadata = {
        "name": "speeches-p0",
        "namespace": NAMESPACE,
        "uid": uid,
        "resourceVersion": "19",
        "labels": labels,
        "ownerReferences": [{"kind": "TrainingRun", "uid": owner}],
    }
    return observe_job({"metadata": metadata, "spec": {"completions": 1}})


def pod_of_job(uid):
    return pod_object(metadata={"ownerReferences": [{"kind": "Job", "uid": uid}]})


def test_a_pod_of_a_job_counts_once_the_job_is_known_to_be_the_run_s():
    store = Store()
    run = run_object()
    store.put_run(run)
    pod = pod_of_job("job-1")
    store.put_pod(pod)
    assert list(store.pods(run.key)) == []
    assert store.run_of_pod(NAMESPACE, pod.name, pod.uid) is None
    job = job_of("job-1")
    store.put_job(job)
    assert list(store.pods(run.key)) == [pod]
    assert store.run_of_pod(NAMESPACE, pod.name, pod.uid) == run.key
    store.remove_job(job)
    assert list(store.pods(run.key)) == [pod]


def test_a_pod_of_somebody_else_s_job_is_never_the_run_s_whatever_its_labels_say():
    store = Store()
    run = run_object()
    store.put_run(run)
    store.put_job(job_of("job-1"))
    store.put_pod(pod_of_job("job-2"))
    assert list(store.pods(run.key)) == []
    assert job_of("job-2", owner="run-2") is None
