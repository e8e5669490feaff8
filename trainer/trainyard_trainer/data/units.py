"""Division of a source into units of work, and reading of one part of a file.

Large plain files are cut into byte ranges and Parquet files into row groups; many small files are put
together. The division depends on the files alone.
"""

import io
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import IO, cast

from trainyard_api.spec import Source
from trainyard_trainer.data.compression import CountingReader, decompressed
from trainyard_trainer.data.csv_records import read_csv, read_csv_objects
from trainyard_trainer.data.locations import open_stream
from trainyard_trainer.data.parallel import Advance
from trainyard_trainer.data.parquet import (
    ParquetTable,
    check_column,
    open_parquet,
    read_row_group_objects,
    read_row_groups,
    row_group_sizes,
)
from trainyard_trainer.data.readers import (
    FieldsRecord,
    InvalidRecord,
    Records,
    file_errors,
    read_blank_line_parts,
    read_file_as_record,
    read_json_lines,
    read_json_objects,
    read_lines,
    skip_to_line_start,
)
from trainyard_trainer.data.sources import InputFile
from trainyard_trainer.data.spool import seekable

UNIT_BYTES = 64 << 20
BUFFER_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class FilePart:
    """A file or a part of one.

    Attributes:
        uri: the file.
        compression: of the whole file, or None.
        start: first byte or row group.
        end: byte or row group after the last; None reads to the end.
        size_bytes: roughly what is read, for the division.
    """

    uri: str
    compression: str | None
    start: int
    end: int | None
    size_bytes: int


Unit = tuple[FilePart, ...]


def divide(files: list[InputFile], source: Source) -> list[Unit]:
    """The units of a source, in the order of its files.

    Raises:
        DataError: a Parquet file is damaged.
    """
    units: list[Unit] = []
    current: list[FilePart] = []
    size_bytes = 0
    for file in files:
        for part in _parts(file, source):
            if current and size_bytes + part.size_bytes > UNIT_BYTES:
                units.append(tuple(current))
                current, size_bytes = [], 0
            current.append(part)
            size_bytes += part.size_bytes
    return [*units, tuple(current)] if current else units


def read_part(part: FilePart, source: Source, where: str, advance: Advance, stack: ExitStack) -> Records:
    """The records of a part; `stack` closes what is opened."""
    if source.format == "Parquet":
        table, groups = _open_row_groups(part, stack)
        check_column(table, source.text_field, f"{where}.textField")
        yield from read_row_groups(table, source.text_field, groups)
        advance(part.size_bytes)
        return
    stream = _open_part(part, advance, stack)
    if source.format == "JsonLines":
        yield from read_json_lines(stream, part.uri, part.end, source.text_field)
    elif source.format == "CSV":
        yield from read_csv(stream, part.uri, source.text_field)
    elif source.document_boundary == "Record":
        yield from read_file_as_record(stream)
    elif source.document_boundary == "Line":
        yield from read_lines(stream, part.uri, part.end)
    else:
        yield from read_blank_line_parts(stream, part.uri)


def read_part_objects(
    part: FilePart, source: Source, columns: list[str], advance: Advance, stack: ExitStack
) -> Iterator[FieldsRecord | InvalidRecord]:
    """The records of a part with all their fields (Parquet: with these columns); `stack` closes files."""
    if source.format == "Parquet":
        table, groups = _open_row_groups(part, stack)
        yield from read_row_group_objects(table, columns, groups)
        advance(part.size_bytes)
        return
    stream = _open_part(part, advance, stack)
    if source.format == "CSV":
        yield from read_csv_objects(stream, part.uri)
    else:
        yield from read_json_objects(stream, part.uri, part.end)


def _open_part(part: FilePart, advance: Advance, stack: ExitStack) -> IO[bytes]:
    """The plain bytes of a part, from the first line that begins in it."""
    raw = stack.enter_context(open_stream(part.uri, part.size_bytes))
    counted = cast("IO[bytes]", io.BufferedReader(CountingReader(raw, advance), BUFFER_BYTES))
    stream = decompressed(counted, part.compression, part.uri)
    if part.start:
        skip_to_line_start(stream, part.uri, part.start)
    return stream


def _open_row_groups(part: FilePart, stack: ExitStack) -> tuple[ParquetTable, range]:
    """A Parquet file, and the row groups of a part."""
    raw = stack.enter_context(open_stream(part.uri, part.size_bytes))
    table = open_parquet(seekable(raw, part.compression, part.size_bytes, part.uri, stack), part.uri)
    return table, range(part.start, table.num_row_groups if part.end is None else part.end)


def _parts(file: InputFile, source: Source) -> list[FilePart]:
    whole = [FilePart(file.uri, file.compression, 0, None, file.size_bytes)]
    if file.compression is not None or file.size_bytes <= UNIT_BYTES:
        return whole
    if source.format == "Parquet":
        return _row_group_parts(file) or whole
    is_lines = source.format == "Text" and source.document_boundary == "Line"
    if (source.format == "JsonLines" or is_lines) and _is_seekable(file):
        return [
            FilePart(file.uri, None, start, min(start + UNIT_BYTES, file.size_bytes), UNIT_BYTES)
            for start in range(0, file.size_bytes, UNIT_BYTES)
        ]
    return whole


def _is_seekable(file: InputFile) -> bool:
    """Whether parts of a file can be read without what lies before them."""
    with file_errors(file.uri), open_stream(file.uri, file.size_bytes) as raw:
        return bool(raw.seekable())


def _row_group_parts(file: InputFile) -> list[FilePart]:
    """A part for each row group; none where the file can only be read as a whole."""
    with file_errors(file.uri), open_stream(file.uri, file.size_bytes) as raw:
        if not raw.seekable():
            return []
        sizes = row_group_sizes(open_parquet(raw, file.uri))
    share = file.size_bytes / max(1, sum(sizes))
    return [
        FilePart(file.uri, None, index, index + 1, round(size * share)) for index, size in enumerate(sizes)
    ]
