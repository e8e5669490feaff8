"""Devices of a worker pod, by the name of their extended resource."""

from typing import Any

from trainyard_api.names import GANG_STAGES, Stage
from trainyard_api.spec import Workers

TPU_NODE_LABELS = ("cloud.google.com/gke-tpu-accelerator", "cloud.google.com/gke-tpu-topology")
"""Without both, GKE schedules no pod that asks for google.com/tpu ("About TPUs in GKE")."""
SHARED_MEMORY_BYTES_PER_DEVICE_PROCESS = 2**30
SHARED_MEMORY_BYTES_PER_CPU_PROCESS = 256 * 2**20


def num_devices(workers: Workers, stage: Stage) -> int:
    """Devices of each pod of a stage: only training, and a teacher before it, compute on them.

    Preparation and export use the CPU; holding accelerators for them would keep others from training.
    """
    return workers.accelerator.count if stage in GANG_STAGES else 0


def stage_resources(workers: Workers, stage: Stage) -> dict[str, Any]:
    """Resource requirements of the worker container.

    Extended resources have to be equal in limits and requests.
    """
    resources = {
        key: dict(value) if isinstance(value, dict) else value for key, value in workers.resources.items()
    }
    devices = num_devices(workers, stage)
    if devices:
        for key in ("limits", "requests"):
            amounts = resources.get(key)
            resources[key] = {
                **(amounts if isinstance(amounts, dict) else {}),
                workers.accelerator.resource_name: str(devices),
            }
    return resources


def device_tolerations(workers: Workers, stage: Stage) -> list[dict[str, str]]:
    """The tolerations that go with a device.

    Nodes with devices are by convention tainted with the name of the resource; the admission plugin
    ExtendedResourceToleration adds the same toleration on the clusters that enable it. Nodes whose GPUs
    NVIDIA's plugin shares or divides, and offers under other names, keep the taint of the whole GPU.
    """
    if not num_devices(workers, stage):
        return []
    name = workers.accelerator.resource_name
    keys = [name]
    if name.startswith("nvidia.com/") and name != "nvidia.com/gpu":
        keys.append("nvidia.com/gpu")
    return [{"key": key, "operator": "Exists", "effect": "NoSchedule"} for key in keys]


def device_node_selector(workers: Workers, stage: Stage) -> dict[str, str]:
    """Labels of the nodes that have the devices in the arrangement that the run wants."""
    accelerator = workers.accelerator
    if not num_devices(workers, stage) or not accelerator.topology:
        return {}
    return dict(zip(TPU_NODE_LABELS, (accelerator.type, accelerator.topology), strict=True))


def device_environment(workers: Workers, stage: Stage) -> dict[str, str]:
    """Variables that a pod's devices, or their absence, need.

    Images built on NVIDIA's set NVIDIA_VISIBLE_DEVICES=all, and on a node whose default runtime is NVIDIA's a
    container that asked for no device then sees every one of them, those of other pods too. `void` makes that
    runtime do nothing (NVIDIA Container Toolkit, "Environment variables"). Where devices are asked for, their
    plugin sets what they need, and nothing is added.
    """
    return {} if num_devices(workers, stage) else {"NVIDIA_VISIBLE_DEVICES": "void"}


def shared_memory_bytes(workers: Workers, stage: Stage) -> int:
    """Size of /dev/shm.

    NCCL moves data between the ranks of a pod through it where devices cannot reach each other directly;
    NVIDIA's guide to troubleshooting NCCL asks for 1 GB, here per process that drives a device. Processes
    on a CPU talk through sockets and keep only locks and small buffers there. The size does not follow
    the memory limit, because what NCCL needs does not; whoever needs another one sets `sizeLimit` of the
    volume `shm` in podTemplate. The runtime's own default of 64 MB makes NCCL fail or fall back.
    """
    if stage not in GANG_STAGES:
        return SHARED_MEMORY_BYTES_PER_CPU_PROCESS
    if num_devices(workers, stage):
        return SHARED_MEMORY_BYTES_PER_DEVICE_PROCESS * workers.processes_per_node
    return SHARED_MEMORY_BYTES_PER_CPU_PROCESS * workers.processes_per_node
