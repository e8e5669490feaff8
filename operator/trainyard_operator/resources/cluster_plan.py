"""The plan of an attempt on a cluster."""

from typing import Any

from trainyard_api.names import TRAINER_CONTAINER, PodPath
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
        plan_file=PodPath.PLAN.value,
    )


def threads_per_process(workers: Workers) -> int:
    """CPU threads of each training process: its share of the whole cores of the pod's limit, else request.

    The limit bounds what a pod may use, and more threads than that only wait for each other. A pod with
    neither may use its node's cores, which only the pod sees: 0 leaves it to divide those.
    """
    for key in ("limits", "requests"):
        cores = parse_quantity(_cpu(workers, key))
        if cores is not None:
            return max(1, int(cores) // workers.processes_per_node)
    return 0


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
