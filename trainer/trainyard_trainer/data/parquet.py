"""Records of Parquet files, row group by row group, in bounded memory whatever a file says of itself."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from trainyard_api.errors import DataError
from trainyard_trainer.data.faults import fault_of
from trainyard_trainer.data.parquet_pages import GuardedFile, UnreadError, chunk_of
from trainyard_trainer.data.parquet_values import values_of
from trainyard_trainer.data.readers import (
    FieldsRecord,
    InvalidRecord,
    Record,
    Records,
    checked_text,
)

BATCH_ROWS = 1024
BATCH_BYTES = 64 << 20
"""Text of a batch that becomes Python objects at once; the values of a larger one come one by one."""
BUFFER_BYTES = 1 << 20
"""Read ahead of a column; without it, Arrow would read the column of a whole row group."""
REPEATING_ROWS = 64
"""Rows of a batch where values are told by what they share with the one before, which hides their size."""


_DELTAS = frozenset({"DELTA_BYTE_ARRAY", "DELTA_LENGTH_BYTE_ARRAY"})


@dataclass(frozen=True)
class ParquetTable:
    """An open Parquet file.

    Attributes:
        file: as Arrow reads it.
        guard: what Arrow reads it from.
        uri: its name.
        columns: names of its columns.
    """

    file: pq.ParquetFile
    guard: GuardedFile
    uri: str
    columns: tuple[str, ...]

    @property
    def num_row_groups(self) -> int:
        """How many row groups it has."""
        return int(self.file.metadata.num_row_groups)


def open_parquet(stream: IO[bytes], uri: str) -> ParquetTable:
    """The file behind a seekable stream.

    Raises:
        DataError: it is not a Parquet file.
        OSError: it cannot be read; `readers.file_errors` tells whether a retry helps.
    """
    guard = GuardedFile(stream, uri)
    try:
        file = _opened(guard, pq.ParquetFile(guard).metadata, frozenset())
        return ParquetTable(file, guard, uri, tuple(file.schema_arrow.names))
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        if _is_of_the_store(error):
            raise
        raise DataError(
            uri, f"it is not a Parquet file: {error}", "Replace the file or correct format"
        ) from error


def check_column(table: ParquetTable, text_field: str, where: str) -> None:
    """Refuse a file whose schema has no such text column.

    Args:
        table: the file.
        text_field: the column.
        where: the field of the spec that names the column.

    Raises:
        DataError: the column is missing or does not hold text.
    """
    if text_field not in table.columns:
        columns = ", ".join(table.columns[:20])
        raise DataError(
            where, f"{table.uri} has no column {text_field!r}; it has {columns}", "Name one of these columns"
        )
    column_type = table.file.schema_arrow.types[table.columns.index(text_field)]
    if pa.types.is_dictionary(column_type):
        column_type = column_type.value_type
    if not (pa.types.is_string(column_type) or pa.types.is_large_string(column_type)):
        problem = f"the column {text_field!r} of {table.uri} holds {column_type}, not text"
        raise DataError(where, problem, "Name a column of strings")


def row_group_sizes(table: ParquetTable) -> list[int]:
    """Uncompressed bytes of each row group, as the file claims."""
    metadata = table.file.metadata
    return [max(0, metadata.row_group(index).total_byte_size) for index in range(metadata.num_row_groups)]


def read_row_groups(table: ParquetTable, text_field: str, row_groups: range) -> Records:
    """The texts of some row groups; numbered from 1 in them.

    Raises:
        DataError: the file is damaged, or a part of it is too large to be read.
        OSError: it cannot be read; `readers.file_errors` tells whether a retry helps.
    """
    number = 0
    with _damage(table.uri):
        for batch in _batches(table, row_groups, [text_field]):
            for value in values_of(batch.column(0), BATCH_BYTES):
                number += 1
                if isinstance(value, InvalidRecord):
                    yield InvalidRecord(number, value.reason, value.excerpt)
                else:
                    yield _checked(number, value, text_field)


def read_row_group_objects(
    table: ParquetTable, columns: list[str], row_groups: range
) -> Iterator[FieldsRecord | InvalidRecord]:
    """The rows of some row groups with those columns that the file has; numbered from 1 in them.

    Raises:
        as `read_row_groups`.
    """
    present = [name for name in columns if name in table.columns]
    number = 0
    with _damage(table.uri):
        for batch in _batches(table, row_groups, present):
            for row in zip(*(values_of(column, BATCH_BYTES) for column in batch.columns), strict=True):
                number += 1
                invalid = next((value for value in row if isinstance(value, InvalidRecord)), None)
                if invalid is not None:
                    yield InvalidRecord(number, invalid.reason, invalid.excerpt)
                else:
                    yield FieldsRecord(number, dict(zip(present, row, strict=True)))


@contextmanager
def _damage(uri: str) -> Iterator[None]:
    """What Arrow says of the content of a file as a DataError."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        if _is_of_the_store(error):
            raise
        raise DataError(uri, f"it is damaged: {error}", "Replace the file") from error


