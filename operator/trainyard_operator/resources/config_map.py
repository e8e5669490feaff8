"""The ConfigMap that brings the plan into the pods."""

from trainyard_api.names import File
from trainyard_api.plan import RunPlan
from trainyard_operator.resources.facts import Object, Owner
from trainyard_operator.resources.metadata import child_labels, child_metadata
from trainyard_operator.resources.object_names import config_map_name


def build_plan_config_map(owner: Owner, plan: RunPlan) -> Object:
    """The plan of an attempt. It never changes: what changes the plan is a new attempt."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": child_metadata(
            owner, config_map_name(owner, plan.attempt), child_labels(owner, plan.attempt)
        ),
        "immutable": True,
        "data": {File.PLAN.value: plan.model_dump_json(by_alias=True, exclude_none=True, indent=2) + "\n"},
    }
