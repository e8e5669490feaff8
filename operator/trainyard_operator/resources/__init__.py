"""From a RunPlan to the objects of a cluster: pure functions that return plain dictionaries.

The objects of one call share parts; they are for reading and sending, not for changing.
"""

from trainyard_operator.resources.cluster_plan import plan_for_cluster
from trainyard_operator.resources.config_map import build_plan_config_map
from trainyard_operator.resources.facts import Object, Owner, WorkerDefaults
from trainyard_operator.resources.jobs import build_read_job
from trainyard_operator.resources.object_names import (
    config_map_name,
    job_name,
    pod_name,
    service_name,
)
from trainyard_operator.resources.pods import build_gang
from trainyard_operator.resources.service import build_service
from trainyard_operator.resources.stages import build_stage
from trainyard_operator.resources.template_problems import problems_of_templates

__all__ = [
    "Object",
    "Owner",
    "WorkerDefaults",
    "build_gang",
    "build_plan_config_map",
    "build_read_job",
    "build_service",
    "build_stage",
    "config_map_name",
    "job_name",
    "plan_for_cluster",
    "pod_name",
    "problems_of_templates",
    "service_name",
]
