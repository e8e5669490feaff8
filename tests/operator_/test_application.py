"""The operator as a whole: what ends it."""

import asyncio

import pytest

from tests.support.fake_cluster import FakeCluster
from trainyard_operator.application import Application
from trainyard_operator.metrics import OperatorMetrics
from trainyard_operator.progress_store import ProgressStore
from trainyard_operator.settings import Settings


class Lanes(FakeCluster):
    """A cluster with the views that an application asks for."""

    def fenced(self, may_write):
        return self

    def urgent(self):
        return self


@pytest.mark.parametrize("leader_election", [True, False], ids=["lease", "alone"])
def test_a_leader_that_cannot_take_over_ends_instead_of_keeping_its_lease(leader_election):
    async def scenario():
        settings = Settings(leader_election=leader_election, metrics_port=0)
        progress = ProgressStore()
        cluster = Lanes(clock=lambda: 1_800_000_000.0)
        application = Application(settings, cluster, progress, OperatorMetrics(progress), lambda: None)
        looks = []

        async def look(cluster, namespaces):
            looks.append(namespaces)
            if len(looks) == 2:
                raise ValueError("an object that nobody expected")

        async def nothing():
            await asyncio.Event().wait()

        application.intake.resync_until_done = look
        application.watches.run = nothing
        with pytest.raises(ExceptionGroup, match="unhandled errors") as raised:
            async with asyncio.timeout(20):
                await application.run(asyncio.Event())
        assert raised.group_contains(ValueError, match="nobody expected")
        assert not application.leadership.is_leading() or not leader_election

    asyncio.run(scenario())
