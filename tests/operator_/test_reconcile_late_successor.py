"""An operator that comes back after the pods of its predecessor have ended: no event will wake it."""

import asyncio
import copy

import pytest

from tests.support.operator_harness import CrashError, Operator, play

WATCH_LAG_SECONDS = 0.05


@pytest.fixture
def watches_lag(monkeypatch):
    """Watches tell of the operator's own writes after the answers to them, as they mostly do."""
    see = Operator._see

    def see_later(operator, resource, kind, stored):
        loop = asyncio.get_running_loop()
        loop.call_later(WATCH_LAG_SECONDS, see, operator, resource, kind, copy.deepcopy(stored))

    monkeypatch.setattr(Operator, "_see", see_later)


@pytest.mark.usefixtures("watches_lag")
@pytest.mark.parametrize("stage", ["p0", "t0", "e0"])
def test_pods_that_ended_while_no_operator_was_there_are_taken_into_account(stage):
    async def scenario(world):
        made = False

        def fault(call, committed):
            nonlocal made
            made = made or (call.verb == "create" and call.resource == "pods" and f"-{stage}-" in call.name)
            if made and call.verb == "patch_status" and not committed and world.starts == 1:
                # The pods are made, the status tells of nothing, and the successor takes minutes to start.
                world.cluster.latency_seconds = 60.0
                raise CrashError

        world.cluster.fault = fault
        world.create()
        while world.starts < 2:
            await world.after(1)
        await world.after(175)
        world.cluster.latency_seconds = 0.001
        await world.after(100)
        assert world.status().phase == "Succeeded"
        assert world.status().restarts == 0

    play(scenario)
