"""Fixtures of the chart's tests."""

import pytest

from tests.cluster.build import build_programs
from tests.cluster.fixtures import give_up
from tests.cluster.go_tool import find_go
from tests.cluster.recipes import missing_programs
from tests.support.helm import Helm


@pytest.fixture(scope="session")
def helm(tmp_path_factory: pytest.TempPathFactory) -> Helm:
    """Helm without a cluster."""
    if missing_programs(["helm"]):
        if find_go() is None:
            give_up("there is no Go to build Helm with: run `make init` or install Go")
        build_programs(["helm"])
    return Helm(tmp_path_factory.mktemp("helm"))
