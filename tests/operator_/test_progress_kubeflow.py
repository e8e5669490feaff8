"""Stock Transformers reports to the endpoint by itself: its own callback, the variables of a pod."""

import pytest
from transformers import TrainerControl, TrainerState, TrainingArguments
from transformers.integrations import KubeflowCallback

from tests.support.progress_endpoint import RunningEndpoint
from trainyard_api.names import PodEnvironment, kubeflow_status_path
from trainyard_api.progress import ProgressReport
from trainyard_api.status import CheckpointStatus, Progress
from trainyard_operator.keys import RunKey
from trainyard_operator.progress import InvalidReportError, parse_kubeflow_update

RUN = RunKey("team", "speeches", "uid-1")
NOW = 1_800_000_000.0


@pytest.fixture
def endpoint(tmp_path, monkeypatch):
    with RunningEndpoint(tmp_path) as running:
        token = running.add_pod("pod-0", RUN, attempt=1)
        url = running.url + kubeflow_status_path("team", "speeches")
        monkeypatch.setenv(PodEnvironment.KUBEFLOW_URL, url)
        monkeypatch.setenv(PodEnvironment.KUBEFLOW_CA_FILE, str(running.ca_file))
        monkeypatch.setenv(PodEnvironment.KUBEFLOW_TOKEN_FILE, str(running.token_file(token)))
        yield running


def test_the_callback_of_transformers_reports_a_whole_training(endpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(KubeflowCallback, "_MIN_UPDATE_INTERVAL", 0.0)
    callback = KubeflowCallback()
    arguments = TrainingArguments(output_dir=str(tmp_path / "out"), use_cpu=True, report_to=[])
    state, control = TrainerState(max_steps=40, is_world_process_zero=True), TrainerControl()
    newest = lambda: endpoint.store.newest(RUN).report.progress  # noqa: E731 - read again each time

    callback.on_train_begin(arguments, state, control)
    assert (newest().percent, newest().total_steps, newest().step) == (0, 40, 0)

    state.global_step, state.epoch = 10, 0.25
    callback.on_log(arguments, state, control, logs={"loss": 2.25, "grad_norm": 0.5, "learning_rate": 1e-3})
    callback.on_log(arguments, state, control, logs={"eval_loss": 2.125, "epoch": 0.25})
    callback.on_step_end(arguments, state, control)
    progress = newest()
    assert (progress.percent, progress.step, progress.total_steps) == (25, 10, 40)
    assert (progress.loss, progress.evaluation_loss) == (2.25, 2.125)
    assert (progress.gradient_norm, progress.learning_rate) == (0.5, 1e-3)
    assert progress.eta_seconds is not None

    state.global_step = 40
    callback.on_train_end(arguments, state, control)
    assert (newest().percent, newest().eta_seconds, newest().step) == (100, 0, 10)
    assert endpoint.outcomes == [("kubeflow", "accepted")] * 3
    assert endpoint.store.newest(RUN).report.attempt == 1


def test_a_trainer_of_transformers_finds_the_callback_by_the_variables(endpoint):
    from transformers.integrations import get_available_reporting_integrations

    assert "kubeflow" in get_available_reporting_integrations()


def update(metrics):
    listed = [{"name": name, "value": value} for name, value in metrics.items()]
    return {"trainerStatus": {"metrics": listed, "lastUpdatedTime": "2026-11-25T00:00:00+00:00"}}


def parsed(body, previous=None, attempt=0):
    import json

    return parse_kubeflow_update(json.dumps(body).encode(), attempt=attempt, previous=previous, now=NOW)


@pytest.mark.parametrize(
    ("metrics", "expected"),
    [
        ({"loss": "2.5"}, {"loss": 2.5}),
        ({"train_loss": "3.0", "loss": "2.5"}, {"loss": 2.5}),
        ({"train_loss": "3.0"}, {"loss": 3.0}),
        ({"eval_loss": "1.5"}, {"evaluation_loss": 1.5}),
        ({"grad_norm": "0.5", "lr": "1e-4"}, {"gradient_norm": 0.5, "learning_rate": 1e-4}),
        ({"global_step": "7", "max_steps": "9"}, {"step": 7, "total_steps": 9}),
        ({"current_step": "8", "global_step": "7"}, {"step": 8}),
        ({"num_input_tokens_seen": "4096"}, {"tokens": 4096}),
        ({"train_tokens_per_second": "12.5"}, {"tokens_per_second": 12.5}),
        ({"loss": "nan"}, {"loss": None}),
        ({"loss": "high"}, {"loss": None}),
        ({"step": "-1"}, {"step": 0}),
        ({"current_epoch": "0.5", "my/metric": "1"}, {}),
    ],
)
def test_metrics_are_mapped_by_their_names(metrics, expected):
    progress = parsed(update(metrics)).progress
    assert {name: getattr(progress, name) for name in expected} == expected


def test_what_an_update_leaves_out_is_kept_within_an_attempt():
    progress = Progress(stage="Train", step=9, loss=2.0, percent=90.0, updated_at="2026-11-25T00:00:00Z")
    checkpoint = CheckpointStatus(step=8, uri="file:///c", committed_at="2026-11-25T00:00:00Z")
    previous = ProgressReport(attempt=0, progress=progress, checkpoint=checkpoint)
    same, later = parsed(update({}), previous), parsed(update({}), previous, attempt=1)
    assert (same.progress.step, same.progress.loss, same.checkpoint) == (9, 2.0, checkpoint)
    assert (later.progress.step, later.progress.loss, later.checkpoint) == (0, None, None)


def test_the_operators_clock_stamps_an_update():
    assert parsed(update({})).progress.updated_at == "2027-01-15T08:00:00Z"


@pytest.mark.parametrize(
    "status",
    [
        {"progressPercentage": 101},
        {"progressPercentage": -1},
        {"progressPercentage": "10"},
        {"progressPercentage": 10.5},
        {"estimatedRemainingSeconds": -1},
        {"lastUpdatedTime": "soon"},
        {"lastUpdatedTime": None},
        {"metrics": [{"name": "a" * 65, "value": "1"}]},
        {"metrics": [{"name": "a", "value": 1.0}]},
        {"metrics": [{"name": "a", "value": "1"}] * 257},
    ],
)
def test_an_update_outside_the_protocols_bounds_is_refused(status):
    body = update({})
    body["trainerStatus"].update(status)
    with pytest.raises(InvalidReportError):
        parsed(body)
