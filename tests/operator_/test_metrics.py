"""What Prometheus sees of the operator and of runs, and that it stays bounded."""

import asyncio
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from trainyard_api.generate import generated_files
from trainyard_api.metrics import (
    MAXIMUM_SERIES_PER_RUN,
    OPERATOR_METRICS,
    RUN_METRICS,
    MetricKind,
    info_labels,
    run_samples,
)
from trainyard_api.names import Metric, OperatorMetric, Phase, ProgressOutcome
from trainyard_api.progress import ProgressReport
from trainyard_api.spec import TrainingRun
from trainyard_api.status import (
    Accounting,
    Attempt,
    CheckpointStatus,
    LostSeconds,
    Progress,
    TrainingRunStatus,
)
from trainyard_api.task_metrics import NAMES
from trainyard_api.validation import load_run_file
from trainyard_operator.keys import RunKey
from trainyard_operator.metrics import OperatorMetrics
from trainyard_operator.metrics_server import MetricsServer
from trainyard_operator.progress_store import ProgressStore

ROOT = Path(__file__).parents[2]
NOW = 1_800_000_000.0  # 2027-01-15T08:00:00Z
TIME = "2027-01-15T07:59:00Z"
FULL = Progress(
    stage="Train",
    step=50,
    total_steps=100,
    tokens=1000,
    percent=50.0,
    loss=2.5,
    evaluation_loss=2.25,
    metrics={"Loss": 2.25, **dict.fromkeys(NAMES, 0.5), "made up by a pod": 1.0},
    learning_rate=1e-3,
    gradient_norm=0.5,
    tokens_per_second=100.0,
    packing_efficiency=0.99,
    eta_seconds=60,
    updated_at=TIME,
)
STATUS = TrainingRunStatus(
    phase=Phase.RUNNING,
    restarts=2,
    progress=FULL,
    checkpoint=CheckpointStatus(step=40, uri="file:///c", committed_at=TIME),
    accounting=Accounting(productive_seconds=30.0, lost_seconds=LostSeconds(queue=1.0, stall=2.0)),
)


@pytest.fixture(scope="module")
def run() -> TrainingRun:
    return load_run_file(ROOT / "manifests/samples/quickstart.yaml")


@pytest.fixture
def store():
    return ProgressStore()


@pytest.fixture
def metrics(store):
    return OperatorMetrics(store, clock=lambda: NOW)


def key(number=1):
    return RunKey("team", f"run-{number}", f"uid-{number}")


def exposition(metrics):
    from prometheus_client import generate_latest

    return generate_latest(metrics.registry).decode()


def series(metrics):
    """Value by name and sorted labels."""
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(exposition(metrics))
        for sample in family.samples
    }


def of_run(metrics, number=1):
    """Series of one run: value by name and the labels beyond namespace and name."""
    owner = {("namespace", "team"), ("name", f"run-{number}")}
    return {
        (name, *(label for label in labels if label not in owner)): value
        for (name, *labels), value in series(metrics).items()
        if owner <= set(labels)
    }


def test_a_run_shows_everything_that_its_status_tells(metrics, run):
    metrics.set_run(key(), run, STATUS)
    shown = of_run(metrics)
    info = (Metric.INFO, ("accelerator", ""), ("nodes", "2"), ("objective", "MaskedLM"))
    assert shown[info] == 1
    assert shown[Metric.PHASE, ("phase", "Running")] == 1
    assert shown[Metric.STEP,] == 50
    assert shown[Metric.LOSS,] == 2.5
    assert shown[Metric.EVALUATION_LOSS,] == 2.25
    assert shown[Metric.TASK_METRIC, ("metric", "MacroF1")] == 0.5
    assert shown[Metric.SECONDS_LEFT,] == 60
    assert shown[Metric.RESTARTS,] == 2
    assert shown[Metric.TOKENS,] == 1000
    assert shown[Metric.CHECKPOINT_AGE,] == 60
    assert shown[Metric.PROGRESS_AGE,] == 60
    assert shown[Metric.TIME, ("cause", "Productive")] == 30
    assert shown[Metric.TIME, ("cause", "Queue")] == 1
    assert shown[Metric.TIME, ("cause", "Stall")] == 2


def test_a_run_never_has_more_series_than_the_documented_bound(metrics, run):
    metrics.set_run(key(), run, STATUS)
    shown = of_run(metrics)
    assert {name for name, *_ in shown} == {definition.name.value for definition in RUN_METRICS}
    assert len(shown) <= MAXIMUM_SERIES_PER_RUN
    told = {dict(labels)["metric"] for name, *labels in shown if name == Metric.TASK_METRIC}
    assert told == NAMES - {"Loss"}


