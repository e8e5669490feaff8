"""Records of text, JSON Lines and Parquet files, read as a stream with bounded memory.

A record that cannot be used comes out as an InvalidRecord, so that the caller can count it; a file that
cannot be read at all is a DataError.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

from trainyard_api.errors import DataError, TrainyardError
from trainyard_trainer.data.compression import DECOMPRESSION_ERRORS
from trainyard_trainer.data.faults import fault_error
from trainyard_trainer.data.locations import is_local

MAXIMUM_RECORD_BYTES = 32 << 20
"""Longer records are invalid; bounds the memory of a worker."""

MAXIMUM_LINE_BYTES = 1 << 30
"""After this many bytes without a line end a file is given up: a decompression bomb, or not text."""

EXCERPT_CHARACTERS = 200
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Record:
    """One usable record: its number (or line number) in the part of the file, from 1, and its text."""

    number: int
    text: str


@dataclass(frozen=True, slots=True)
class FieldsRecord:
    """One record with all its fields: its number (or line number) in the part of the file, from 1."""

    number: int
    fields: dict[str, Any]


@dataclass(frozen=True, slots=True)
class InvalidRecord:
    """One record that cannot be used.

    Attributes:
        number: its number (or line number) in the part of the file that was read, from 1.
        reason: why, for people; "no field" exactly when the text field is missing.
        excerpt: its first characters.
        fields: the fields that it has, when the text field is missing.
    """

    number: int
    reason: str
    excerpt: str
    fields: tuple[str, ...] = ()


Records = Iterator[Record | InvalidRecord]


def read_file_as_record(stream: IO[bytes]) -> Records:
    """A whole text file as one record."""
    data = stream.read(MAXIMUM_RECORD_BYTES + 1)
    if len(data) > MAXIMUM_RECORD_BYTES:
        reason = f"longer than {MAXIMUM_RECORD_BYTES >> 20} MiB: set documentBoundary to BlankLine or Line"
        yield InvalidRecord(1, reason, _excerpt(data))
    else:
        yield _decoded(1, data.removeprefix(BYTE_ORDER_MARK))


def read_lines(stream: IO[bytes], uri: str, end: int | None) -> Records:
    """Each line of a text as a record.

    Args:
        stream: the text.
        uri: the file, for errors.
        end: lines that begin at or after this offset of the stream are left to another reader; None reads
            all.
    """
    for number, line in _lines(stream, uri, end):
        if isinstance(line, InvalidRecord):
            yield line
        else:
            yield _decoded(number, line)


def read_blank_line_parts(stream: IO[bytes], uri: str) -> Records:
    """The parts of a text between blank lines, as records; numbered by their first line."""
    first, parts, size_bytes = 0, list[bytes](), 0
    for number, line in _lines(stream, uri, None):
        if isinstance(line, InvalidRecord):
            yield line
            continue
        if line.strip():
            first = first if parts else number
            parts.append(line)
            size_bytes += len(line)
            if size_bytes <= MAXIMUM_RECORD_BYTES:
                continue
            yield InvalidRecord(first, _too_long(), _excerpt(parts[0]))
        elif parts:
            yield _decoded(first, b"".join(parts))
        parts, size_bytes = [], 0
    if parts:
        yield _decoded(first, b"".join(parts))


def read_json_lines(stream: IO[bytes], uri: str, end: int | None, text_field: str) -> Records:
    """The text field of each JSON object, one per line; empty lines are passed over. See `read_lines`."""
    for record in read_json_objects(stream, uri, end):
        if isinstance(record, InvalidRecord):
            yield record
        else:
            yield checked_text(record.number, record.fields, text_field)


def read_json_objects(stream: IO[bytes], uri: str, end: int | None) -> Iterator[FieldsRecord | InvalidRecord]:
    """Each JSON object, one per line; empty lines are passed over. See `read_lines`."""
    for number, line in _lines(stream, uri, end):
        if isinstance(line, InvalidRecord):
            yield line
        elif line.strip():
            yield _parse_json(number, line)


def skip_to_line_start(stream: IO[bytes], uri: str, start: int) -> None:
    """Move to the first line that begins at or after an offset."""
    if start:
        stream.seek(start - 1)
        _skip_line(stream, uri, 1)


@contextmanager
def file_errors(uri: str) -> Iterator[None]:
    """Errors of decompression and input as DataError that names the file.

    Raises:
        DataError: the file is damaged or cannot be read.
        TransientError: its store cannot be reached.
    """
    try:
        yield
    except TrainyardError:
        raise
    except Exception as error:
        if told := None if is_local(uri) else fault_error(error, uri, uri):
            raise told from error
        if isinstance(error, (FileNotFoundError, PermissionError)):
            problem = f"it cannot be read: {error.strerror}"
            raise DataError(uri, problem, "Check the file and its access rights") from error
        if isinstance(error, ValueError) and not is_local(uri):
            problem = f"its server does not let it be read: {error}"
            raise DataError(uri, problem, "Copy the file to other storage") from error
        if isinstance(error, DECOMPRESSION_ERRORS) or (isinstance(error, OSError) and error.errno is None):
            problem = f"it is damaged, or not in the format of its ending: {error}"
            raise DataError(uri, problem, "Replace the file or correct its ending") from error
        raise


def _lines(stream: IO[bytes], uri: str, end: int | None) -> Iterator[tuple[int, bytes | InvalidRecord]]:
    offset = stream.tell() if end is not None else 0
    number = 0
    while end is None or offset < end:
        line = stream.readline(MAXIMUM_RECORD_BYTES + 1)
        if not line:
            return
        number += 1
        offset += len(line)
        if number == 1:
            line = line.removeprefix(BYTE_ORDER_MARK)
        if len(line) <= MAXIMUM_RECORD_BYTES or line.endswith(b"\n"):
            yield number, line
        else:
            offset += _skip_line(stream, uri, number)
            yield number, InvalidRecord(number, _too_long(), _excerpt(line))


def _skip_line(stream: IO[bytes], uri: str, number: int) -> int:
    skipped = 0
    while skipped < MAXIMUM_LINE_BYTES:
        part = stream.readline(1 << 20)
        skipped += len(part)
        if not part or part.endswith(b"\n"):
            return skipped
    raise DataError(
        uri,
        f"line {number} has no end within {MAXIMUM_LINE_BYTES >> 30} GiB",
        "It is not text, or a decompression bomb: remove it from the source",
    )


def _parse_json(number: int, line: bytes) -> FieldsRecord | InvalidRecord:
    text = _decoded(number, line)
    if isinstance(text, InvalidRecord):
        return text
    try:
        value = json.loads(text.text)
    except (ValueError, RecursionError) as error:
        return InvalidRecord(number, f"broken JSON: {error}", _excerpt(line))
    if not isinstance(value, dict):
        return InvalidRecord(number, "not a JSON object", _excerpt(line))
    return FieldsRecord(number, value)


def checked_text(number: int, fields: dict[str, Any], text_field: str) -> Record | InvalidRecord:
    """The text of a record's field, if it is usable text."""
    if text_field not in fields:
        excerpt = json.dumps(fields, default=str)[:EXCERPT_CHARACTERS]
        return InvalidRecord(number, f"no field {text_field!r}", excerpt, tuple(sorted(fields)[:20]))
    text = fields[text_field]
    if not isinstance(text, str):
        return InvalidRecord(
            number, f"field {text_field!r} holds {type(text).__name__}, not text", str(text)[:200]
        )
    try:
        text.encode()
    except UnicodeEncodeError:
        reason = f"field {text_field!r} holds a lone surrogate, which is no character"
        return InvalidRecord(number, reason, text[:EXCERPT_CHARACTERS].encode(errors="replace").decode())
    return Record(number, text)


def _decoded(number: int, data: bytes) -> Record | InvalidRecord:
    try:
        return Record(number, data.decode())
    except UnicodeDecodeError as error:
        return InvalidRecord(
            number, f"not UTF-8 (byte {data[error.start]:#04x} at {error.start})", _excerpt(data)
        )


def _excerpt(data: bytes) -> str:
    return data[: EXCERPT_CHARACTERS * 4].decode(errors="replace")[:EXCERPT_CHARACTERS]


def _too_long() -> str:
    return f"longer than {MAXIMUM_RECORD_BYTES >> 20} MiB"
