"""What the processes of the stages say: how far they are, and why they leave, also on a full disk."""

import errno
import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.support.local_runs import COMMAND
from tests.support.preparation import make_plan
from trainyard_api.errors import (
    ConfigurationError,
    DataError,
    DivergedError,
    StorageFullError,
    TrainyardError,
    TransientError,
)
from trainyard_api.names import FIRST_SHARD, ExitCode, PodEnvironment, Reason, Stage
from trainyard_api.progress import ExitRecord
from trainyard_api.status import ModelStatus, Progress, TrainingRunStatus
from trainyard_trainer import exit_records
from trainyard_trainer.exit_records import (
    exit_record_path,
    read_exit_record,
    read_exit_records,
    stage_exit_record_path,
    write_exit_record,
)
from trainyard_trainer.progress import read_progress
from trainyard_trainer.rank import translate
from trainyard_trainer.run_summary import summary_lines
from trainyard_trainer.single_stages import (
    PrepareReporter,
    StepPrinter,
    amount,
    recorded,
    shard_of,
    shard_report,
)

TIME = "2026-11-25T01:13:17Z"


@pytest.mark.parametrize(
    ("number", "unit", "text"),
    [
        (0, "bytes", "0.0 MB"),
        (12_549_999, "bytes", "12.5 MB"),
        (1234, "documents", "1,234 documents"),
        (2_876_056, "tokens", "2,876,056 tokens"),
    ],
)
def test_amounts_are_told_in_units_people_read(number, unit, text):
    assert amount(number, unit) == text


def test_the_preparation_tells_step_part_rate_and_time_left(tmp_path, monkeypatch):
    now = 1000.0
    monkeypatch.setattr("trainyard_trainer.single_stages.time.time", lambda: now)
    told = []
    report = PrepareReporter(tmp_path, 3, told.append)
    report("tokenize", 0, 50_000_000, "bytes")
    progress = read_progress(tmp_path).progress
    assert (progress.detail, progress.percent, progress.eta_seconds) == (
        "tokenize: 0.0 MB of 50.0 MB",
        0.0,
        None,
    )
    now = 1010.0
    report("tokenize", 20_000_000, 50_000_000, "bytes")
    newest = read_progress(tmp_path)
    assert (newest.attempt, newest.progress.stage) == (3, "Prepare")
    assert newest.progress.detail == "tokenize: 20.0 MB of 50.0 MB, 2.0 MB/s"
    assert (newest.progress.percent, newest.progress.eta_seconds) == (40.0, 15)
    report("pack", 0, None, "tokens")
    assert read_progress(tmp_path).progress.detail == "pack: 0 tokens"
    assert told[-1] == read_progress(tmp_path)


FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/runs/x/history.jsonl")


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (DataError("spec.data", "no text", "Add some"), DataError, "spec.data: no text. Add some"),
        (DivergedError("spec.training", "nan", "Lower it"), DivergedError, "spec.training: nan. Lower it"),
        (FULL, StorageFullError, "/runs/x/history.jsonl: no space is left"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), StorageFullError, "the run folder: no space is left"),
        (
            RuntimeError("[gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:4242"),
            TransientError,
            "another process was lost",
        ),
        (RuntimeError("Timed out waiting 600000ms for recv operation"), TransientError, "was lost"),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), TrainyardError, "RuntimeError: mat1"),
        (OSError(errno.EIO, "Input/output error"), TrainyardError, "OSError: "),
        (KeyError("loss"), TrainyardError, "please report it"),
    ],
)
def test_every_error_of_a_rank_has_one_of_ours(error, kind, text):
    known = translate(error)
    assert type(known) is kind
    assert text in str(known)


@pytest.mark.parametrize(
    ("error", "exit_code", "reason"),
    [
        (DataError("spec.data", "no text", "Add some"), ExitCode.INVALID_DATA, Reason.INVALID_DATA),
        (FULL, ExitCode.STORAGE_FULL, Reason.STORAGE_FULL),
        (KeyError("loss"), ExitCode.INTERNAL_ERROR, Reason.PROCESS_FAILED),
    ],
)
def test_a_stage_that_fails_leaves_a_record_and_raises_what_was_raised(error, exit_code, reason, tmp_path):
    with pytest.raises(type(error)) as caught, recorded(tmp_path / "logs", Stage.PREPARE):
        raise error
    assert caught.value is error
    record = read_exit_record(stage_exit_record_path(tmp_path / "logs", Stage.PREPARE))
    assert (record.exit_code, record.reason) == (exit_code, reason)
    assert record.message == str(translate(error))


def test_a_stage_that_succeeds_leaves_no_record(tmp_path):
    with recorded(tmp_path, Stage.EXPORT):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("text", "shard"), [("0", 0), ("3", 3)])
def test_a_process_reads_the_shard_that_its_environment_names(text, shard, tmp_path):
    assert shard_of(sharded_plan(tmp_path, 4), {"JOB_COMPLETION_INDEX": text}) == shard


@pytest.mark.parametrize(
    "environment", [{}, *({"JOB_COMPLETION_INDEX": text} for text in ("", "-1", "4", "x"))]
)
def test_a_process_without_a_shard_is_refused_with_those_that_there_are(environment, tmp_path):
    with pytest.raises(ConfigurationError, match="from 0 to 3") as refused:
        shard_of(sharded_plan(tmp_path, 4), environment)
    assert refused.value.exit_code == ExitCode.INVALID_CONFIGURATION


