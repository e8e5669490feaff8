"""POSTs to the endpoint of a running operator, and what its /metrics tell of them."""

import socket
import ssl
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainerControl, TrainerState, TrainingArguments
from transformers.integrations import KubeflowCallback

from tests.cluster.addresses import LOOPBACK
from tests.cluster.director import Director, End, Place, training_goes_on
from tests.cluster.locations import REPOSITORY
from tests.cluster.operator_process import Installation, OperatorProcess
from tests.cluster.reporter import Reporter, report_of, token_of
from tests.cluster.rest import Object, Rest
from tests.cluster.scene import NAME, Scene, condition_of, opened_scene
from tests.cluster.steering import STAYS_WHEN_DELETED
from trainyard_api.metrics import OPERATOR_METRICS, RUN_METRICS
from trainyard_api.names import Label, Metric, OperatorMetric, PodEnvironment, kubeflow_status_path
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


@pytest.fixture
def lingering(
    installation: Installation, operator: OperatorProcess, rest: Rest, director: Director
) -> Iterator[Scene]:
    """A run that trains in a namespace of its own, whose pods stay when they are deleted."""
    reporter = Reporter(rest, installation, operator)
    with opened_scene(rest, director, "progress-lingers", reporter=reporter) as opened:
        opened.play(training_goes_on)
        metadata = {"annotations": {STAYS_WHEN_DELETED: "true"}}
        opened.create(workers={"podTemplate": {"metadata": metadata}})
        opened.wait_for_condition("Running", "True", "StageStarted", "Train")
        yield opened
        for pod in opened.children("pods"):
            rest.delete("pods", opened.namespace, pod["metadata"]["name"], grace_seconds=0)


def pod_of(scene: Scene, run: str) -> Object:
    """The first training pod of a run."""
    labels = {Label.RUN: run, Label.STAGE: "train", Label.NODE_INDEX: "0"}
    pods = scene.children("pods")
    return next(pod for pod in pods if labels.items() <= pod["metadata"]["labels"].items())


def posts(operator: OperatorProcess, outcome: str, protocol: str = "trainyard") -> float:
    """How many POSTs had an outcome."""
    series = f'{OperatorMetric.PROGRESS_POSTS}{{outcome="{outcome}",protocol="{protocol}"}}'
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


def test_only_the_paths_of_progress_are_there(scene: Scene) -> None:
    assert scene.reporter is not None
    answer = scene.reporter.post(scene.namespace, NAME, own(scene), GOOD, path="/progress")
    assert (answer.code, answer.body["reason"]) == (404, "NotFound")


def test_a_pod_that_outlives_its_run_tells_nothing_any_more(
    operator: OperatorProcess, lingering: Scene
) -> None:
    assert lingering.reporter is not None
    token = own(lingering)
    assert lingering.report(pod_of(lingering, NAME), step=12) == 200
    lingering.delete()
    lingering.wait_until_gone()
    series = f'namespace="{lingering.namespace}"'
    operator.wait_until_untold(series)
    lingering.wait_for_pods(
        lambda pods: pods and all("deletionTimestamp" in pod["metadata"] for pod in pods.values()),
        "the garbage collector has come, and the pods stay",
    )
    answer = lingering.reporter.post(lingering.namespace, NAME, token, GOOD)
    assert (answer.code, answer.body["reason"]) == (403, "Forbidden")
    assert series not in " ".join(operator.metrics())


def test_a_pod_of_an_earlier_attempt_does_not_overwrite_what_a_later_one_told(
    operator: OperatorProcess, lingering: Scene
) -> None:
    assert lingering.reporter is not None
    token = own(lingering)
    failing = Place("train", 0, 1)
    lingering.play(lambda place: End(1) if place == failing else training_goes_on(place))
    later = lingering.wait_for_gang(1)[Place("train", 1, 0)]
    assert lingering.report(later, step=20) == 200
    before = posts(operator, "stale")
    answer = lingering.reporter.post(lingering.namespace, NAME, token, report_of(0, 99))
    assert (answer.code, answer.body["reason"]) == (409, "Conflict")
    assert posts(operator, "stale") == before + 1
    assert operator.metrics()[step_series(lingering)] == 20.0


