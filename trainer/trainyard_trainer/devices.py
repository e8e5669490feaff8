"""Which device a process computes on, and whether it is one that its pod was given."""

from collections.abc import Mapping

import torch

from trainyard_api.errors import ConfigurationError, TransientError
from trainyard_api.names import PodEnvironment
from trainyard_api.spec import Accelerator, Workers

FIELD = "spec.workers.accelerator"


def given_devices(workers: Workers, environment: Mapping[str, str]) -> Accelerator | None:
    """The devices of the training pods; None without any, and outside a pod, where a run takes what is there.

    Args:
        workers: the workers of the run.
        environment: variables of this process.
    """
    is_in_pod = bool(environment.get(PodEnvironment.POD_NAME))
    return workers.accelerator if workers.accelerator.count and is_in_pod else None


def select_device(local_rank: int, given: Accelerator | None) -> torch.device:
    """The accelerator of a local rank, or the CPU where there is none and none was given.

    Args:
        local_rank: number of the process on its node.
        given: the devices of the pod.

    Raises:
        ConfigurationError: PyTorch cannot drive the devices of the pod.
        TransientError: it can, and finds none of them on this node.
    """
    if given is not None:
        check_build(given)
    found = torch.accelerator.current_accelerator(check_available=True)
    if found is not None:
        torch.accelerator.set_device_index(local_rank)
        return torch.device(found.type, local_rank)
    if given is not None:
        raise TransientError(
            FIELD,
            f"this pod was given {given.count} {given.resource_name}, and PyTorch finds none of them",
            "Look at the driver of the node; training would go on on its CPU",
        )
    return torch.device("cpu")


def check_build(given: Accelerator) -> None:
    """Refuse an image whose PyTorch would leave the devices of its pods idle, and train on their CPUs.

    Raises:
        ConfigurationError: PyTorch is built without support of such devices.
    """
    if not _is_built_for(given.resource_name):
        raise ConfigurationError(
            f"{FIELD}.resourceName",
            f"PyTorch {torch.__version__} of this image cannot drive {given.resource_name}",
            "Name an image whose PyTorch can in spec.workers.image, in a new TrainingRun",
        )


def _is_built_for(resource_name: str) -> bool:
    """Whether PyTorch could drive a device if it were there; PyTorch calls NVIDIA's and AMD's ones cuda."""
    vendor = resource_name.partition("/")[0]
    if vendor in ("nvidia.com", "amd.com"):
        return bool(torch.version.cuda if vendor == "nvidia.com" else torch.version.hip)
    built = torch.accelerator.current_accelerator()
    return built is not None and built.type != "cuda"
