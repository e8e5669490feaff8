"""The test cluster itself: steered pods, the record of writes, and that nothing is left of it."""

import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.cluster import fixtures, steering
from tests.cluster.cluster import Cluster, ClusterError, KeeperProcess, running_cluster
from tests.cluster.images import BASE_IMAGE
from tests.cluster.keeper import Options
from tests.cluster.kubectl import Kubectl, KubectlError
from tests.cluster.locations import REPOSITORY, cluster_cache, states_folder
from tests.cluster.teardown import processes_of

END_SECONDS = 150
OWNER = """
from tests.cluster.cluster import running_cluster
with running_cluster() as cluster:
    print(cluster.state.folder, flush=True)
    input()
"""


def end_of(process: psutil.Process) -> int:
    """A file descriptor that is readable once the process has ended, whoever collects it."""
    return os.pidfd_open(process.pid)


def have_ended(ends: list[int]) -> bool:
    """Wait for processes to end, some time at most; closes their descriptors."""
    deadline = time.monotonic() + END_SECONDS
    left = set(ends)
    while left and time.monotonic() < deadline:
        ready, _, _ = select.select(left, [], [], deadline - time.monotonic())
        left -= set(ready)
    for end in ends:
        os.close(end)
    return not left


def pod(name: str, **annotations: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "annotations": annotations},
        "spec": {
            "restartPolicy": "Never",
            "containers": [
                {"name": "main", "image": BASE_IMAGE, "resources": {"limits": {"nvidia.com/gpu": 1}}}
            ],
        },
    }


def container_state(kubectl: Kubectl, name: str) -> dict[str, Any]:
    (status,) = kubectl.get("pod", name)["status"]["containerStatuses"]
    state: dict[str, Any] = status["state"]
    return state


@pytest.mark.control_plane
def test_a_pod_runs_until_a_test_ends_it(kubectl):
    kubectl.apply(pod("steered"))
    kubectl.wait("condition=Ready", "pod/steered")
    assert kubectl.get("pod", "steered")["spec"]["nodeName"].startswith("fake-")
    annotations = {
        steering.EXIT_CODE: "137",
        steering.EXIT_REASON: "OOMKilled",
        steering.TERMINATION_MESSAGE: 'rank 1: "no memory"',
    }
    kubectl.run("annotate", "pod", "steered", *(f"{name}={value}" for name, value in annotations.items()))
    kubectl.wait("jsonpath={.status.phase}=Failed", "pod/steered")
    terminated = container_state(kubectl, "steered")["terminated"]
    assert terminated["exitCode"] == 137
    assert terminated["reason"] == "OOMKilled"
    assert terminated["message"] == 'rank 1: "no memory"'


@pytest.mark.control_plane
def test_a_pod_that_is_annotated_from_the_start_completes_after_its_delay(kubectl):
    kubectl.apply(pod("completes", **{steering.EXIT_CODE: "0", steering.EXIT_DELAY: "1s"}))
    kubectl.wait("jsonpath={.status.phase}=Running", "pod/completes")
    kubectl.wait("jsonpath={.status.phase}=Succeeded", "pod/completes")
    assert container_state(kubectl, "completes")["terminated"]["reason"] == "Completed"


@pytest.mark.control_plane
def test_a_pod_may_wait_for_its_image_and_then_run(kubectl):
    kubectl.apply(pod("waits", **{steering.WAITING_REASON: "ImagePullBackOff"}))
    kubectl.wait("jsonpath={.status.containerStatuses[0].state.waiting.reason}=ImagePullBackOff", "pod/waits")
    assert kubectl.get("pod", "waits")["status"]["phase"] == "Pending"
    kubectl.run("annotate", "pod", "waits", f"{steering.WAITING_REASON}-")
    kubectl.wait("condition=Ready", "pod/waits")


@pytest.mark.control_plane
def test_a_deleted_pod_goes_or_ends_first_or_stays_as_it_was_told(kubectl):
    kubectl.apply(
        [
            pod("goes"),
            pod("ends", **{steering.EXIT_CODE_ON_DELETE: "77", steering.STAYS_WHEN_DELETED: "true"}),
            pod("stays", **{steering.STAYS_WHEN_DELETED: "true"}),
        ]
    )
    kubectl.wait("condition=Ready", "pod/goes", "pod/ends", "pod/stays")
    kubectl.run("delete", "pod", "--all", "--wait=false")
    kubectl.wait("delete", "pod/goes")
    kubectl.wait("jsonpath={.status.phase}=Failed", "pod/ends")
    assert container_state(kubectl, "ends")["terminated"]["exitCode"] == 77
    assert kubectl.get("pod", "stays")["status"]["phase"] == "Running"
    for name in ("ends", "stays"):
        kubectl.run("annotate", "pod", name, f"{steering.STAYS_WHEN_DELETED}-")
    kubectl.wait("delete", "pod/ends", "pod/stays")


@pytest.mark.control_plane
def test_a_restricted_namespace_refuses_a_pod_that_could_become_root(cluster, restricted_namespace):
    with pytest.raises(KubectlError, match="violates PodSecurity"):
        cluster.kubectl.in_namespace(restricted_namespace).apply(pod("root"))