def test_a_pod_that_posts_too_often_is_told_when_to_come_again_and_others_are_not(
    operator: OperatorProcess, lingering: Scene
) -> None:
    reporter, token = lingering.reporter, own(lingering)
    assert reporter is not None
    before = posts(operator, "rate_limited")
    with ThreadPoolExecutor(8) as threads:
        answers = list(
            threads.map(lambda _: reporter.post(lingering.namespace, NAME, token, GOOD), range(60))
        )
    codes = Counter(answer.code for answer in answers)
    assert codes.keys() == {200, 429}
    assert all(int(answer.retry_after) >= 1 for answer in answers if answer.code == 429)
    assert posts(operator, "rate_limited") == before + codes[429]
    assert lingering.report(lingering.wait_for_gang(0)[Place("train", 0, 1)], step=12) == 200


def step_series(scene: Scene) -> str:
    """The series of a run's step."""
    return f'{Metric.STEP}{{name="{NAME}",namespace="{scene.namespace}"}}'


KUBEFLOW = {
    "trainerStatus": {
        "progressPercentage": 40,
        "metrics": [{"name": "loss", "value": "2.5"}, {"name": "current_step", "value": "20"}],
        "lastUpdatedTime": "2026-11-25T00:00:00Z",
    }
}
"""An update by the protocol of Kubeflow Trainer."""


KUBEFLOW_REFUSALS: dict[str, tuple[Callable[[Scene], str], Any, int, str]] = {
    "no token": (no_token, KUBEFLOW, 401, "unauthenticated"),
    "a token of another run's pod": (of_another_runs_pod, KUBEFLOW, 403, "forbidden"),
    "a body that is too large": (own, b" " * (MAXIMUM_BODY_BYTES + 1), 413, "too_large"),
    "more than all": (own, {"trainerStatus": {"progressPercentage": 140}}, 422, "invalid"),
}


@pytest.mark.parametrize("name", KUBEFLOW_REFUSALS)
def test_the_protocol_of_kubeflow_trainer_is_guarded_alike(
    operator: OperatorProcess, scene: Scene, name: str
) -> None:
    make_token, body, code, outcome = KUBEFLOW_REFUSALS[name]
    assert scene.reporter is not None
    before = posts(operator, outcome, "kubeflow")
    path = kubeflow_status_path(scene.namespace, NAME)
    answer = scene.reporter.post(scene.namespace, NAME, make_token(scene), body, path=path)
    assert answer.code == code
    assert posts(operator, outcome, "kubeflow") == before + 1
    assert scene.run()["status"].get("progress") is None


def test_stock_transformers_reports_to_the_running_operator_by_the_variables_of_a_pod(
    operator: OperatorProcess, lingering: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reporter = lingering.reporter
    assert reporter is not None
    (tmp_path / "ca.crt").write_text(reporter.authorities(lingering.namespace))
    (tmp_path / "token").write_text(own(lingering))
    address = f"https://{reporter.server_name}:{reporter.port}"
    monkeypatch.setenv(
        PodEnvironment.KUBEFLOW_URL, f"{address}{kubeflow_status_path(lingering.namespace, NAME)}"
    )
    monkeypatch.setenv(PodEnvironment.KUBEFLOW_CA_FILE, str(tmp_path / "ca.crt"))
    monkeypatch.setenv(PodEnvironment.KUBEFLOW_TOKEN_FILE, str(tmp_path / "token"))
    resolve = socket.getaddrinfo
    monkeypatch.setattr(  # the cluster's DNS, which this process does not ask
        socket,
        "getaddrinfo",
        lambda host, *rest, **more: resolve(
            LOOPBACK if host == reporter.server_name else host, *rest, **more
        ),
    )
    monkeypatch.setattr(KubeflowCallback, "_MIN_UPDATE_INTERVAL", 0.0)
    callback = KubeflowCallback()
    arguments = TrainingArguments(output_dir=str(tmp_path / "out"), use_cpu=True, report_to=[])
    state, control = TrainerState(max_steps=40, is_world_process_zero=True), TrainerControl()
    before = posts(operator, "accepted", "kubeflow")
    callback.on_train_begin(arguments, state, control)
    state.global_step = 30
    callback.on_log(arguments, state, control, logs={"loss": 2.25})
    callback.on_step_end(arguments, state, control)
    callback.on_train_end(arguments, state, control)
    assert posts(operator, "accepted", "kubeflow") == before + 3
    status = lingering.wait_for(
        lambda status: (
            status.get("progress", {}).get("percent") == 100
            and condition_of(status, "Progressing").get("status") == "True"
        ),
        "the end of training",
    )
    progress = status["progress"]
    assert (progress["step"], progress["totalSteps"], progress["loss"]) == (30, 40, 2.25)


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
