"""Pods on the real node: no image can be pulled here, so that they run this machine's programs.

A pod gets the base image, which is empty folders, and this machine's `/usr`, its Python, its virtual
environment and this repository in them, read-only. Such pods need `hostPath`, which Pod Security's
`restricted` does not admit.
"""

import sys
from pathlib import Path
from typing import Any

from tests.cluster.images import BASE_IMAGE, MOUNTED_FOLDERS
from tests.cluster.locations import REPOSITORY
from tests.cluster.steering import REAL_NODE_TAINT

PYTHON = sys.executable
"""The interpreter of the virtual environment, at the same path inside the pods."""


def machine_folders() -> list[Path]:
    """What pods mount: system folders that exist, the home of Python, its environment and this repository."""
    wanted = [
        *(Path(folder) for folder in MOUNTED_FOLDERS),
        Path(sys.base_prefix),
        Path(sys.prefix),
        REPOSITORY,
    ]
    found: list[Path] = []
    for folder in wanted:
        if folder.exists() and not any(folder.is_relative_to(other) for other in found):
            found.append(folder)
    return found


def real_pod_spec(container: str, **fields: Any) -> dict[str, Any]:
    """Fields of a pod that make it run on the real node with this machine's programs.

    It is a whole pod spec when the container gets a command, and a `podTemplate` to merge over another one.

    Args:
        container: name of the container.
        fields: more fields of the container, such as command or env.
    """
    folders = {f"machine-{number}": str(folder) for number, folder in enumerate(machine_folders())}
    mounts = [{"name": name, "mountPath": folder, "readOnly": True} for name, folder in folders.items()]
    environment = [{"name": "HOME", "value": "/tmp"}, *fields.pop("env", [])]  # noqa: S108 - in the pod
    return {
        "nodeSelector": {REAL_NODE_TAINT: "true"},
        "tolerations": [{"key": REAL_NODE_TAINT, "operator": "Exists", "effect": "NoSchedule"}],
        "containers": [
            {
                "name": container,
                "image": BASE_IMAGE,
                "imagePullPolicy": "Never",
                "env": environment,
                "volumeMounts": mounts,
                **fields,
            }
        ],
        "volumes": [
            {"name": name, "hostPath": {"path": folder, "type": "Directory"}}
            for name, folder in folders.items()
        ],
    }


def shared_folder_claim(name: str, namespace: str, folder: Path) -> list[dict[str, Any]]:
    """A volume that is a folder of this machine, and the claim that binds it: storage that all pods share."""
    volume = f"{namespace}-{name}"
    size = {"storage": "10Gi"}
    return [
        {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": volume},
            "spec": {
                "capacity": size,
                "accessModes": ["ReadWriteMany"],
                "persistentVolumeReclaimPolicy": "Retain",
                "storageClassName": "",
                "claimRef": {"name": name, "namespace": namespace},
                "hostPath": {"path": str(folder), "type": "Directory"},
            },
        },
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": name, "namespace": namespace},
            "spec": {
                "accessModes": ["ReadWriteMany"],
                "resources": {"requests": size},
                "storageClassName": "",
                "volumeName": volume,
            },
        },
    ]