def sharded_plan(folder, num_shards):
    return make_plan(folder, data__preparation={"shards": num_shards})


def test_a_shard_in_a_pod_tells_in_its_log_what_it_does_and_now_and_then_how_far_it_is():
    now, written = 0.0, []
    printer = StepPrinter(written.append, lambda: now)
    printer("extract texts", 0, 50_000_000, "bytes")
    now = 9.0
    printer("extract texts", 20_000_000, 50_000_000, "bytes")
    now = 10.0
    printer("extract texts", 25_000_000, 50_000_000, "bytes")
    printer("extract more", 0, None, "bytes")
    assert written == [
        "extract texts: 0.0 MB of 50.0 MB\n",
        "extract texts: 25.0 MB of 50.0 MB\n",
        "extract more: 0.0 MB\n",
    ]


def test_of_the_shards_in_pods_the_first_one_alone_reports_in_words_that_the_operator_knows(tmp_path, capsys):
    plan = sharded_plan(tmp_path, 4)
    for shard in (1, 0):
        shard_report(plan, shard, {PodEnvironment.POD_NAME: "pod"})("extract texts", 0, 50_000_000, "bytes")
        reported = read_progress(Path(plan.paths.run_folder))
        assert (reported is not None) == (shard == 0)
    assert reported.progress.stage == Stage.READ
    assert reported.progress.detail.startswith(f"{FIRST_SHARD}4, extract texts: 0.0 MB of 50.0 MB")
    assert capsys.readouterr().out.splitlines() == ["extract texts: 0.0 MB of 50.0 MB"] * 2


def test_a_shard_leaves_a_record_of_its_own(tmp_path):
    for shard in (0, 2):
        with pytest.raises(DataError), recorded(tmp_path, Stage.READ, shard):
            raise DataError("spec.data", f"no text in {shard}", "Add some")
    records = [read_exit_record(stage_exit_record_path(tmp_path, Stage.READ, shard)) for shard in range(3)]
    assert records[1] is None
    assert [(records[shard].rank, records[shard].message) for shard in (0, 2)] == [
        (0, "spec.data: no text in 0. Add some"),
        (2, "spec.data: no text in 2. Add some"),
    ]


def record(rank):
    return ExitRecord(rank=rank, exit_code=75, reason="ProcessFailed", message="lost", time=TIME)


def test_records_are_found_by_rank_and_those_of_stages_are_not_among_them(tmp_path):
    for rank in (0, 3, 11):
        write_exit_record(exit_record_path(tmp_path, rank), record(rank))
    write_exit_record(stage_exit_record_path(tmp_path, Stage.PREPARE), record(0))
    assert read_exit_records(tmp_path) == {rank: record(rank) for rank in (0, 3, 11)}
    assert read_exit_record(exit_record_path(tmp_path, 4)) is None


def test_a_record_that_cannot_be_stored_is_printed_and_changes_no_exit_code(tmp_path, monkeypatch, capsys):
    def refuse(path, model):
        raise FULL

    monkeypatch.setattr(exit_records, "write_json_atomically", refuse)
    path = exit_record_path(tmp_path, 0)
    write_exit_record(path, record(0))
    assert re.fullmatch(rf"{path} could not be written: .*No space left.*\n", capsys.readouterr().err)


@pytest.mark.parametrize("unbuffered", ["", "1"], ids=["buffered", "unbuffered"])
def test_an_error_that_cannot_be_printed_keeps_its_exit_code(tmp_path, unbuffered):
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        command = [*COMMAND, "validate", str(tmp_path / "missing.yaml")]
        done = subprocess.run(command, stdout=full, stderr=full, env=environment, check=False, timeout=60)
    assert done.returncode == ExitCode.INVALID_CONFIGURATION


def test_the_summary_compares_the_loss_with_what_needs_no_context(tmp_path):
    (tmp_path / "data.json").write_text('{"unigramEntropy": 6.5, "frequencyLoss": 5.92}')
    status = TrainingRunStatus(
        phase="Succeeded",
        progress=Progress(stage="Train", step=1200, tokens=5_000_000, evaluation_loss=3.0, updated_at=TIME),
        model=ModelStatus(uri="file:///m", parameters=743_552),
    )
    assert summary_lines(status, tmp_path, None) == [
        f"Succeeded: {tmp_path}",
        "steps 1,200, tokens 5,000,000",
        (
            "evaluation loss 3.0000 nats (perplexity 20.1); token frequencies alone give 5.9200 at best, "
            "and the corpus's unigram entropy is 6.5000"
        ),
        "model (743,552 parameters): file:///m",
    ]


def test_the_summary_of_a_task_tells_its_metrics_and_those_of_the_exported_model(tmp_path):
    last, best = {"Loss": 0.25, "Accuracy": 0.9}, {"Loss": 0.2, "Accuracy": 0.93}
    status = TrainingRunStatus(
        phase="Succeeded",
        progress=Progress(
            stage="Train", step=30, tokens=900, evaluation_loss=0.25, metrics=last, updated_at=TIME
        ),
        model=ModelStatus(uri="file:///m", parameters=743_552, metrics=best),
    )
    assert summary_lines(status, tmp_path, None) == [
        f"Succeeded: {tmp_path}",
        "steps 30, tokens 900",
        "last evaluation: Loss 0.2500, Accuracy 0.9000",
        "model (743,552 parameters): file:///m",
        "its evaluation: Loss 0.2000, Accuracy 0.9300",
    ]
