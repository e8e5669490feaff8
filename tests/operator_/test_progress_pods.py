"""Whose pod posts progress, by what watches have told."""

import pytest

from trainyard_api.names import Label
from trainyard_operator.authentication import PodIdentity
from trainyard_operator.keys import RunKey
from trainyard_operator.observe import observe_pod, observe_run
from trainyard_operator.pod_directory import ObservedPods
from trainyard_operator.progress_server import PodOwner
from trainyard_operator.store import Store

RUN = RunKey("team", "speeches", "run-uid")
NOW = 1_800_000_000.0


def run_object():
    return {
        "metadata": {
            "name": RUN.name,
            "namespace": RUN.namespace,
            "uid": RUN.uid,
            "resourceVersion": "1",
            "creationTimestamp": "2026-11-25T00:00:00Z",
        },
        "spec": {},
    }


def pod_object(uid="pod-uid", attempt=2, owner=RUN.uid, version="5"):
    return {
        "metadata": {
            "name": "pod-0",
            "namespace": RUN.namespace,
            "uid": uid,
            "resourceVersion": version,
            "labels": {
                Label.RUN: RUN.name,
                Label.RUN_UID: RUN.uid,
                Label.STAGE: "train",
                Label.ATTEMPT: str(attempt),
            },
            "ownerReferences": [{"kind": "TrainingRun", "uid": owner}],
        }
    }


def identity(**changes):
    return PodIdentity(**({"namespace": "team", "pod_name": "pod-0", "pod_uid": "pod-uid"} | changes))


@pytest.fixture
def store():
    seen = Store()
    seen.put_run(observe_run(run_object()))
    seen.put_pod(observe_pod(pod_object(), NOW))
    return seen


def test_a_pod_belongs_to_its_run_and_attempt(store):
    assert ObservedPods(store).owner_of(identity()) == PodOwner(RUN, 2)
    assert ObservedPods(store).knows(RUN)


@pytest.mark.parametrize("changes", [{"namespace": "other"}, {"pod_name": "pod-1"}, {"pod_uid": "old-uid"}])
def test_another_pod_belongs_to_nothing(store, changes):
    assert ObservedPods(store).owner_of(identity(**changes)) is None


def test_a_pod_that_was_deleted_may_post_no_more(store):
    store.remove_pod(observe_pod(pod_object(), NOW), NOW)
    assert ObservedPods(store).owner_of(identity()) is None


def test_a_pod_made_again_under_its_name_replaces_the_old_one(store):
    store.put_pod(observe_pod(pod_object(uid="new-uid", attempt=3, version="9"), NOW))
    assert ObservedPods(store).owner_of(identity()) is None
    assert ObservedPods(store).owner_of(identity(pod_uid="new-uid")) == PodOwner(RUN, 3)


def test_pods_of_a_run_that_is_gone_belong_to_nothing(store):
    store.remove_run(RUN)
    assert ObservedPods(store).owner_of(identity()) is None
    assert not ObservedPods(store).knows(RUN)


def test_labels_alone_make_no_pod_of_a_run(store):
    foreign = pod_object(uid="foreign-uid", owner="somebody", version="9")
    assert observe_pod(foreign, NOW) is None
