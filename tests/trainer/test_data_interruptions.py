"""Preparation that is stopped, runs out of disk, or runs twice at once."""

import errno
import gzip
import json
import os
import subprocess
import sys
import threading
from itertools import chain, count
from pathlib import Path

import numpy as np
import pytest

from tests.support.preparation import TEXTS, make_plan, run, write_lines
from trainyard_api.errors import (
    DataError,
    PreemptedError,
    StorageFullError,
    TrainyardError,
)
from trainyard_trainer.data import files as files_module
from trainyard_trainer.data import units as units_module
from trainyard_trainer.data.steps import StepOutcome, StepStore


def test_a_stop_at_any_moment_leaves_no_half_written_step(tmp_path):
    write_lines(tmp_path / "texts.jsonl")
    expected = run(make_plan(tmp_path, output="other")).hash
    # How often it asks depends on how long it waits for others, so the last stops lie far apart.
    for patience in chain(range(0, 60, 3), (2**power for power in range(6, 16))):
        calls = count()
        plan = make_plan(tmp_path)
        try:
            manifest = run(plan, should_stop=lambda calls=calls, patience=patience: next(calls) >= patience)
        except PreemptedError:
            assert not list((tmp_path / "out" / "prepared").glob(".temporary-*"))
            assert not (tmp_path / "out" / "run" / "data.json").exists()
        else:
            break
    assert patience > 3
    assert manifest.hash == expected


def test_a_stop_ends_worker_processes(tmp_path, monkeypatch):
    monkeypatch.setattr(units_module, "UNIT_BYTES", 2000)
    write_lines(tmp_path / "texts.jsonl")
    calls = iter(range(10_000))
    with pytest.raises(PreemptedError):
        run(make_plan(tmp_path), cores=2, should_stop=lambda: next(calls) > 4)
    assert not list((tmp_path / "out" / "prepared").glob("*extract-*/"))


@pytest.mark.parametrize("allowed_bytes", [0, 5000, 20_000, 30_000])
def test_a_full_disk_is_told_and_leaves_no_half_written_step(allowed_bytes, tmp_path, monkeypatch):
    write_lines(tmp_path / "texts.jsonl")
    written = 0
    real_write = files_module.HashedFile.write

    def write(self, data):
        nonlocal written
        written += data.nbytes if isinstance(data, np.ndarray) else len(data)
        if written > allowed_bytes:
            raise OSError(errno.ENOSPC, "No space left on device")
        real_write(self, data)

    with monkeypatch.context() as patched:
        patched.setattr(files_module.HashedFile, "write", write)
        with pytest.raises(StorageFullError, match="no space is left"):
            run(make_plan(tmp_path))
    assert not list((tmp_path / "out" / "prepared").glob(".temporary-*"))
    assert run(make_plan(tmp_path)).train.rows > 4


def test_what_a_killed_run_left_is_cleared_away(tmp_path):
    write_lines(tmp_path / "texts.jsonl")
    first = run(make_plan(tmp_path))
    folder = tmp_path / "out" / "prepared" / first.steps[-1].folder
    (folder / "manifest.json").unlink()
    left = folder.with_name(f".temporary-{folder.name}")
    left.mkdir()
    (left / "train.rows").write_bytes(b"half")
    assert run(make_plan(tmp_path)).hash == first.hash
    assert not left.exists()


def test_two_runs_that_need_the_same_step_make_it_once(tmp_path):
    made = []
    inside, leave = threading.Event(), threading.Event()

    def body(folder):
        made.append(folder)
        inside.set()
        assert leave.wait(10)
        return StepOutcome((), {}, {})

    store = StepStore(tmp_path, lambda: False)
    results = []
    threads = [threading.Thread(target=lambda: results.append(store.run("step", {}, body))) for _ in range(2)]
    threads[0].start()
    assert inside.wait(10)
    threads[1].start()
    stopping = StepStore(tmp_path, lambda: True)
    with pytest.raises(PreemptedError):
        stopping.run("step", {}, body)
    leave.set()
    for thread in threads:
        thread.join(10)
    assert len(made) == 1
    assert sorted(result.reused for result in results) == [False, True]


def test_progress_is_told_with_totals(tmp_path):
    write_lines(tmp_path / "texts.jsonl")
    told = []
    run(make_plan(tmp_path), report=lambda *arguments: told.append(arguments))
    last = {step: (done, total, unit) for step, done, total, unit in told}
    assert list(last) == ["list", "extract texts", "deduplicate", "tokenizer", "tokenize", "pack"]
    for step in list(last)[1:]:
        done, total, _ = last[step]
        assert done == total > 0


def test_preparation_imports_no_torch(tmp_path):
    code = "import sys, trainyard_trainer.data.prepare; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ, timeout=60)


MEMORY_PROGRAM = """
import resource, sys
from pathlib import Path
from tests_plan import make_plan
from trainyard_trainer.data.prepare import prepare
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
plan = make_plan(Path(sys.argv[1]), source={"uri": sys.argv[1] + "/texts.jsonl.gz"}, data__sequenceLength=512)
manifest = prepare(plan, report=lambda *_: None, cores=1, should_stop=lambda: False)
print(manifest.sources[0].characters, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_corpus(tmp_path):
    block = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS).encode()
    (tmp_path / "tests_plan.py").write_text(Path(__file__).read_text())
    with gzip.open(tmp_path / "texts.jsonl.gz", "wb", compresslevel=1) as file:
        while file.tell() < 220 << 20:
            file.write(block)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    done = subprocess.run(
        [sys.executable, "-c", MEMORY_PROGRAM, str(tmp_path)],
        env=environment,
        check=True,
        capture_output=True,
        text=True,
        timeout=300,
    )
    characters, grown_mebibytes = map(int, done.stdout.split())
    assert characters > 150 << 20
    assert grown_mebibytes < 250


def test_errors_of_workers_keep_their_class(tmp_path, monkeypatch):
    monkeypatch.setattr(units_module, "UNIT_BYTES", 64)
    write_lines(tmp_path / "good.jsonl")
    (tmp_path / "bad.jsonl.gz").write_bytes(b"bad" * 100)
    with pytest.raises(TrainyardError) as caught:
        run(make_plan(tmp_path, source={"uri": f"{tmp_path}/*.jsonl*"}), cores=2)
    assert isinstance(caught.value, DataError)
