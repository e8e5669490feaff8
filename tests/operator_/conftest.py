import pytest

from tests.support.rendered import shards, with_prepare_nodes
from trainyard_operator.resources import plan_for_cluster


@pytest.fixture
def two_shards(monkeypatch):
    """Data is prepared by two nodes, and so by a Job; plans of today take one."""

    def plan(*arguments):
        planned = plan_for_cluster(*arguments)
        return with_prepare_nodes(planned, shards(planned, 2))

    monkeypatch.setattr("trainyard_operator.act.plan_for_cluster", plan)
