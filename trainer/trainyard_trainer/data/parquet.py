"""Records of Parquet files, row group by row group, in bounded memory whatever a file says of itself."""

from collections.abc import Iterator
from typing import IO, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from trainyard_api.errors import DataError
from trainyard_trainer.data.readers import (
    MAXIMUM_RECORD_BYTES,
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


def open_parquet(stream: IO[bytes], uri: str) -> pq.ParquetFile:
    """The file behind a seekable stream.

    Raises:
        DataError: it is not a Parquet file.
    """
    try:
        metadata = pq.ParquetFile(stream).metadata
        # Texts stay in their dictionary: a page of a few bytes may repeat a long one a million times.
        texts = [column.path for column in metadata.schema if column.physical_type == "BYTE_ARRAY"]
        return pq.ParquetFile(
            stream, metadata=metadata, read_dictionary=texts, buffer_size=BUFFER_BYTES, pre_buffer=False
        )
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            uri, f"it is not a Parquet file: {error}", "Replace the file or correct format"
        ) from error


def check_column(file: pq.ParquetFile, uri: str, text_field: str, where: str) -> None:
    """Refuse a file whose schema has no such text column.

    Args:
        file: the file.
        uri: its name, for the error.
        text_field: the column.
        where: the field of the spec that names the column.

    Raises:
        DataError: the column is missing or does not hold text.
    """
    schema = file.schema_arrow
    if text_field not in schema.names:
        columns = ", ".join(schema.names[:20])
        raise DataError(
            where, f"{uri} has no column {text_field!r}; it has {columns}", "Name one of these columns"
        )
    column_type = schema.field(text_field).type
    if pa.types.is_dictionary(column_type):
        column_type = column_type.value_type
    if not (pa.types.is_string(column_type) or pa.types.is_large_string(column_type)):
        problem = f"the column {text_field!r} of {uri} holds {column_type}, not text"
        raise DataError(where, problem, "Name a column of strings")


def row_group_sizes(file: pq.ParquetFile) -> list[int]:
    """Uncompressed bytes of each row group."""
    metadata = file.metadata
    return [metadata.row_group(index).total_byte_size for index in range(metadata.num_row_groups)]


def read_row_groups(file: pq.ParquetFile, uri: str, text_field: str, row_groups: range) -> Records:
    """The texts of some row groups; numbered from 1 in them.

    Raises:
        DataError: the file is damaged.
    """
    number = 0
    try:
        for batch in _batches(file, row_groups, [text_field]):
            for value in _values(batch.column(0)):
                number += 1
                if isinstance(value, InvalidRecord):
                    yield InvalidRecord(number, value.reason, value.excerpt)
                else:
                    yield _checked(number, value, text_field)
    except (pa.ArrowException, OSError) as error:
        raise DataError(uri, f"it is damaged: {error}", "Replace the file") from error


def read_row_group_objects(
    file: pq.ParquetFile, uri: str, columns: list[str], row_groups: range
) -> Iterator[FieldsRecord | InvalidRecord]:
    """The rows of some row groups with those columns that the file has; numbered from 1 in them.

    Raises:
        DataError: the file is damaged.
    """
    present = [name for name in columns if name in file.schema_arrow.names]
    number = 0
    try:
        for batch in _batches(file, row_groups, present):
            for row in zip(*(_values(column) for column in batch.columns), strict=True):
                number += 1
                invalid = next((value for value in row if isinstance(value, InvalidRecord)), None)
                if invalid is not None:
                    yield InvalidRecord(number, invalid.reason, invalid.excerpt)
                else:
                    yield FieldsRecord(number, dict(zip(present, row, strict=True)))
    except (pa.ArrowException, OSError) as error:
        raise DataError(uri, f"it is damaged: {error}", "Replace the file") from error


def _checked(number: int, value: Any, text_field: str) -> Record | InvalidRecord:
    return checked_text(number, {text_field: value}, text_field)


def _batches(file: pq.ParquetFile, row_groups: range, columns: list[str]) -> Iterator[Any]:
    """Batches of rows, fewer at once where rows are long on average."""
    groups = [file.metadata.row_group(index) for index in row_groups]
    num_rows = sum(group.num_rows for group in groups)
    mean_bytes = max(1, sum(group.total_byte_size for group in groups) // max(1, num_rows))
    rows = max(1, min(BATCH_ROWS, BATCH_BYTES // mean_bytes))
    yield from file.iter_batches(rows, row_groups=list(row_groups), columns=columns)


def _values(column: Any) -> Iterator[Any]:
    """The values of a column; what is no text or too long comes as an InvalidRecord."""
    lengths = _text_lengths(column)
    if lengths is None or (
        (pc.max(lengths).as_py() or 0) <= MAXIMUM_RECORD_BYTES
        and (pc.sum(lengths).as_py() or 0) <= BATCH_BYTES
    ):
        try:
            yield from column.to_pylist()
        except UnicodeDecodeError:
            yield from map(_value, column)
        return
    for scalar, size_bytes in zip(column, lengths.to_pylist(), strict=True):
        if (size_bytes or 0) > MAXIMUM_RECORD_BYTES:
            yield InvalidRecord(0, f"longer than {MAXIMUM_RECORD_BYTES >> 20} MiB", "")
        else:
            yield _value(scalar)


def _text_lengths(column: Any) -> Any:
    """Bytes of each text of a column, an Arrow array, null where there is none; None for other columns."""
    is_dictionary = pa.types.is_dictionary(column.type)
    texts = column.dictionary if is_dictionary else column
    if not (pa.types.is_string(texts.type) or pa.types.is_large_string(texts.type)):
        return None
    lengths = pc.binary_length(texts)
    return pc.take(lengths, column.indices) if is_dictionary else lengths


def _value(scalar: Any) -> Any:
    try:
        return scalar.as_py()
    except UnicodeDecodeError as error:
        excerpt = error.object[:200].decode(errors="replace")
        return InvalidRecord(0, f"not UTF-8 (byte {error.object[error.start]:#04x})", excerpt)
