"""A disk that is full for real: its own exit code, what was committed stays, and nothing is half-written."""

import signal

import pytest

from tests.support.local_runs import (
    checkpoints_of,
    losses,
    started,
    status_of,
    trainyard,
    write_excerpt,
    write_run,
)
from tests.support.small_disk import small_disk
from trainyard_api.names import ExitCode, Reason
from trainyard_trainer.checkpoint import committed_checkpoints, damage

pytestmark = pytest.mark.slow

MEBIBYTE = 2**20


def half_written(storage):
    """Temporary files and folders of any kind."""
    return [
        path for path in storage.rglob(".*") if path.name.startswith(".temporary-") or path.suffix == ".tmp"
    ]


def test_a_disk_that_is_full_before_the_start_is_told_and_takes_nothing(tmp_path):
    file = write_run(tmp_path, tmp_path / "texts.jsonl", "start")
    with small_disk(tmp_path / "disk", 64 * 1024) as disk:
        (disk.path / "start").mkdir()
        with pytest.raises(OSError, match="No space left"):
            (disk.path / "filler").write_bytes(b"x" * MEBIBYTE)
        done = trainyard("run", str(file), "--output", str(disk.path))
        assert done.code == ExitCode.STORAGE_FULL, done.output
        assert f"{disk.path}/start/run.lock: no space is left. Free space and run again" in done.output
        assert "Traceback" not in done.output
        assert [path.name for path in (disk.path / "start").iterdir()] == ["run.lock"]


def test_a_disk_that_fills_while_data_is_prepared_fails_the_run_and_is_cleared(sotu_addresses, tmp_path):
    file = write_run(tmp_path, sotu_addresses, "prepare")
    with small_disk(tmp_path / "disk", 2 * MEBIBYTE) as disk:
        done = trainyard("run", str(file), "--output", str(disk.path))
        assert done.code == ExitCode.STORAGE_FULL, done.output
        status = status_of(disk.path / "prepare")
        assert (status.phase, status.restarts) == ("Failed", 0)
        failure = status.attempts[0].failure
        assert (failure.reason, failure.exit_code) == (Reason.STORAGE_FULL, ExitCode.STORAGE_FULL)
        assert "no space is left" in failure.message
        assert failure.message in done.output
        assert half_written(disk.path) == []
        assert not (disk.path / "prepare" / "data.json").exists()


def test_a_disk_that_fills_at_a_checkpoint_keeps_the_older_ones_and_the_run_goes_on_later(
    sotu_paragraphs, tmp_path
):
    source = write_excerpt(sotu_paragraphs, tmp_path / "paragraphs.jsonl", 800)
    file = write_run(
        tmp_path,
        source,
        "checkpoint",
        tokenizer__train={"algorithm": "WordPiece", "vocabularySize": 1024},
        training__budget={"steps": 30},
        checkpoint={"everySteps": 5, "keep": 3},
        workers={"nodes": 1, "processesPerNode": 2},
    )
    with small_disk(tmp_path / "disk", 512 * MEBIBYTE) as disk:
        with started(file, disk.path) as run:
            run.wait_for(lambda: checkpoints_of(run.folder) != [], "the first checkpoint")
            ranks = run.ranks().values()
            for rank in ranks:
                rank.send_signal(signal.SIGSTOP)
            kept = checkpoints_of(run.folder)
            files = sorted((run.folder / "checkpoints" / f"step-{kept[-1]:08d}").glob("rank-*"))
            # Every rank finds room for its own file; for both there is none.
            disk.resize(disk.used_bytes + round(1.5 * files[0].stat().st_size))
            for rank in ranks:
                rank.send_signal(signal.SIGCONT)
            finished = run.wait()
        assert finished.code == ExitCode.STORAGE_FULL, finished.output
        status = status_of(run.folder)
        assert (status.phase, status.restarts) == ("Failed", 0)
        failure = status.attempts[0].failure
        assert (failure.reason, failure.exit_code) == (Reason.STORAGE_FULL, ExitCode.STORAGE_FULL)
        assert "no space is left for a checkpoint; the ones before it are intact" in failure.message
        assert "lower checkpoint.keep" in finished.output
        committed = committed_checkpoints(run.folder / "checkpoints")
        assert [checkpoint.step for checkpoint in reversed(committed)] == checkpoints_of(run.folder)
        assert set(kept) <= set(checkpoints_of(run.folder))
        assert [damage(checkpoint) for checkpoint in committed] == [None] * len(committed)
        assert half_written(disk.path) == []

        disk.resize(512 * MEBIBYTE)
        again = trainyard("run", str(file), "--output", str(disk.path))
        assert again.code == ExitCode.SUCCEEDED, again.output
        assert [step for step, _ in losses(run.folder)] == list(range(1, 31))
