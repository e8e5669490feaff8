"""The files by which training processes tell what they do; `trainyard_api.progress` has their shapes."""

import errno
import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from trainyard_api.model import ApiModel
from trainyard_api.names import File
from trainyard_api.progress import EventRecord, HistoryRecord, ProgressReport, WorkRecord

TEMPORARY_ENDING = ".tmp"

RecordType = TypeVar("RecordType", bound=ApiModel)


def timestamp(unix_seconds: float) -> str:
    """RFC 3339 in UTC with whole seconds, as Kubernetes writes times."""
    return datetime.fromtimestamp(unix_seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def write_text_atomically(path: Path, text: str) -> None:
    """Replace a file so that a reader sees the old or the new text, also after a crash."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY_ENDING}")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise _with_name(error, path) from error


def _with_name(error: OSError, path: Path) -> OSError:
    """The error with the file that it is about: writing to an open file leaves it out."""
    return error if error.filename else OSError(error.errno, error.strerror, str(path))


def write_json_atomically(path: Path, model: ApiModel) -> None:
    """Replace a file by the JSON of an API object; see `write_text_atomically`."""
    write_text_atomically(path, model.model_dump_json(by_alias=True, exclude_none=True, indent=2) + "\n")


def append_record(path: Path, record: ApiModel) -> None:
    """Append one JSON line by a single write, so that lines of several processes never mix.

    A line that a crash or a full disk cut off is ended first, so that it spoils no other.

    Raises:
        OSError: no space is left, maybe with a part of the line written.
    """
    line = (record.model_dump_json(by_alias=True, exclude_none=True) + "\n").encode()
    with path.open("a+b", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        if size and os.pread(file.fileno(), 1, size - 1) != b"\n":
            line = b"\n" + line
        try:
            num_written = file.write(line)
        except OSError as error:
            raise _with_name(error, path) from error
    if num_written != len(line):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def _read_records(path: Path, record_type: type[RecordType], start: int = 0) -> Iterator[RecordType]:
    """The whole records of a JSON-lines file from a byte on; a line cut off by a crash is passed over."""
    if not path.exists():
        return
    with path.open("rb") as file:
        file.seek(start)
        for line in file:
            try:
                yield record_type.model_validate_json(line)
            except ValidationError:
                if _is_json(line):
                    raise


def _is_json(line: bytes) -> bool:
    """Whether a line is whole."""
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def read_history(run_folder: Path) -> list[HistoryRecord]:
    """One record per step and kind, by step; of repeated steps (after a resume) the last written one."""
    newest: dict[tuple[int, bool], HistoryRecord] = {}
    for record in read_history_lines(run_folder):
        newest[record.step, record.evaluation_loss is not None] = record
    return [newest[key] for key in sorted(newest)]


def read_history_lines(run_folder: Path, start: int = 0) -> Iterator[HistoryRecord]:
    """Every record from a byte on in the order it was written, steps that were done again included."""
    return _read_records(run_folder / File.HISTORY, HistoryRecord, start)


def read_work(run_folder: Path) -> WorkRecord | None:
    """What the beginning of the history adds up to; None where nothing, or another history, was added up."""
    path, history = run_folder / File.WORK, run_folder / File.HISTORY
    if not path.exists() or not history.exists():
        return None
    record = WorkRecord.model_validate_json(path.read_bytes())
    return record if record.history_bytes <= history.stat().st_size else None


def read_events(run_folder: Path) -> list[EventRecord]:
    """Every event, in the order it was written."""
    return list(_read_records(run_folder / File.EVENTS, EventRecord))


def read_progress(run_folder: Path) -> ProgressReport | None:
    """The newest progress report, or None before the first."""
    path = run_folder / File.PROGRESS
    if not path.exists():
        return None
    return ProgressReport.model_validate_json(path.read_bytes())
