"""Records of CSV files: comma-separated values with a header, read as a stream with bounded memory."""

import csv
from collections.abc import Iterator
from typing import IO

from trainyard_api.errors import DataError
from trainyard_trainer.data.readers import (
    BYTE_ORDER_MARK,
    EXCERPT_CHARACTERS,
    MAXIMUM_RECORD_BYTES,
    FieldsRecord,
    InvalidRecord,
    Records,
    checked_text,
)

_REMEDY = "Save it as comma-separated values in UTF-8, with a header and quotes around text with line ends"


def read_csv_objects(stream: IO[bytes], uri: str) -> Iterator[FieldsRecord | InvalidRecord]:
    """The rows below the header, by its names; numbered by the line they end on, empty ones passed over.

    Args:
        stream: the file from its beginning.
        uri: its name, for errors.

    Raises:
        DataError: it has no usable header, or is no CSV.
    """
    csv.field_size_limit(MAXIMUM_RECORD_BYTES)
    rows = csv.reader(_lines(stream, uri), strict=True)
    try:
        header = next(rows, None)
        if not header:
            return
        if len(set(header)) < len(header) or "" in header:
            raise DataError(
                uri, f"its header names columns twice or not at all: {', '.join(header)[:200]}", _REMEDY
            )
        for row in rows:
            if len(row) == len(header):
                yield FieldsRecord(rows.line_num, dict(zip(header, row, strict=True)))
            elif row:
                reason = f"{len(row)} columns instead of the header's {len(header)}"
                excerpt = ",".join(row)[:EXCERPT_CHARACTERS].encode(errors="replace").decode()
                yield InvalidRecord(rows.line_num, reason, excerpt)
    except csv.Error as error:
        raise DataError(uri, f"it is no CSV at line {rows.line_num}: {error}", _REMEDY) from error


def read_csv(stream: IO[bytes], uri: str, text_field: str) -> Records:
    """The texts of one column; see `read_csv_objects`."""
    for record in read_csv_objects(stream, uri):
        if isinstance(record, InvalidRecord):
            yield record
        else:
            yield checked_text(record.number, record.fields, text_field)


def _lines(stream: IO[bytes], uri: str) -> Iterator[str]:
    """Lines with their ends; bytes that are no UTF-8 become lone surrogates, which no text may have."""
    number = 0
    while line := stream.readline(MAXIMUM_RECORD_BYTES + 1):
        number += 1
        if len(line) > MAXIMUM_RECORD_BYTES:
            raise DataError(uri, f"line {number} is longer than {MAXIMUM_RECORD_BYTES >> 20} MiB", _REMEDY)
        yield (line.removeprefix(BYTE_ORDER_MARK) if number == 1 else line).decode(errors="surrogateescape")
