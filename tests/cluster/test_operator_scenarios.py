"""Every scenario of a run's life against a real API server, with the operator as a process of its own."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from tests.cluster.director import Director
from tests.cluster.operator_process import Installation, OperatorProcess
from tests.cluster.reporter import Reporter
from tests.cluster.rest import Rest
from tests.cluster.scenarios import deadlines, lives, shards, troubles  # noqa: F401 - they register scenarios
from tests.cluster.scenarios.registry import SCENARIOS, Scenario
from tests.cluster.scene import opened_scene

pytestmark = pytest.mark.control_plane

AT_ONCE = 16
SECONDS = 400.0


@pytest.fixture(scope="module")
def operator(
    installation: Installation, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[OperatorProcess]:
    log = tmp_path_factory.mktemp("scenarios") / "operator.log"
    with OperatorProcess(installation, "scenarios-0", log) as running:
        running.wait_until_leading()
        yield running
        assert running.is_running
        assert running.stop() == 0
        assert "Traceback" not in running.log


@pytest.fixture(scope="module")
def played(
    request: pytest.FixtureRequest,
    installation: Installation,
    operator: OperatorProcess,
    rest: Rest,
    director: Director,
) -> Iterator[dict[str, Future[None]]]:
    """What becomes of the chosen scenarios, which are played at the same time."""

    def play(name: str, scenario: Scenario) -> None:
        with opened_scene(
            rest,
            director,
            name.replace("_", "-"),
            reporter=Reporter(rest, installation, operator),
            claim=scenario.claim,
            labels=scenario.labels,
        ) as scene:
            scenario.play(scene)

    chosen = [
        item.callspec.params["name"]
        for item in request.session.items
        if isinstance(item, pytest.Function) and item.module is request.module
    ]
    # Those that take longest first: they wait for others to notice.
    chosen.sort(key=lambda name: "lost_node" not in name)
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="scenario") as threads:
        yield {name: threads.submit(play, name, SCENARIOS[name]) for name in chosen}


@pytest.mark.parametrize("name", SCENARIOS)
def test_scenario(played: dict[str, Future[None]], name: str) -> None:
    played[name].result(SECONDS)
