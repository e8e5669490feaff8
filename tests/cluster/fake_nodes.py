"""Fake nodes: kwok plays their kubelets, with stages of our own that tests steer by annotations."""

from typing import Any

from tests.cluster.addresses import FAKE_NODE_ADDRESS, LOOPBACK, free_ports
from tests.cluster.locations import STAGES
from tests.cluster.processes import Processes
from tests.cluster.recipes import program_path
from tests.cluster.state import State

_MARK = "test.trainyard.dev/fake-node"
_CAPACITY = {"cpu": "256", "memory": "2Ti", "pods": "1000", "nvidia.com/gpu": "64"}


def start_fake_nodes(state: State, processes: Processes, num_nodes: int) -> None:
    """Start kwok and register nodes named fake-1 and so on, each with 64 GPUs."""
    config = state.folder / "stages.yaml"
    config.write_text("---\n".join(path.read_text() for path in sorted(STAGES.glob("*.yaml"))))
    (port,) = free_ports(1)
    processes.start(
        "kwok",
        [
            program_path("kwok"),
            f"--kubeconfig={state.kubeconfig('kwok')}",
            f"--config={config}",
            f"--manage-nodes-with-annotation-selector={_MARK}=true",
            f"--server-address={LOOPBACK}:{port}",
            f"--node-ip={FAKE_NODE_ADDRESS}",
            "--node-lease-duration-seconds=40",
        ],
    )
    if num_nodes:
        state.kubectl().apply([fake_node(f"fake-{number}") for number in range(1, num_nodes + 1)])


def fake_node(name: str) -> dict[str, Any]:
    """A node for kwok to manage."""
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "annotations": {_MARK: "true"},
            "labels": {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "type": "kwok"},
        },
        "status": {"allocatable": _CAPACITY, "capacity": _CAPACITY},
    }
