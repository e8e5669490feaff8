"""Records of JSON Lines, CSV and Parquet files, one at a time, as mappings from field to value."""

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from trainyard_api.errors import ConfigurationError, DataError
from trainyard_trainer.data.compression import decompressed
from trainyard_trainer.data.parquet import BATCH_ROWS, open_parquet
from trainyard_trainer.data.readers import MAXIMUM_RECORD_BYTES, file_errors

Format = Literal["JsonLines", "CSV", "Parquet"]

FORMATS: dict[str, Format] = {
    ".jsonl": "JsonLines",
    ".ndjson": "JsonLines",
    ".json": "JsonLines",
    ".csv": "CSV",
    ".parquet": "Parquet",
}
COMPRESSIONS = {".gz": "gzip", ".bz2": "bz2", ".xz": "xz", ".zst": "zstd"}


@dataclass(frozen=True, slots=True)
class InputRecord:
    """One record of the input.

    Attributes:
        place: where it stands, for errors, such as `mails.jsonl, line 3`.
        fields: its values by field.
    """

    place: str
    fields: dict[str, Any]


def read_records(file: Path, of_format: Format | None = None) -> Iterator[InputRecord]:
    """Read a file from its beginning, with bounded memory.

    Args:
        file: JSON Lines, CSV with a header, or Parquet; compressed where its name says so.
        of_format: the format; by the ending of the name when None.

    Raises:
        ConfigurationError: the ending tells no format.
        DataError: the file is missing or damaged, or a record is no record.
    """
    compression = COMPRESSIONS.get(file.suffix.lower())
    plain_name = file.with_suffix("") if compression else file
    chosen = of_format or FORMATS.get(plain_name.suffix.lower())
    if chosen is None:
        raise ConfigurationError(
            "--input",
            f"the ending of {file.name} tells no format",
            f"Name a file that ends in {', '.join(FORMATS)}, or set --format",
        )
    with file_errors(str(file)), file.open("rb") as raw:
        if chosen == "Parquet":
            yield from _parquet_records(raw, file)
            return
        stream = decompressed(raw, compression, str(file))
        read = _json_records if chosen == "JsonLines" else _csv_records
        yield from read(stream, file)


def _json_records(stream: IO[bytes], file: Path) -> Iterator[InputRecord]:
    number = 0
    while line := stream.readline(MAXIMUM_RECORD_BYTES + 1):
        number += 1
        place = f"{file}, line {number}"
        if len(line) > MAXIMUM_RECORD_BYTES:
            raise DataError(place, f"it is longer than {MAXIMUM_RECORD_BYTES >> 20} MiB", "Split the record")
        if not line.strip():
            continue
        try:
            fields = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
        except (ValueError, RecursionError) as error:
            raise DataError(place, f"it is no JSON: {error}", "Correct or remove the line") from error
        if not isinstance(fields, dict):
            raise DataError(place, "it is no JSON object", 'Write one object per line, {"text": "..."}')
        yield InputRecord(place, fields)


def _csv_records(stream: IO[bytes], file: Path) -> Iterator[InputRecord]:
    csv.field_size_limit(MAXIMUM_RECORD_BYTES)
    with io.TextIOWrapper(stream, encoding="utf-8-sig", newline="") as lines:
        rows = csv.DictReader(lines, strict=True)
        try:
            for row in rows:
                place = f"{file}, line {rows.line_num}"
                if None in row or None in row.values():
                    problem = "its number of columns is not that of the header"
                    raise DataError(place, problem, "Correct the line")
                yield InputRecord(place, dict(row))
        except (csv.Error, UnicodeDecodeError) as error:
            place = f"{file}, after line {rows.line_num}"
            problem = f"it is no CSV in UTF-8: {error}"
            raise DataError(place, problem, "Save the file as CSV in UTF-8") from error


def _parquet_records(raw: IO[bytes], file: Path) -> Iterator[InputRecord]:
    table: pq.ParquetFile = open_parquet(raw, str(file))
    number = 0
    try:
        for batch in table.iter_batches(BATCH_ROWS):
            for row in batch.to_pylist():
                number += 1
                yield InputRecord(f"{file}, row {number}", row)
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise DataError(str(file), f"it is damaged: {error}", "Replace the file") from error
