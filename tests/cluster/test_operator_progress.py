"""POSTs to the endpoint of a running operator, and what its /metrics tell of them."""

import ssl
from collections.abc import Iterator

import pytest

from tests.cluster.director import Director, training_goes_on
from tests.cluster.locations import REPOSITORY
from tests.cluster.operator_process import Installation, OperatorProcess
from tests.cluster.reporter import Reporter, report_of, token_of
from tests.cluster.rest import Object, Rest
from tests.cluster.scene import NAME, Scene, opened_scene
from trainyard_api.metrics import OPERATOR_METRICS, RUN_METRICS
from trainyard_api.names import Label, Metric, OperatorMetric
from trainyard_operator.progress_server import MAXIMUM_BODY_BYTES

pytestmark = pytest.mark.control_plane

OTHER = "other"
METRICS_PAGE = REPOSITORY / "docs" / "metrics.md"
OF_THE_PROCESS = ("process_",)
"""What the client library tells of every process."""


@pytest.fixture(scope="module")
def operator(
    installation: Installation, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[OperatorProcess]:
    log = tmp_path_factory.mktemp("progress") / "operator.log"
    with OperatorProcess(
        installation, "progress-0", log, leader_election=False, settings={"progress_seconds": 1}
    ) as running:
        yield running.wait_until_leading()
        assert running.stop() == 0


@pytest.fixture(scope="module")
def scene(
    installation: Installation, operator: OperatorProcess, rest: Rest, director: Director
) -> Iterator[Scene]:
    """Two runs that train."""
    with opened_scene(rest, director, "progress", reporter=Reporter(rest, installation, operator)) as opened:
        opened.play(training_goes_on)
        for name in (NAME, OTHER):
            opened.create(name=name)
        for name in (NAME, OTHER):
            opened.wait_for_condition("Running", "True", "StageStarted", "Train", name=name)
        yield opened


def pod_of(scene: Scene, run: str) -> Object:
    """The first training pod of a run."""
    labels = {Label.RUN: run, Label.STAGE: "train", Label.NODE_INDEX: "0"}
    pods = scene.children("pods")
    return next(pod for pod in pods if labels.items() <= pod["metadata"]["labels"].items())


def posts(operator: OperatorProcess, outcome: str) -> float:
    """How many POSTs had an outcome."""
    series = f'{OperatorMetric.PROGRESS_POSTS}{{outcome="{outcome}",protocol="trainyard"}}'
    return operator.metrics().get(series, 0.0)


def no_token(scene: Scene) -> str:
    return ""


def garbage(scene: Scene) -> str:
    return "no.token.atall"


def own(scene: Scene) -> str:
    return token_of(scene.rest, scene.namespace, pod_of(scene, NAME))


def for_another_audience(scene: Scene) -> str:
    return token_of(
        scene.rest, scene.namespace, pod_of(scene, NAME), audience="https://kubernetes.default.svc"
    )


def of_another_runs_pod(scene: Scene) -> str:
    return token_of(scene.rest, scene.namespace, pod_of(scene, OTHER))


def of_no_pod(scene: Scene) -> str:
    return token_of(scene.rest, scene.namespace)


def of_a_foreign_pod(scene: Scene) -> str:
    """A pod that only pretends to be the run's: the labels are right, the owner is missing."""
    like = pod_of(scene, NAME)
    labels = {**like["metadata"]["labels"], Label.NODE_INDEX: "7"}
    container = {"name": "trainer", "image": "registry.example/none:1"}
    pretender = scene.rest.create(
        "pods",
        scene.namespace,
        {
            "metadata": {"generateName": "pretender-", "labels": labels},
            "spec": {"containers": [container]},
        },
    )
    return token_of(scene.rest, scene.namespace, pretender)


GOOD = report_of(0, 99)
REFUSALS = {
    "no token": (no_token, GOOD, 401, "unauthenticated"),
    "garbage as a token": (garbage, GOOD, 401, "unauthenticated"),
    "a token for another audience": (for_another_audience, GOOD, 401, "unauthenticated"),
    "a token of another run's pod": (of_another_runs_pod, GOOD, 403, "forbidden"),
    "a token of no pod": (of_no_pod, GOOD, 403, "forbidden"),
    "a token of a pod with stolen labels": (of_a_foreign_pod, GOOD, 403, "forbidden"),
    "a body that is too large": (own, b" " * (MAXIMUM_BODY_BYTES + 1), 413, "too_large"),
    "a body that is no JSON": (own, b"{", 422, "invalid"),
    "a report of another attempt": (own, report_of(7, 99), 422, "invalid"),
    "a report of a negative step": (own, report_of(0, -1), 422, "invalid"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_a_bad_post_is_refused_and_counted_and_changes_nothing(
    operator: OperatorProcess, scene: Scene, name: str
) -> None:
    make_token, body, code, outcome = REFUSALS[name]
    before, run = posts(operator, outcome), scene.run()
    assert scene.reporter is not None
    answer = scene.reporter.post(scene.namespace, NAME, make_token(scene), body)
    assert (answer.code, answer.body["code"], answer.body["status"]) == (code, code, "Failure")
    assert posts(operator, outcome) == before + 1
    assert scene.run()["status"].get("progress") == run["status"].get("progress")
    assert f'{Metric.STEP}{{name="{NAME}",namespace="{scene.namespace}"}}' not in operator.metrics()


def test_the_endpoint_proves_itself_to_pods_and_to_nobody_who_trusts_others(scene: Scene) -> None:
    assert scene.reporter is not None
    with pytest.raises(ssl.SSLCertVerificationError):
        scene.reporter.post(scene.namespace, NAME, own(scene), GOOD, trust=ssl.create_default_context())


def test_a_good_post_is_in_the_metrics_at_once_and_in_the_status_soon_and_both_end_with_the_run(
    operator: OperatorProcess, scene: Scene
) -> None:
    run = scene.create(name="reported")
    scene.wait_for_condition("Running", "True", "StageStarted", "Train", name="reported")
    pod = pod_of(scene, "reported")
    assert scene.report(pod, step=12, checkpoint_step=10) == 200
    series = f'{Metric.STEP}{{name="reported",namespace="{scene.namespace}"}}'
    assert operator.metrics()[series] == 12.0
    status = scene.wait_for(
        lambda status: status.get("progress", {}).get("step") == 12, "step 12", name="reported"
    )
    assert status["checkpoint"]["step"] == 10
    # The report is about the run of the pod alone.
    assert scene.status(OTHER).get("progress") is None
    scene.delete("reported")
    scene.wait_until_nothing_is_left(run["metadata"]["uid"])
    operator.wait_until_untold('name="reported"')


def test_only_documented_metrics_are_told(operator: OperatorProcess, scene: Scene) -> None:
    documented = {str(definition.name) for definition in (*OPERATOR_METRICS, *RUN_METRICS)}
    told = {series.partition("{")[0] for series in operator.metrics()}
    suffixes = ("_bucket", "_count", "_sum", "_created")
    for name in told:
        stems = {name.removesuffix(suffix) for suffix in ("", *suffixes)}
        # A counter is documented with its suffix, which the time of its creation does not have.
        stems.add(f"{name.removesuffix('_created')}_total")
        assert stems & documented or name.startswith(OF_THE_PROCESS), name
    assert all(name in METRICS_PAGE.read_text() for name in documented)
