"""Step extract: records of one source become normalised documents with hashes, in text shards.

A text shard NAME is NAME.text (UTF-8, document after document), NAME.lengths (uint32 [documents], bytes of
each) and NAME.hashes (uint64 [documents, 2]). The work is divided into units by file sizes alone, so that
the outcome does not depend on the number of cores.
"""

import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from trainyard_api.spec import Source
from trainyard_trainer.data.checks import QUARANTINE, missing_field
from trainyard_trainer.data.files import HashedFile, write_hashed
from trainyard_trainer.data.manifest import FileRecord
from trainyard_trainer.data.normalize import document_hash, normalize, unify_line_ends
from trainyard_trainer.data.parallel import Advance
from trainyard_trainer.data.readers import InvalidRecord, Record, file_errors
from trainyard_trainer.data.steps import StepOutcome
from trainyard_trainer.data.units import FilePart, Unit, read_part

SHARD_BYTES = 64 << 20
SHARD_DOCUMENTS = 1 << 20
QUARANTINED_PER_UNIT = 10_000
EARLY_RECORDS = 10_000
NUM_EXAMPLES = 3
COUNTS = ("records", "invalid", "documents", "characters", "dropped")
LENGTHS = np.dtype("<u4")
BLANK_LINES = re.compile(r"\n[ \t]*\n\s*")


@dataclass(frozen=True)
class ExtractTask:
    """What one call of `extract_unit` does.

    Attributes:
        number: of the unit, which names its files.
        unit: what to read.
        folder: where to write.
        source: how to read it.
        where: place of the source in the spec.
        normalize: whether documents are normalised.
        minimum_characters: shorter documents are dropped.
        stop_early: whether a field that the first records all lack ends the run.
    """

    number: int
    unit: Unit
    folder: Path
    source: Source
    where: str
    normalize: bool
    minimum_characters: int
    stop_early: bool


@dataclass(frozen=True)
class Quarantined:
    """A record that was set aside."""

    uri: str
    line: int
    reason: str
    text: str


@dataclass
class ExtractResult:
    """What came out of a unit.

    Attributes:
        shards: name and number of documents of each text shard.
        files: all files written.
        counts: records, invalid, documents, characters, dropped.
        lines: records or lines per part of the unit, to number those of later parts.
        quarantined: the first invalid records; lines count from the start of their part.
        quarantined_parts: the part of each of them.
        missing_field: records without the text field.
        fields: fields of some of those.
    """

    shards: list[tuple[str, int]] = field(default_factory=list)
    files: list[FileRecord] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COUNTS, 0))
    lines: list[int] = field(default_factory=list)
    quarantined: list[Quarantined] = field(default_factory=list)
    quarantined_parts: list[int] = field(default_factory=list)
    missing_field: int = 0
    fields: tuple[str, ...] = ()


class _TextShards:
    """Writes documents to text shards of bounded size."""

    def __init__(self, folder: Path, prefix: str, result: ExtractResult) -> None:
        self._folder = folder
        self._prefix = prefix
        self.result = result
        self._text: HashedFile | None = None
        self._lengths: list[int] = []
        self._hashes: list[bytes] = []
        self._size_bytes = 0

    def append(self, text: bytes, digest: bytes) -> None:
        if self._text is None:
            self._text = HashedFile(self._folder, f"{self._name}.text")
        self._text.write(text)
        self._lengths.append(len(text))
        self._hashes.append(digest)
        self._size_bytes += len(text)
        if self._size_bytes >= SHARD_BYTES or len(self._lengths) >= SHARD_DOCUMENTS:
            self.close_shard()

    def close_shard(self) -> None:
        if self._text is None:
            return
        name = self._name
        hashes = np.frombuffer(b"".join(self._hashes), dtype="<u8").reshape(-1, 2)
        self.result.files += [
            self._text.close(),
            write_hashed(self._folder, f"{name}.lengths", np.array(self._lengths, dtype=LENGTHS)),
            write_hashed(self._folder, f"{name}.hashes", hashes),
        ]
        self.result.shards.append((name, len(self._lengths)))
        self._text, self._size_bytes = None, 0
        self._lengths, self._hashes = [], []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._text is not None:
            self._text.abandon()

    @property
    def _name(self) -> str:
        return f"{self._prefix}-{len(self.result.shards):05d}"


def extract_unit(task: ExtractTask, advance: Advance) -> ExtractResult:
    """Read, check, split, normalise, hash and write the documents of one unit."""
    result = ExtractResult()
    with _TextShards(task.folder, f"{task.number:06d}", result) as shards:
        for part_number, part in enumerate(task.unit):
            result.lines.append(_extract_part(part, part_number, task, shards, advance))
        shards.close_shard()
    return result


