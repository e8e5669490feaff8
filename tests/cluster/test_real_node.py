"""The real node: pods that find each other, compute together, and whose logs and exit codes come back."""

import json
import os

import pytest

from tests.cluster.real_pods import PYTHON, real_pod_spec, shared_folder_claim

pytestmark = pytest.mark.kubelet

WORLD_SIZE = 2
POD_SECONDS = 240
ALL_REDUCE = """
import json, sys
import torch
import torch.distributed

torch.distributed.init_process_group("gloo")
rank = torch.distributed.get_rank()
total = torch.tensor([float(rank + 1)])
torch.distributed.all_reduce(total)
print(json.dumps({"rank": rank, "total": total.item()}), flush=True)
torch.distributed.destroy_process_group()
sys.exit(7 if rank == 1 else 0)
"""


def gang_pod(rank):
    variables = {"RANK": rank, "WORLD_SIZE": WORLD_SIZE, "MASTER_ADDR": "rank-0.gang", "MASTER_PORT": 29500}
    environment = [{"name": name, "value": str(value)} for name, value in variables.items()]
    user = {"runAsUser": 1000, "runAsNonRoot": True, "allowPrivilegeEscalation": False}
    spec = real_pod_spec("worker", command=[PYTHON, "-c", ALL_REDUCE], env=environment, securityContext=user)
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": f"rank-{rank}", "labels": {"gang": "gang"}},
        "spec": {**spec, "hostname": f"rank-{rank}", "subdomain": "gang", "restartPolicy": "Never"},
    }


SERVICE = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "gang"},
    "spec": {
        "clusterIP": "None",
        "selector": {"gang": "gang"},
        "publishNotReadyAddresses": True,
        "ports": [{"name": "rendezvous", "port": 29500}],
    },
}


@pytest.mark.usefixtures("kubelet_cluster")
def test_two_pods_find_each_other_by_name_and_finish_an_all_reduce(kubectl):
    kubectl.apply([SERVICE, *(gang_pod(rank) for rank in range(WORLD_SIZE))])
    kubectl.wait("jsonpath={.status.phase}=Succeeded", "pod/rank-0", timeout_seconds=POD_SECONDS)
    kubectl.wait("jsonpath={.status.phase}=Failed", "pod/rank-1", timeout_seconds=POD_SECONDS)
    logs = [kubectl.run("logs", f"rank-{rank}") for rank in range(WORLD_SIZE)]
    assert [json.loads(log.splitlines()[-1]) for log in logs] == [
        {"rank": 0, "total": 3.0},
        {"rank": 1, "total": 3.0},
    ]
    states = [
        kubectl.get("pod", f"rank-{rank}")["status"]["containerStatuses"][0]["state"] for rank in (0, 1)
    ]
    assert [state["terminated"]["exitCode"] for state in states] == [0, 7]


@pytest.mark.usefixtures("kubelet_cluster")
def test_a_pod_writes_into_a_claimed_folder_and_reaches_the_api_server(kubectl, namespace, tmp_path):
    script = """
import pathlib, ssl, urllib.request
account = pathlib.Path("/var/run/secrets/kubernetes.io/serviceaccount")
request = urllib.request.Request("https://kubernetes.default.svc/version")
request.add_header("Authorization", "Bearer " + (account / "token").read_text())
context = ssl.create_default_context(cafile=account / "ca.crt")
with urllib.request.urlopen(request, context=context) as answer:
    pathlib.Path("/storage/version.json").write_bytes(answer.read())
"""
    spec = real_pod_spec("worker", command=[PYTHON, "-c", script])
    spec["volumes"].append({"name": "storage", "persistentVolumeClaim": {"claimName": "storage"}})
    spec["containers"][0]["volumeMounts"].append({"name": "storage", "mountPath": "/storage"})
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "writer"},
        "spec": {**spec, "restartPolicy": "Never"},
    }
    kubectl.apply([*shared_folder_claim("storage", namespace, tmp_path), pod])
    kubectl.wait("jsonpath={.status.phase}=Succeeded", "pod/writer", timeout_seconds=POD_SECONDS)
    assert json.loads((tmp_path / "version.json").read_text())["major"] == "1"


@pytest.mark.usefixtures("kubelet_cluster")
def test_pods_that_do_not_ask_for_the_real_node_land_on_fake_ones(kubectl):
    names = [f"pod-{number}" for number in range(4)]
    container = {"name": "main", "image": "registry.example/none:1"}
    kubectl.apply(
        [
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": name},
                "spec": {"containers": [container]},
            }
            for name in names
        ]
    )
    kubectl.wait("condition=Ready", *(f"pod/{name}" for name in names))
    assert all(pod["spec"]["nodeName"].startswith("fake-") for pod in kubectl.list("pods"))


@pytest.mark.usefixtures("kubelet_cluster")
def test_the_processes_of_a_pod_see_only_their_own(kubectl):
    spec = real_pod_spec("worker", command=[PYTHON, "-c", "import os; print(os.getpid())"])
    kubectl.apply(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "alone"},
            "spec": {**spec, "restartPolicy": "Never"},
        }
    )
    kubectl.wait("jsonpath={.status.phase}=Succeeded", "pod/alone", timeout_seconds=POD_SECONDS)
    assert kubectl.run("logs", "alone") == "1\n"
    assert os.getpid() != 1
