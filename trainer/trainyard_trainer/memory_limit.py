"""How much memory the processes of this machine, or of this container, may take together."""

from collections.abc import Mapping
from pathlib import Path

import psutil

from trainyard_api.names import PodEnvironment
from trainyard_api.plan import RunPlan
from trainyard_trainer.memory_kills import group_files


def host_memory(root: Path = Path("/")) -> int:
    """Bytes: the machine's memory, or the limit of the control group where that is lower (cgroup v1 and v2).

    Args:
        root: where `proc` and `sys` are.
    """
    limits = [psutil.virtual_memory().total]
    for path in group_files(root, version_1="memory.limit_in_bytes", version_2="memory.max"):
        if path.is_file():
            text = path.read_text(encoding="utf-8").strip()
            limits += [int(text)] if text.isdecimal() else []
    return min(limits)


def num_sharing(plan: RunPlan, environment: Mapping[str, str]) -> int:
    """The processes of a gang that share it: those of one pod, or all of them on a laptop.

    Args:
        plan: the run.
        environment: tells whether this is a pod.
    """
    # A plan that one process works off, as at the export, says so in its batch alone.
    of_pod = plan.spec.workers.processes_per_node if environment.get(PodEnvironment.POD_NAME) else None
    return min(of_pod or plan.batch.world_size, plan.batch.world_size)
