"""The files by which processes tell what they do, also when a crash or a full disk came between."""

import errno
import os
import subprocess
import sys

import pytest
from pydantic import ValidationError

from trainyard_api.progress import EventRecord, HistoryRecord
from trainyard_trainer.progress import (
    append_record,
    read_events,
    read_history,
    read_history_lines,
    read_progress,
    timestamp,
    write_text_atomically,
)


def step(number, loss=1.0):
    return HistoryRecord(step=number, time=float(number), loss=loss)


def test_records_come_back_in_the_order_they_were_written(tmp_path):
    for number in (1, 2, 2, 3):
        append_record(tmp_path / "history.jsonl", step(number))
    assert [record.step for record in read_history_lines(tmp_path)] == [1, 2, 2, 3]


def test_of_repeated_steps_the_last_written_one_counts_and_evaluations_stand_beside_them(tmp_path):
    evaluation = HistoryRecord(step=2, time=9.0, evaluation_loss=0.5)
    for record in (step(1, 5.0), step(2, 4.0), evaluation, step(2, 3.0)):
        append_record(tmp_path / "history.jsonl", record)
    assert [(r.step, r.loss, r.evaluation_loss) for r in read_history(tmp_path)] == [
        (1, 5.0, None),
        (2, 3.0, None),
        (2, None, 0.5),
    ]


@pytest.mark.parametrize("num_bytes", [1, 9, 30])
def test_a_line_that_was_cut_off_is_passed_over_and_spoils_no_later_one(num_bytes, tmp_path):
    file = tmp_path / "history.jsonl"
    append_record(file, step(1))
    whole = file.read_bytes()
    file.write_bytes(whole + whole[:num_bytes])
    assert [record.step for record in read_history_lines(tmp_path)] == [1]
    append_record(file, step(2))
    append_record(file, step(3))
    assert [record.step for record in read_history_lines(tmp_path)] == [1, 2, 3]


def test_a_line_cut_off_behind_an_inner_brace_is_passed_over(tmp_path):
    file = tmp_path / "events.jsonl"
    event = EventRecord(time=1.0, type="Resumed", values={"step": 3.0})
    append_record(file, event)
    file.write_bytes(file.read_bytes().removesuffix(b"}\n"))
    append_record(file, event)
    assert read_events(tmp_path) == [event]


def test_a_whole_line_of_something_else_is_no_accident_and_raises(tmp_path):
    (tmp_path / "history.jsonl").write_text('{"steps": 1}\n')
    with pytest.raises(ValidationError, match="step"):
        read_history(tmp_path)


def test_files_that_are_not_there_yet_hold_nothing(tmp_path):
    assert read_history(tmp_path) == []
    assert read_events(tmp_path) == []
    assert read_progress(tmp_path) is None


def test_a_file_that_cannot_be_replaced_stays_and_nothing_is_left_beside_it(tmp_path, monkeypatch):
    file = tmp_path / "status.json"
    write_text_atomically(file, "old")

    def refuse(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match="No space left") as caught:
        write_text_atomically(file, "new")
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.filename == str(file)
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


APPEND = """
import resource, signal, sys
from pathlib import Path
from trainyard_api.progress import HistoryRecord
from trainyard_trainer.progress import append_record
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
try:
    append_record(Path(sys.argv[1]), HistoryRecord(step=2, time=2.0, loss=1.0))
except OSError as error:
    print(error.filename)
"""


def test_a_line_of_which_only_a_part_could_be_written_is_an_error(tmp_path):
    """The kernel writes what fits and tells how much that was; the limit on the file stands for the disk."""
    file = tmp_path / "history.jsonl"
    append_record(file, step(1))
    limit = file.stat().st_size + 5
    done = subprocess.run(
        [sys.executable, "-c", APPEND, str(file), str(limit)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.strip() == str(file)
    assert file.stat().st_size == limit
    assert [record.step for record in read_history_lines(tmp_path)] == [1]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0, "1970-01-01T00:00:00Z"), (1795569197.944, "2026-11-25T01:13:17Z")]
)
def test_times_are_written_as_kubernetes_writes_them(seconds, text):
    assert timestamp(seconds) == text
