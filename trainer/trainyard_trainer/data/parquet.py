"""Records of Parquet files, row group by row group."""

from collections.abc import Iterator
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from trainyard_api.errors import DataError
from trainyard_trainer.data.readers import FieldsRecord, InvalidRecord, Record, Records, checked_text

BATCH_ROWS = 1024


def open_parquet(stream: IO[bytes], uri: str) -> pq.ParquetFile:
    """The file behind a seekable stream.

    Raises:
        DataError: it is not a Parquet file.
    """
    try:
        return pq.ParquetFile(stream)
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
        for batch in file.iter_batches(BATCH_ROWS, row_groups=list(row_groups), columns=[text_field]):
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
        for batch in file.iter_batches(BATCH_ROWS, row_groups=list(row_groups), columns=present):
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


def _values(column: Any) -> Iterator[Any]:
    try:
        yield from column.to_pylist()
    except UnicodeDecodeError:
        for scalar in column:
            try:
                yield scalar.as_py()
            except UnicodeDecodeError as error:
                excerpt = error.object[:200].decode(errors="replace")
                yield InvalidRecord(0, f"not UTF-8 (byte {error.object[error.start]:#04x})", excerpt)
