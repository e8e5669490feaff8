"""The stages as pods run them: progress arrives, the container has the log, the end is explained."""

import json
import os
import subprocess
import sys

import pytest

from tests.support.progress_endpoint import RunningEndpoint
from tests.support.runs import run_of
from trainyard_api.names import ExitCode, PodEnvironment, Reason, Stage, progress_path
from trainyard_api.plan import Rendezvous, plan_run
from trainyard_api.progress import ExitRecord
from trainyard_api.status import ModelStatus
from trainyard_operator.keys import RunKey
from trainyard_trainer.processes import free_port

STEPS = 6
RUN = RunKey("default", "test", "uid-1")


@pytest.fixture(scope="module")
def source(tmp_path_factory, sotu_paragraphs):
    """A few hundred real passages."""
    import gzip

    file = tmp_path_factory.mktemp("source") / "passages.jsonl"
    with gzip.open(sotu_paragraphs, "rt", encoding="utf-8") as passages:
        file.write_text("".join(line for line, _ in zip(passages, range(400), strict=False)))
    return file


@pytest.fixture
def plan_file(tmp_path, source):
    run = run_of(source, training__budget={"steps": STEPS})
    plan = plan_run(
        run,
        storage_root=str(tmp_path / "storage"),
        rendezvous=Rendezvous(address="127.0.0.1", port=free_port()),
        python=sys.executable,
        threads_per_process=1,
    )
    file = tmp_path / "plan.json"
    file.write_text(plan.model_dump_json(by_alias=True))
    return file, plan


@pytest.fixture
def endpoint(tmp_path):
    with RunningEndpoint(tmp_path) as running:
        yield running


def run_stage(endpoint, plan_file, stage, message_file):
    """Run a stage as its pod does; exit code and the container's log."""
    file, plan = plan_file
    node = plan.stage(stage).nodes[0]
    pod = f"pod-{stage.lower()}"
    token_file = endpoint.folder / f"token-{pod}"
    token_file.write_text(endpoint.add_pod(pod, RUN))
    message_file.write_text("")
    verb = node.argv[node.argv.index("--plan") - 1]
    done = subprocess.run(
        [sys.executable, "-m", "trainyard_trainer", verb, "--plan", str(file)],
        env={
            **os.environ,
            **node.env,
            PodEnvironment.POD_NAME: pod,
            PodEnvironment.TERMINATION_LOG: str(message_file),
            PodEnvironment.PROGRESS_URL: endpoint.url + progress_path("default", "test"),
            PodEnvironment.PROGRESS_TOKEN_FILE: str(token_file),
            PodEnvironment.PROGRESS_CA_FILE: str(endpoint.ca_file),
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )
    return done.returncode, done.stdout


@pytest.mark.slow
def test_a_run_reports_from_its_pods_from_the_first_stage_to_the_last(endpoint, plan_file, tmp_path):
    message = tmp_path / "termination-log"

    code, log = run_stage(endpoint, plan_file, Stage.TRAIN, message)
    left = ExitRecord.model_validate_json(message.read_bytes())
    assert code == left.exit_code == ExitCode.INVALID_DATA, log
    assert (left.rank, left.reason) == (0, Reason.INVALID_DATA)
    assert left.message
    assert left.log_tail.rstrip().endswith("Run the Prepare stage first")
    assert "[rank 0] Traceback" in log

    code, log = run_stage(endpoint, plan_file, Stage.PREPARE, message)
    assert (code, message.read_text()) == (ExitCode.SUCCEEDED, ""), log
    prepared = endpoint.store.newest(RUN).report
    assert prepared.progress.stage == Stage.PREPARE

    code, log = run_stage(endpoint, plan_file, Stage.TRAIN, message)
    assert (code, message.read_text()) == (ExitCode.SUCCEEDED, ""), log
    trained = endpoint.store.newest(RUN).report
    assert (trained.progress.stage, trained.progress.step) == (Stage.TRAIN, STEPS)
    assert (trained.progress.percent, trained.checkpoint.step) == (100, STEPS)
    assert trained.progress.loss > 0

    code, log = run_stage(endpoint, plan_file, Stage.EXPORT, message)
    assert code == ExitCode.SUCCEEDED, log
    assert ModelStatus.model_validate_json(message.read_bytes()).parameters > 1000
    exported = endpoint.store.newest(RUN).report
    assert (exported.progress.stage, exported.progress.percent) == (Stage.EXPORT, 100)
    assert (exported.progress.step, exported.progress.loss) == (STEPS, trained.progress.loss)
    assert {outcome for _, outcome in endpoint.outcomes} == {"accepted"}


@pytest.mark.slow
def test_preparation_that_fails_explains_itself(endpoint, plan_file, tmp_path):
    file, _ = plan_file
    document = json.loads(file.read_text())
    document["spec"]["data"]["sources"][0]["uri"] = "file:///nowhere/*.jsonl"
    file.write_text(json.dumps(document))
    message = tmp_path / "termination-log"
    code, log = run_stage(endpoint, plan_file, Stage.PREPARE, message)
    left = ExitRecord.model_validate_json(message.read_bytes())
    assert code == left.exit_code == ExitCode.INVALID_DATA
    assert "spec.data.sources[0].uri" in left.message
    assert left.message in log


@pytest.mark.slow
def test_a_shard_that_fails_explains_itself_in_a_pod(endpoint, plan_file, tmp_path):
    file, _ = plan_file
    document = json.loads(file.read_text())
    document["spec"]["data"]["preparation"]["shards"] = 2
    document["spec"]["data"]["sources"][0]["uri"] = "file:///nowhere/*.jsonl"
    file.write_text(json.dumps(document))
    message = tmp_path / "termination-log"
    run = run_of(tmp_path, data__preparation={"shards": 2})
    plan = plan_run(run, storage_root=str(tmp_path / "storage"), rendezvous=Rendezvous(address="127.0.0.1"))
    code, log = run_stage(endpoint, (file, plan), Stage.READ, message)
    left = ExitRecord.model_validate_json(message.read_bytes())
    assert code == left.exit_code == ExitCode.INVALID_DATA
    assert "spec.data.sources[0].uri" in left.message
    assert left.message in log
    assert set(endpoint.outcomes) <= {("trainyard", "accepted")}


@pytest.mark.slow
def test_a_warm_up_longer_than_the_data_allows_ends_the_preparation(endpoint, plan_file, tmp_path):
    """Before the training gang holds accelerators, and with the number of steps that only the data tells."""
    file, _ = plan_file
    document = json.loads(file.read_text())
    document["spec"]["training"]["budget"] = {"epochs": 1.0}
    document["spec"]["training"]["schedule"] = {"name": "Linear", "warmupSteps": 100_000}
    file.write_text(json.dumps(document))
    message = tmp_path / "termination-log"
    code, _ = run_stage(endpoint, plan_file, Stage.PREPARE, message)
    left = ExitRecord.model_validate_json(message.read_bytes())
    assert (code, left.reason) == (ExitCode.INVALID_CONFIGURATION, Reason.INVALID_CONFIGURATION)
    assert "spec.training.schedule.warmupSteps: " in left.message
    assert "100000 steps, and on this data the budget gives" in left.message
