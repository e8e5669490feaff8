"""A Job whose pods are refused: its controller tells nobody, so the operator asks the API server itself."""

import pytest

from tests.support.operator_harness import play, sharded_document
from trainyard_operator.cluster import PODS
from trainyard_operator.errors import ForbiddenError, InvalidError


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ForbiddenError('pods "x" is forbidden: exceeded quota: team, requested: pods=1'), "QuotaExceeded"),
        (ForbiddenError('pods "x" is forbidden: violates PodSecurity "restricted"'), "AdmissionRefused"),
        (InvalidError('admission webhook "policy.test" denied the request: no'), "AdmissionRefused"),
    ],
)
def test_why_a_job_makes_no_pods_is_told_within_seconds_until_it_makes_them(error, reason):
    async def scenario(world):
        def fault(call, committed):
            if world.nodes.refuse and (call.verb, call.resource) == ("create", "pods"):
                raise error

        world.cluster.fault = fault
        world.nodes.refuse = reason
        world.create(sharded_document())
        await world.after(6)
        assert world.condition("Admitted") == ("False", reason, error.message)
        assert world.status().phase == "Pending"
        await world.after(60)
        assert world.condition("Admitted") == ("False", reason, error.message)
        world.nodes.refuse = ""
        await world.after(400)
        assert world.status().phase == "Succeeded"
        assert world.condition("Admitted")[0] == "True"

    play(scenario)


def test_asking_makes_no_pod_and_is_done_now_and_then_only():
    async def scenario(world):
        world.nodes.refuse = "the controller is away"
        world.create(sharded_document())
        await world.after(120)
        asked = [call for call in world.cluster.calls if (call.verb, call.resource) == ("create", "pods")]
        assert 1 <= len(asked) <= 10
        assert world.cluster.objects(PODS) == []
        assert world.condition("Admitted")[0] == "True"
        assert world.condition("Running")[:2] == ("False", "PodsPending")

    play(scenario)