def test_a_new_run_shows_no_value_that_it_does_not_have(metrics, run):
    metrics.set_run(key(), run, TrainingRunStatus())
    assert {name for name, *_ in of_run(metrics)} == {
        Metric.INFO,
        Metric.PHASE,
        Metric.RESTARTS,
        Metric.TIME,
    }


def test_the_newest_progress_is_shown_before_the_status_has_it(metrics, store, run):
    metrics.set_run(key(), run, STATUS)
    report = ProgressReport(attempt=0, progress=FULL.model_copy(update={"step": 55}))
    store.record(key(), report, NOW - 3)
    shown = of_run(metrics)
    assert shown[Metric.STEP,] == 55
    assert shown[Metric.PROGRESS_AGE,] == 3
    assert shown[Metric.CHECKPOINT_AGE,] == 60


def test_progress_of_another_attempt_is_not_shown(metrics, store, run):
    metrics.set_run(key(), run, STATUS.model_copy(update={"attempt": 1}))
    store.record(key(), ProgressReport(attempt=0, progress=FULL.model_copy(update={"step": 99})), NOW)
    assert of_run(metrics)[Metric.STEP,] == 50


def test_a_run_that_does_not_run_has_no_progress_age(run):
    ended = STATUS.model_copy(update={"phase": Phase.SUCCEEDED})
    assert Metric.PROGRESS_AGE not in {sample.metric for sample in run_samples(info_labels(run), ended, NOW)}


@pytest.mark.parametrize(("stage", "is_shown"), [("Read", False), ("Prepare", True), ("Train", True)])
def test_the_stage_whose_pods_report_nothing_has_no_progress_age(run, stage, is_shown):
    attempt = Attempt(number=0, started_at=FULL.updated_at, stage=stage)
    status = STATUS.model_copy(update={"attempts": [attempt]})
    metrics = {sample.metric for sample in run_samples(info_labels(run), status, NOW)}
    assert (Metric.PROGRESS_AGE in metrics) == is_shown


def test_series_vanish_with_their_run(metrics, store, run):
    before = set(series(metrics))
    for number in range(3):
        metrics.set_run(key(number), run, STATUS)
    assert of_run(metrics, 1)
    for number in range(3):
        metrics.forget_run(key(number))
        store.forget(key(number))
    assert set(series(metrics)) == before
    assert "run-1" not in exposition(metrics)


def test_runs_are_counted_by_phase(metrics, run):
    for number, phase in enumerate([Phase.RUNNING, Phase.RUNNING, Phase.FAILED]):
        metrics.set_run(key(number), run, STATUS.model_copy(update={"phase": phase}))
    shown = series(metrics)
    counts = {phase: shown[OperatorMetric.RUNS, ("phase", phase.value)] for phase in Phase}
    assert counts == {**dict.fromkeys(Phase, 0), Phase.RUNNING: 2, Phase.FAILED: 1}


def test_the_operator_measures_itself(metrics):
    metrics.set_leader(is_leader=True)
    metrics.observe_reconcile("success", 0.02)
    metrics.set_queue_depth(5)
    metrics.observe_queue_wait(0.02)
    metrics.set_workers(active=2, maximum=32)
    metrics.observe_api_request("APPLY", "pods", 201, 0.02)
    metrics.observe_api_request("GET", "pods", 0, 10.0)
    metrics.observe_progress_post("trainyard", ProgressOutcome.ACCEPTED, 0.02)
    metrics.observe_token_review("authenticated")
    metrics.set_certificate_expiry(NOW + 5)
    shown = series(metrics)
    assert shown[OperatorMetric.LEADER,] == 1
    assert shown[OperatorMetric.RECONCILES, ("result", "success")] == 1
    assert shown[f"{OperatorMetric.RECONCILE_SECONDS}_count",] == 1
    assert shown[OperatorMetric.QUEUE_DEPTH,] == 5
    assert shown[OperatorMetric.ACTIVE_WORKERS,] == 2
    applied = (OperatorMetric.API_REQUESTS, ("code", "201"), ("resource", "pods"), ("verb", "APPLY"))
    silent = (OperatorMetric.API_REQUESTS, ("code", "error"), ("resource", "pods"), ("verb", "GET"))
    assert (shown[applied], shown[silent]) == (1, 1)
    post = (OperatorMetric.PROGRESS_POSTS, ("outcome", "accepted"), ("protocol", "trainyard"))
    assert shown[post] == 1
    assert shown[OperatorMetric.TOKEN_REVIEWS, ("result", "authenticated")] == 1
    assert shown[OperatorMetric.CERTIFICATE_EXPIRY,] == NOW + 5


