"""Records of JSON Lines, CSV and Parquet files, one at a time, as mappings from field to value."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from trainyard_api.errors import ConfigurationError, DataError
from trainyard_trainer.data.compression import decompressed
from trainyard_trainer.data.csv_records import read_csv_objects
from trainyard_trainer.data.parquet import open_parquet, read_row_group_objects
from trainyard_trainer.data.readers import FieldsRecord, InvalidRecord, file_errors, read_json_objects
from trainyard_trainer.data.spool import seekable

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
    unit = "row" if chosen == "Parquet" else "line"
    with file_errors(str(file)), ExitStack() as stack:
        for record in _objects(file, chosen, compression, stack):
            place = f"{file}, {unit} {record.number}"
            if isinstance(record, InvalidRecord):
                raise DataError(place, record.reason, "Correct or remove it")
            yield InputRecord(place, record.fields)


def _objects(
    file: Path, chosen: Format, compression: str | None, stack: ExitStack
) -> Iterator[FieldsRecord | InvalidRecord]:
    """The records of a file in a format; `stack` closes what is opened."""
    name, raw = str(file), stack.enter_context(file.open("rb"))
    if chosen == "Parquet":
        table = open_parquet(seekable(raw, compression, file.stat().st_size, name, stack), name)
        return read_row_group_objects(table, list(table.columns), range(table.num_row_groups))
    stream = decompressed(raw, compression, name)
    return read_csv_objects(stream, name) if chosen == "CSV" else read_json_objects(stream, name, None)
