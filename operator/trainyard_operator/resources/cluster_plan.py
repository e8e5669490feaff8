"""The plan of an attempt on a cluster."""

from typing import Any

from trainyard_api.names import TRAINER_CONTAINER, PodPath, Stage
from trainyard_api.plan import Rendezvous, RunPlan, plan_run
from trainyard_api.quantities import parse_quantity
from trainyard_api.spec import TrainingRun, Workers
from trainyard_operator.resources.facts import Owner, WorkerDefaults
from trainyard_operator.resources.service import first_rank_address


def plan_for_cluster(run: TrainingRun, owner: Owner, attempt: int, defaults: WorkerDefaults) -> RunPlan:
    """What every pod of an attempt runs.

    Raises:
        ConfigurationError: the world size does not divide the batch.
    """
    return plan_run(
        run,
        storage_root=PodPath.STORAGE_ROOT.value,
        rendezvous=Rendezvous(address=first_rank_address(owner, attempt, defaults)),
        attempt=attempt,
        python=defaults.python,
        threads_per_process=threads_per_process(run.spec.workers),
        preparation_processes=pod_cores(run.spec.workers),
        shard_processes=pod_cores(run.spec.workers),
        plan_file=PodPath.PLAN.value,
        cache_rendezvous=Rendezvous(address=first_rank_address(owner, attempt, defaults, Stage.CACHE)),
    )


def pod_cores(workers: Workers) -> int:
    """Whole cores of a worker pod: its CPU limit, else its request, at least 1; 0 when it has neither.

    The limit bounds what a pod may use, and more threads than that only wait for each other; the cores that a
    process sees are the node's. A pod with neither may use all of those, and only the pod can count them.
    """
    for key in ("limits", "requests"):
        cores = parse_quantity(_cpu(workers, key))
        if cores is not None:
            return max(1, int(cores))
    return 0


def threads_per_process(workers: Workers) -> int:
    """CPU threads of each training process: its share of the pod's cores; 0 lets the pod divide them."""
    cores = pod_cores(workers)
    return max(1, cores // workers.processes_per_node) if cores else 0


def _cpu(workers: Workers, key: str) -> Any:
    """CPU of the worker container; podTemplate's word counts more, as it is merged last."""
    spec = workers.pod_template.get("spec")
    containers = spec.get("containers") if isinstance(spec, dict) else None
    found = None
    for resources in (workers.resources, *_trainer_resources(containers)):
        amounts = resources.get(key)
        if isinstance(amounts, dict) and "cpu" in amounts:
            found = amounts["cpu"]
    return found


def _trainer_resources(containers: Any) -> list[dict[str, Any]]:
    return [
        entry["resources"]
        for entry in (containers if isinstance(containers, list) else [])
        if isinstance(entry, dict)
        and entry.get("name") == TRAINER_CONTAINER
        and isinstance(entry.get("resources"), dict)
    ]
