"""The README's commands about runs on a cluster, as they are written, with a running operator."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.cluster.cluster import Cluster
from tests.cluster.director import Director, Place, training_goes_on
from tests.cluster.locations import REPOSITORY
from tests.cluster.operator_process import Installation, OperatorProcess
from tests.cluster.reporter import Reporter
from tests.cluster.rest import Rest
from tests.cluster.scene import Scene, opened_scene
from tests.support.readme import ON_A_CLUSTER, blocks, lines_of, run_as_written, section
from trainyard_api.names import ConditionType, Reason

pytestmark = pytest.mark.control_plane

SECTION = section(ON_A_CLUSTER)
APPLY, GET, DESCRIBE, SUSPEND, RESUME, DELETE = lines_of(blocks("sh", SECTION)[2])
SHOWN_TABLE, SHOWN_STORY = blocks("text", SECTION)
NAME = "quickstart"


@pytest.fixture
def scene(rest: Rest, director: Director, installation: Installation, tmp_path: Path) -> Iterator[Scene]:
    log = tmp_path / "operator.log"
    settings = {"progress_seconds": 1}
    with (
        OperatorProcess(installation, "readme-0", log, leader_election=False, settings=settings) as operator,
        opened_scene(rest, director, "readme", reporter=Reporter(rest, installation, operator)) as opened,
    ):
        operator.wait_until_leading()
        opened.play(training_goes_on)
        yield opened


@pytest.fixture
def environment(cluster: Cluster, scene: Scene, tmp_path: Path) -> dict[str, str]:
    """A person whose namespace is the scene's."""
    config = yaml.safe_load(cluster.kubeconfig.read_text())
    config["contexts"][0]["context"]["namespace"] = scene.namespace
    file = tmp_path / "person.kubeconfig"
    file.write_text(json.dumps(config))
    return {"KUBECONFIG": str(file)}


def test_a_run_is_followed_suspended_resumed_and_deleted_by_the_commands_of_the_readme(
    scene: Scene, environment: dict[str, str], tmp_path: Path
) -> None:
    sample = REPOSITORY / "manifests" / "samples" / "quickstart.yaml"
    (tmp_path / "my-run.yaml").write_bytes(sample.read_bytes())
    run_as_written(APPLY, tmp_path, environment)
    scene.wait_for_condition("Running", "True", "StageStarted", "Train", name=NAME)
    pod = scene.wait_for_gang(0)[Place("train", 0, 0)]
    assert scene.report(pod, step=120, checkpoint_step=100) == 200
    scene.wait_for(lambda status: status.get("progress", {}).get("step") == 120, "step 120", name=NAME)

    head, row = run_as_written(GET, tmp_path, environment).splitlines()
    assert head.split() == SHOWN_TABLE.splitlines()[0].split()
    assert row.split()[:3] == [NAME, "Running", "120"]
    scene.wait_for_events("StageStarted", "StageStarted", name=NAME)
    story = run_as_written(DESCRIBE, tmp_path, environment)
    for heading in re.findall(r"^\S.*?:", SHOWN_STORY, re.MULTILINE):
        assert re.search(rf"^\s*{heading}", story, re.MULTILINE), heading
    assert "Prepare of attempt 0 started" in story

    run_as_written(SUSPEND, tmp_path, environment)
    scene.wait_for_phase("Suspended", name=NAME)
    run_as_written(RESUME, tmp_path, environment)
    scene.wait_for_gang(1)
    uid = scene.run(NAME)["metadata"]["uid"]
    run_as_written(DELETE, tmp_path, environment)
    scene.wait_until_nothing_is_left(uid)


def test_what_the_readme_shows_of_a_run_are_words_of_the_api() -> None:
    shown = re.findall(r"^ +(?:Type|Reason|reason): +(\w+)$", SHOWN_STORY, re.MULTILINE)
    told = re.findall(r"^ +(?:Normal|Warning) +(\w+)", SHOWN_STORY, re.MULTILINE)
    assert shown
    assert told
    assert {*shown, *told} <= {*ConditionType, *Reason}