def _checked(number: int, value: Any, text_field: str) -> Record | InvalidRecord:
    return checked_text(number, {text_field: value}, text_field)


def _opened(guard: GuardedFile, metadata: Any, dictionaries: frozenset[str]) -> pq.ParquetFile:
    """The file as Arrow reads it, with the texts of some columns as numbers of entries of a dictionary."""
    return pq.ParquetFile(
        guard,
        metadata=metadata,
        read_dictionary=sorted(dictionaries),
        buffer_size=BUFFER_BYTES,
        pre_buffer=False,
    )


def _batches(table: ParquetTable, row_groups: range, columns: list[str]) -> Iterator[Any]:
    """Batches of rows; each is of one row group, as the dictionaries of nested texts are.

    Texts stay in their dictionary, since a page of a few bytes may repeat a long one a million times. Arrow
    cannot do that where they are told by what they share with the one before.
    """
    for index in row_groups:
        chunks = _chunks(table, index, columns)
        dictionaries = frozenset(
            schema.path
            for chunk, schema in chunks
            if schema.physical_type == "BYTE_ARRAY" and not _DELTAS & set(chunk.encodings)
        )
        rows = _batch_rows(table, index, chunks, dictionaries)
        table.guard.watch(
            chunk_of(chunk, schema, rows, keeps_dictionary=schema.path in dictionaries)
            for chunk, schema in chunks
        )
        file = _opened(table.guard, table.file.metadata, dictionaries)
        yield from file.iter_batches(rows, row_groups=[index], columns=columns)


def _chunks(table: ParquetTable, index: int, columns: list[str]) -> list[tuple[Any, Any]]:
    """What the footer says of some columns of a row group, each with its schema.

    Asked for the metadata of a column that contradicts itself, pyarrow ends the process; when Arrow itself
    needs it, for reading, it raises an error. So it reads first, but is given no bytes.
    """
    table.guard.is_sealed = True
    try:
        next(table.file.iter_batches(1, row_groups=[index], columns=columns), None)
    except UnreadError:
        pass
    finally:
        table.guard.is_sealed = False
    group, wanted = table.file.metadata.row_group(index), frozenset(columns)
    if group.num_columns != len(table.file.schema):
        raise pa.ArrowInvalid("a row group has other columns than the file")
    return [
        (group.column(number), schema)
        for number, schema in enumerate(table.file.schema)
        if _is_below(schema.path, wanted)
    ]


def _batch_rows(
    table: ParquetTable, index: int, chunks: list[tuple[Any, Any]], dictionaries: frozenset[str]
) -> int:
    """Rows of a batch of a row group, fewer where rows are long on average.

    Raises:
        DataError: lists of texts are stored in a way whose size nothing tells.
    """
    group = table.file.metadata.row_group(index)
    mean_bytes = max(1, group.total_byte_size // max(1, group.num_rows))
    rows: int = max(1, min(BATCH_ROWS, BATCH_BYTES // mean_bytes))
    for _, schema in chunks:
        is_delta = schema.physical_type == "BYTE_ARRAY" and schema.path not in dictionaries
        if is_delta and schema.max_repetition_level:
            raise DataError(
                table.uri,
                f"the column {schema.path!r} holds lists of texts in an encoding of differences",
                "Write it again with the encoding PLAIN or with dictionaries",
            )
        rows = max(1, min(rows, BATCH_BYTES // max(1, schema.length), REPEATING_ROWS if is_delta else rows))
    return rows


def _is_below(path: str, columns: frozenset[str]) -> bool:
    """Whether a path of the schema is that of one of some columns, or lies in it."""
    parts = path.split(".")
    return any(".".join(parts[: end + 1]) in columns for end in range(len(parts)))


def _is_of_the_store(error: BaseException) -> bool:
    """Whether an error is one of reading the bytes, not one of what they say; Arrow's own have no number."""
    return isinstance(error, OSError) and (error.errno is not None or fault_of(error) is not None)
