"""What a cluster would say about a run: the entry point trainyard.checks, which `trainyard validate` asks."""

from collections.abc import Iterator

from trainyard_api.names import Stage
from trainyard_api.problems import Findings, Problem
from trainyard_api.spec import TrainingRun
from trainyard_operator.resources.cluster_plan import plan_for_cluster
from trainyard_operator.resources.facts import Owner, WorkerDefaults
from trainyard_operator.resources.pod_security import violations
from trainyard_operator.resources.pod_template import TEMPLATE_PATH
from trainyard_operator.resources.rendered_template import rendered_template
from trainyard_operator.resources.template_problems import template_problems

_ANY_OPERATOR = WorkerDefaults(image="", default_claim_name="", progress_url="", ca_config_map="")
"""Settings that no operator is asked for here; what podTemplate may change does not depend on them."""


def check_for_cluster(run: TrainingRun) -> Findings:
    """Check podTemplate as the operator does, and look for what a namespace with Pod Security refuses.

    Args:
        run: valid by the API.
    """
    problems = tuple(template_problems(run, _ANY_OPERATOR))
    return Findings(problems, () if problems else tuple(_security_warnings(run)))


def _security_warnings(run: TrainingRun) -> Iterator[Problem]:
    """What podTemplate makes of pods that fit `restricted` without it."""
    owner = Owner(run.metadata.name, run.metadata.namespace, uid="")
    plan = plan_for_cluster(run, owner, 0, _ANY_OPERATOR)
    broken = violations(rendered_template(owner, plan, Stage.TRAIN, (), _ANY_OPERATOR))
    if broken:
        yield Problem(
            TEMPLATE_PATH,
            f"Pod Security `restricted` does not admit such pods: {', '.join(broken)}",
            "Leave that out, or use a namespace that enforces less",
        )