@pytest.mark.control_plane
def test_the_audit_log_counts_the_writes_of_a_user(cluster, namespace):
    if cluster.audit is None:
        pytest.skip(
            "the audit log of a cluster that is not ours cannot be read: run without --cluster=existing"
        )
    user = f"system:serviceaccount:{namespace}:default"
    kubectl = cluster.kubectl.in_namespace(namespace)
    subject = f"--serviceaccount={namespace}:default"
    kubectl.run("create", "rolebinding", "writer", "--clusterrole=edit", subject)
    position = cluster.audit.position()
    kubectl.as_user(user).run("create", "configmap", "one", "--from-literal=key=value")
    kubectl.as_user(user).run("get", "configmap", "one")
    kubectl.as_user(user).run("delete", "configmap", "one")
    writes = [write for write in cluster.audit.writes(since=position) if write.user == user]
    assert [(write.verb, write.resource, write.name) for write in writes] == [
        ("create", "configmaps", "one"),
        ("delete", "configmaps", "one"),
    ]
    assert all(write.code in (200, 201) for write in writes)
    assert all(write.received_at <= write.answered_at for write in writes)


@pytest.mark.control_plane
@pytest.mark.usefixtures("cluster")
def test_a_cluster_is_gone_after_its_owner_was_killed():
    with subprocess.Popen(
        [sys.executable, "-c", OWNER],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as owner:
        assert owner.stdout is not None
        folder = owner.stdout.readline().strip()
        (keeper,) = psutil.Process(owner.pid).children()
        programs = keeper.children()
        ends = [end_of(process) for process in (keeper, *programs)]
        owner.send_signal(signal.SIGKILL)
        assert have_ended(ends)
    assert len(programs) >= 5
    assert not os.path.exists(folder)  # noqa: PTH110 - the text that was printed


@pytest.mark.control_plane
@pytest.mark.usefixtures("cluster")
def test_a_cluster_that_does_not_come_up_says_why_and_leaves_nothing():
    keeper = KeeperProcess(Options(extra_arguments={"kube-apiserver": ["--no-such-flag"]}))
    with pytest.raises(
        ClusterError, match=r"(?s)kube-apiserver: it ended with code 1.*no-such-flag"
    ) as raised:
        keeper.answer()
    keeper.stop()
    log = Path(raised.value.remedy.removeprefix("Read "))
    assert log.is_relative_to(states_folder())
    assert not log.parents[1].exists()


@pytest.mark.control_plane
@pytest.mark.usefixtures("cluster")
def test_a_program_that_ends_early_is_told_when_the_cluster_is_stopped():
    keeper = KeeperProcess(Options(num_fake_nodes=0))
    keeper.answer()
    programs = psutil.Process(keeper.process_id).children()
    (scheduler,) = (program for program in programs if program.name() == "kube-scheduler")
    end = end_of(scheduler)
    scheduler.kill()
    assert have_ended([end])
    with pytest.raises(ClusterError, match="kube-scheduler: it ended with code -9"):
        keeper.stop()


@pytest.mark.control_plane
@pytest.mark.usefixtures("cluster")
def test_what_a_killed_keeper_leaves_is_removed_by_the_next_one():
    with running_cluster(Options(num_fake_nodes=1)) as killed:
        assert killed.keeper is not None
        assert killed.state is not None
        keeper = psutil.Process(killed.keeper.process_id)
        ends = [end_of(process) for process in keeper.children()]
        keeper.kill()
        assert have_ended(ends)
        assert killed.state.folder.exists()
        with running_cluster(Options(num_fake_nodes=1)) as next_one:
            assert len(next_one.kubectl.list("nodes")) == 1
            assert not killed.state.folder.exists()
            assert list(processes_of(killed.state.folder)) == []


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"TRAINYARD_CACHE": "/somewhere"}, "/somewhere/testcluster"),
        ({"XDG_CACHE_HOME": "/shared"}, "/shared/trainyard/testcluster"),
        ({"TRAINYARD_CACHE": "/somewhere", "XDG_CACHE_HOME": "/shared"}, "/somewhere/testcluster"),
    ],
)
def test_the_cache_lies_where_the_environment_says(environment, expected):
    assert str(cluster_cache(environment)) == expected


def test_without_a_cluster_a_test_is_skipped_unless_one_is_required(monkeypatch):
    monkeypatch.delenv(fixtures.REQUIRE_VARIABLE, raising=False)
    with pytest.raises(pytest.skip.Exception, match="there is no Go"):
        fixtures.give_up("there is no Go: run make init")
    monkeypatch.setenv(fixtures.REQUIRE_VARIABLE, "1")
    with pytest.raises(pytest.fail.Exception, match="TRAINYARD_REQUIRE_CLUSTER=1, but there is no Go"):
        fixtures.give_up("there is no Go: run make init")


def test_an_existing_cluster_needs_a_kubeconfig_that_exists(tmp_path):
    with pytest.raises(ClusterError, match="KUBECONFIG"):
        Cluster.existing({"KUBECONFIG": str(tmp_path / "absent")})
