"""/metrics of a local run: on loopback, from the newest status, for as long as the runner works."""

import re
import socket
import urllib.error
import urllib.request

import pytest

from tests.support.runs import run_of
from trainyard_api.errors import UnavailableError
from trainyard_api.metrics import MAXIMUM_SERIES_PER_RUN, RUN_METRICS
from trainyard_api.names import Metric, Phase
from trainyard_api.status import CheckpointStatus, Progress, TrainingRunStatus
from trainyard_trainer.metrics import MetricsServer

NOW = 1_795_569_197.0
PROGRESS = Progress(
    stage="Train",
    step=7,
    total_steps=10,
    tokens=4200,
    loss=2.5,
    evaluation_loss=2.75,
    metrics={"Loss": 2.75, "Accuracy": 0.5},
    learning_rate=1e-3,
    gradient_norm=0.5,
    tokens_per_second=800.0,
    packing_efficiency=0.9,
    eta_seconds=30,
    updated_at="2026-11-25T01:13:07Z",
)
STATUS = TrainingRunStatus(
    phase=Phase.RUNNING,
    restarts=2,
    progress=PROGRESS,
    checkpoint=CheckpointStatus(step=5, uri="file:///c", committed_at="2026-11-25T01:12:57Z"),
)


def scrape(url):
    with urllib.request.urlopen(url, timeout=10) as response:  # noqa: S310 - loopback
        assert response.headers["Content-Type"].startswith("text/plain")
        return response.read().decode()


def values(text):
    """Values by metric and further labels."""
    series = re.findall(r"^(\w+)\{([^}]*)\} (\S+)$", text, re.MULTILINE)
    return {(name, labels): float(value) for name, labels, value in series}


@pytest.fixture
def run(tmp_path):
    return run_of(tmp_path / "texts.jsonl", "mine")


def test_every_documented_metric_of_a_training_run_is_served(run):
    with MetricsServer(run, 0, lambda: NOW) as server:
        assert server.url.startswith("http://127.0.0.1:")
        server.update(STATUS)
        text = scrape(server.url)
    found = values(text)
    assert {name for name, _ in found} == {definition.name.value for definition in RUN_METRICS}
    assert len(found) <= MAXIMUM_SERIES_PER_RUN
    assert all('name="mine"' in labels and 'namespace="default"' in labels for _, labels in found)
    owner = 'name="mine",namespace="default"'
    expected = {
        Metric.STEP: 7,
        Metric.TOTAL_STEPS: 10,
        Metric.TOKENS: 4200,
        Metric.LOSS: 2.5,
        Metric.EVALUATION_LOSS: 2.75,
        Metric.LEARNING_RATE: 1e-3,
        Metric.GRADIENT_NORM: 0.5,
        Metric.TOKENS_PER_SECOND: 800,
        Metric.PACKING_EFFICIENCY: 0.9,
        Metric.SECONDS_LEFT: 30,
        Metric.RESTARTS: 2,
        Metric.CHECKPOINT_AGE: 20,
    }
    assert {metric: found[metric.value, owner] for metric in expected} == expected
    assert found[Metric.PHASE.value, f'{owner},phase="Running"'] == 1
    assert [(labels, value) for (name, labels), value in found.items() if name == Metric.TASK_METRIC] == [
        ('metric="Accuracy",' + owner, 0.5)
    ]
    assert "# TYPE trainyard_run_tokens_total counter" in text
    assert "# TYPE trainyard_run_loss gauge" in text


def test_a_series_whose_value_is_gone_is_gone(run):
    with MetricsServer(run, 0, lambda: NOW) as server:
        assert values(scrape(server.url)) == {}
        server.update(STATUS)
        assert "trainyard_run_loss{" in scrape(server.url)
        starting = Progress(stage="Prepare", updated_at="2026-11-25T01:13:07Z")
        server.update(STATUS.model_copy(update={"progress": starting, "phase": Phase.RESTARTING}))
        text = scrape(server.url)
    assert "trainyard_run_loss{" not in text
    assert 'phase="Restarting"' in text
    assert 'phase="Running"' not in text


def test_a_port_in_use_is_refused_with_the_option_to_change(run):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        with pytest.raises(UnavailableError, match=rf"--metrics-port: port {port} .*Choose another, or 0"):
            MetricsServer(run, port)


def test_nothing_listens_when_the_runner_has_left(run):
    with MetricsServer(run, 0) as server:
        scrape(server.url)
    with pytest.raises(urllib.error.URLError):
        scrape(server.url)