def test_labels_of_the_operator_come_from_fixed_sets(metrics):
    for number in range(100):
        metrics.observe_api_request(f"VERB-{number}", f"resource-{number}", 200, 0.1)
        metrics.observe_reconcile(f"result-{number}", 0.1)
        metrics.watch_told(f"resource-{number}")
    shown = series(metrics)
    requests = [labels for labels in shown if labels[0] == OperatorMetric.API_REQUESTS]
    assert requests == [
        (OperatorMetric.API_REQUESTS, ("code", "200"), ("resource", "other"), ("verb", "other"))
    ]
    assert shown[OperatorMetric.RECONCILES, ("result", "other")] == 100
    assert [labels for labels in shown if labels[0] == OperatorMetric.WATCH_AGE] == [
        (OperatorMetric.WATCH_AGE, ("resource", "other"))
    ]


def test_the_age_of_a_watch_grows_until_it_tells_something(store):
    now = [NOW]
    metrics = OperatorMetrics(store, clock=lambda: now[0])
    assert metrics.oldest_watch_age() == 0
    metrics.watch_told("pods")
    now[0] += 20
    metrics.watch_told("jobs")
    now[0] += 5
    assert metrics.oldest_watch_age() == 25
    assert series(metrics)[OperatorMetric.WATCH_AGE, ("resource", "pods")] == 25
    assert series(metrics)[OperatorMetric.WATCH_AGE, ("resource", "jobs")] == 5


def test_a_certificate_that_is_not_there_has_no_end(metrics):
    assert OperatorMetric.CERTIFICATE_EXPIRY not in exposition(metrics)


def test_every_metric_of_the_table_is_served_with_its_help_and_type(metrics, run):
    metrics.set_run(key(), run, STATUS)
    metrics.watch_told("pods")
    metrics.set_certificate_expiry(NOW)
    text = exposition(metrics)
    for definition in (*RUN_METRICS, *OPERATOR_METRICS):
        assert f"# HELP {definition.name.value} {definition.help}\n" in text
        assert f"# TYPE {definition.name.value} {definition.kind.value}\n" in text


def test_the_table_follows_the_conventions_of_prometheus():
    for definition in (*RUN_METRICS, *OPERATOR_METRICS):
        name = definition.name.value
        assert name.endswith("_total") == (definition.kind is MetricKind.COUNTER), name
        assert "milli" not in name
        assert bool(definition.buckets) == (definition.kind is MetricKind.HISTOGRAM), name
    assert {definition.name for definition in RUN_METRICS} == set(Metric)
    assert {definition.name for definition in OPERATOR_METRICS} == set(OperatorMetric)


def test_the_reference_of_metrics_is_up_to_date():
    written = (ROOT / "docs/metrics.md").read_text(encoding="utf-8")
    assert written == generated_files()["docs/metrics.md"]
    assert all(f"`{metric.value}`" in written for metric in (*Metric, *OperatorMetric))


def fetched(url, headers=None):
    """Status code, content type and body."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers or {}), timeout=10) as answer:  # noqa: S310 - http on loopback
            return answer.status, answer.headers["Content-Type"], answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers["Content-Type"], error.read().decode()


def served(registry, paths, *, liveness=None, readiness=None, headers=None):
    """What the server answers on each path."""

    async def ask():
        server = MetricsServer(
            registry, liveness=liveness or {}, readiness=readiness or {}, host="127.0.0.1", port=0
        )
        await server.start()
        try:
            return [
                await asyncio.to_thread(fetched, f"http://127.0.0.1:{server.port}{path}", headers)
                for path in paths
            ]
        finally:
            await server.stop()

    return asyncio.run(ask())


def test_prometheus_scrapes_the_operator(metrics, run):
    metrics.set_run(key(), run, STATUS)
    (code, kind, text) = served(metrics.registry, ["/metrics"])[0]
    assert (code, kind.split(";")[0]) == (200, "text/plain")
    assert 'trainyard_run_step{name="run-1",namespace="team"} 50.0' in text


def test_prometheus_may_ask_for_openmetrics(metrics, run):
    metrics.set_run(key(), run, STATUS)
    accept = {"Accept": "application/openmetrics-text; version=1.0.0"}
    (code, kind, text) = served(metrics.registry, ["/metrics"], headers=accept)[0]
    assert (code, kind.split(";")[0]) == (200, "application/openmetrics-text")
    assert text.endswith("# EOF\n")


def test_a_check_that_fails_is_named(metrics):
    answers = served(
        metrics.registry,
        ["/healthz", "/readyz", "/other"],
        liveness={"watches": lambda: None},
        readiness={"watches": lambda: None, "lists": lambda: "pods are not listed yet"},
    )
    assert answers[0][::2] == (200, "ok\n")
    assert answers[1][::2] == (503, "lists: pods are not listed yet\n")
    assert answers[2][0] == 404