def split_documents(text: str, boundary: str) -> Iterator[str]:
    """The documents of a record."""
    if boundary == "Record":
        yield text
    elif boundary == "Line":
        yield from unify_line_ends(text).split("\n")
    else:
        yield from BLANK_LINES.split(unify_line_ends(text))


def finish_extraction(folder: Path, results: list[ExtractResult], units: list[Unit]) -> StepOutcome:
    """Write the quarantine, and sum up what the units gave."""
    shards = {name: count for result in results for name, count in result.shards}
    return sum_up(folder, results, units, COUNTS, {"shards": shards})


def sum_up(
    folder: Path,
    results: Sequence[ExtractResult],
    units: list[Unit],
    counts: Sequence[str],
    details: Mapping[str, Any],
) -> StepOutcome:
    """Write the quarantine, and bring together what all steps that read records have to tell.

    Args:
        folder: of the step.
        results: of its units.
        units: what each of them read.
        counts: names of the counts to add up.
        details: what the step has to tell beside that.
    """
    quarantine = write_quarantine(folder, results, units)
    examples = itertools.islice(quarantined_in_files(results, units), NUM_EXAMPLES)
    return StepOutcome(
        files=(*(file for result in results for file in result.files), *quarantine),
        counts={name: sum(result.counts[name] for result in results) for name in counts},
        details={
            **details,
            "examples": [f"{entry.uri} line {entry.line}: {entry.reason}" for entry in examples],
            "missingField": sum(result.missing_field for result in results),
            "fields": list(next((result.fields for result in results if result.fields), ())),
        },
    )


def write_quarantine(folder: Path, results: Sequence[ExtractResult], units: list[Unit]) -> list[FileRecord]:
    """Write quarantine.jsonl, lines counted from the start of each file; nothing when all is fine."""
    if not any(result.quarantined for result in results):
        return []
    with HashedFile(folder, QUARANTINE) as file:
        for entry in quarantined_in_files(results, units):
            document = {"file": entry.uri, "line": entry.line, "reason": entry.reason, "text": entry.text}
            file.write((json.dumps(document, ensure_ascii=False) + "\n").encode())
        return [file.close()]


def quarantined_in_files(results: Sequence[ExtractResult], units: list[Unit]) -> Iterator[Quarantined]:
    """The invalid records with lines counted from the start of each file."""
    lines_before = 0
    previous_uri = ""
    for result, unit in zip(results, units, strict=True):
        offsets = []
        for part, lines in zip(unit, result.lines, strict=True):
            lines_before = lines_before if part.uri == previous_uri else 0
            offsets.append(lines_before)
            lines_before += lines
            previous_uri = part.uri
        for entry, part_number in zip(result.quarantined, result.quarantined_parts, strict=True):
            yield replace(entry, line=entry.line + offsets[part_number])


def _extract_part(
    part: FilePart, part_number: int, task: ExtractTask, shards: _TextShards, advance: Advance
) -> int:
    """Take one part to documents; returns the number of its last record or line."""
    last = 0
    with file_errors(part.uri), ExitStack() as stack:
        for record in read_part(part, task.source, task.where, advance, stack):
            last = record.number
            shards.result.counts["records"] += 1
            if isinstance(record, InvalidRecord):
                set_aside(record, part, part_number, shards.result)
                _stop_without_field(task, shards.result)
            else:
                _write_documents(record, task, shards)
    return last


def set_aside(record: InvalidRecord, part: FilePart, part_number: int, result: ExtractResult) -> None:
    """Count a record that cannot be used, and keep the first of them for people to see."""
    result.counts["invalid"] += 1
    if record.fields or record.reason.startswith("no field"):
        result.missing_field += 1
        result.fields = result.fields or record.fields
    if len(result.quarantined) < QUARANTINED_PER_UNIT:
        result.quarantined.append(Quarantined(part.uri, record.number, record.reason, record.excerpt))
        result.quarantined_parts.append(part_number)


def _stop_without_field(task: ExtractTask, result: ExtractResult) -> None:
    """Refuse a source whose first records all lack the text field.

    Raises:
        DataError: they do.
    """
    if task.stop_early and result.missing_field == result.counts["records"] == EARLY_RECORDS:
        raise missing_field(task.source, task.where, list(result.fields))


def _write_documents(record: Record, task: ExtractTask, shards: _TextShards) -> None:
    counts = shards.result.counts
    for part in split_documents(record.text, task.source.document_boundary):
        normalized = normalize(part)
        text = normalized if task.normalize else part
        if len(normalized) < task.minimum_characters:
            counts["dropped"] += bool(normalized) or task.source.document_boundary == "Record"
            continue
        counts["documents"] += 1
        counts["characters"] += len(text)
        shards.append(text.encode(), document_hash(normalized))
