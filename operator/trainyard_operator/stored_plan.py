"""The plan of an attempt, as it was stored before its first pod: it is law for every pod of the attempt."""

from trainyard_api.names import File
from trainyard_api.plan import RunPlan
from trainyard_operator.cluster import CONFIG_MAPS, Cluster, Object
from trainyard_operator.resources import Owner, config_map_name


async def read_plan(cluster: Cluster, owner: Owner, attempt: int) -> RunPlan:
    """The stored plan of an attempt.

    Raises:
        NotFoundError: there is none.
    """
    return plan_in(await cluster.get(CONFIG_MAPS, owner.namespace, config_map_name(owner, attempt)))


def plan_in(stored: Object) -> RunPlan:
    """The plan in a ConfigMap."""
    return RunPlan.model_validate_json(stored["data"][File.PLAN.value])
