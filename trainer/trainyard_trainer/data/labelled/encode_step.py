"""Step encode: the records of one source become examples with tokens and labels, in shards."""

from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainyard_api.errors import DataError
from trainyard_api.spec import Source
from trainyard_api.spec_objectives import FineTuning
from trainyard_trainer.data import extract
from trainyard_trainer.data.checks import QUARANTINE
from trainyard_trainer.data.extract import ExtractResult, set_aside, sum_up
from trainyard_trainer.data.labelled.chat import ChatTemplate
from trainyard_trainer.data.labelled.encode import ExampleEncoder, prepared_tokenizer
from trainyard_trainer.data.labelled.shards import ExampleShards
from trainyard_trainer.data.labelled.task import columns_of, label_kind
from trainyard_trainer.data.labelled.values import UnusableError
from trainyard_trainer.data.parallel import Advance
from trainyard_trainer.data.readers import EXCERPT_CHARACTERS, FieldsRecord, InvalidRecord, file_errors
from trainyard_trainer.data.steps import FinishedStep, StepOutcome
from trainyard_trainer.data.tokenizer import parallel_tokenizers
from trainyard_trainer.data.tokenizer_step import load_tokenizer
from trainyard_trainer.data.units import FilePart, Unit, read_part_objects

COUNTS = (*extract.COUNTS, "tokens", "truncated")


@dataclass(frozen=True)
class EncodeTask:
    """What one call of `encode_unit` does.

    Attributes:
        number: of the unit, which names its files.
        unit: what to read.
        folder: where to write.
        task: what is learnt.
        source: how to read it.
        where: place of the source in the spec.
        tokenizer_folder: the tokenizer.
        sequence_length: most tokens of an example.
        normalize: whether texts are normalised.
        minimum_characters: shorter inputs give no example.
        template: for conversations.
    """

    number: int
    unit: Unit
    folder: Path
    task: FineTuning
    source: Source
    where: str
    tokenizer_folder: Path
    sequence_length: int
    normalize: bool
    minimum_characters: int
    template: ChatTemplate | None


@dataclass
class EncodeResult(ExtractResult):
    """What came out of a unit.

    Attributes:
        names: names of the classes of each shard.
        unusable: records that were set aside for each field of the source.
    """

    names: dict[str, list[str]] = field(default_factory=dict)
    unusable: Counter[str] = field(default_factory=Counter)


def encode_unit(task: EncodeTask, advance: Advance) -> EncodeResult:
    """Read, check, encode and write the examples of one unit."""
    result = EncodeResult(counts=dict.fromkeys(COUNTS, 0))
    tokenizer = prepared_tokenizer(load_tokenizer(task.tokenizer_folder), task.task, task.sequence_length)
    encoder = ExampleEncoder(
        tokenizer, task.task, task.source, task.normalize, task.minimum_characters, task.template
    )
    shards = ExampleShards(
        task.folder,
        f"{task.number:06d}",
        label_kind(task.task),
        f"{task.where}.{columns_of(task.task, task.source)[-1].named_by}",
    )
    with parallel_tokenizers(parallel=False):
        for part_number, part in enumerate(task.unit):
            result.lines.append(_encode_part(part, part_number, task, encoder, shards, result, advance))
        shards.flush()
    result.files, result.names = shards.files, shards.names
    return result


def finish_encoding(folder: Path, results: list[EncodeResult], units: list[Unit]) -> StepOutcome:
    """Write the quarantine, and sum up what the units gave."""
    unusable: Counter[str] = sum((result.unusable for result in results), Counter())
    shards = {name: names for result in results for name, names in result.names.items()}
    return sum_up(folder, results, units, COUNTS, {"shards": shards, "unusable": dict(unusable)})


def check_encoded(step: FinishedStep, source: Source, where: str, maximum_invalid_fraction: float) -> None:
    """Refuse a source without examples, without a field that the task reads, or with too many bad records.

    Raises:
        DataError: names the field and shows the first bad records.
    """
    counts, details = step.manifest.counts, step.manifest.details
    records, invalid = counts["records"], counts["invalid"]
    most = max(details["unusable"], key=details["unusable"].__getitem__, default="")
    if records and details["missingField"] == records:
        present = ", ".join(details["fields"]) or "no fields at all"
        raise DataError(
            f"{where}.{most}",
            f"no record of {source.uri} has it; they have {present}",
            f"Set {most} to the field that holds it",
        )
    if invalid > maximum_invalid_fraction * records:
        raise DataError(
            f"{where}.{most or 'uri'}",
            f"{invalid} of {records} records of {source.uri} cannot be used, more than "
            f"maximumInvalidFraction {maximum_invalid_fraction:g} allows: {'; '.join(details['examples'])}",
            f"Correct them ({step.folder / QUARANTINE} lists them), name the right field, "
            "or raise spec.data.preparation.maximumInvalidFraction",
        )
    if not counts["documents"]:
        raise DataError(
            f"{where}.uri",
            f"{source.uri} holds no examples ({records} records, {counts['dropped']} of them too short)",
            "Correct the source, or lower spec.data.preparation.minimumCharacters",
        )


def _encode_part(  # noqa: PLR0913, PLR0917 - what belongs to the unit comes from its one caller
    part: FilePart,
    part_number: int,
    task: EncodeTask,
    encoder: ExampleEncoder,
    shards: ExampleShards,
    result: EncodeResult,
    advance: Advance,
) -> int:
    """Take one part to examples; returns the number of its last record or line."""
    last = 0
    columns = columns_of(task.task, task.source)
    wanted = [column.name for column in columns]
    with file_errors(part.uri), ExitStack() as stack:
        for record in read_part_objects(part, task.source, wanted, advance, stack):
            last = record.number
            result.counts["records"] += 1
            unusable = (
                record if isinstance(record, InvalidRecord) else _encode(record, encoder, shards, result)
            )
            if unusable is not None:
                set_aside(unusable, part, part_number, result)
                result.unusable.update(
                    [column.named_by for column in columns if f"field {column.name!r}" in unusable.reason][:1]
                )
    return last


def _encode(
    record: FieldsRecord, encoder: ExampleEncoder, shards: ExampleShards, result: EncodeResult
) -> InvalidRecord | None:
    """Add the example of a record; what is wrong with it, if it has none."""
    fields, counts = record.fields, result.counts
    for column in columns_of(encoder.task, encoder.source):
        if column.name not in fields:
            present = tuple(sorted(map(str, fields))[:20])
            return InvalidRecord(record.number, f"no field {column.name!r}", _excerpt(fields), present)
        if fields[column.name] is None:
            return InvalidRecord(record.number, f"field {column.name!r} is empty", _excerpt(fields))
    try:
        example = encoder.encode(fields)
    except UnusableError as error:
        return InvalidRecord(record.number, str(error), _excerpt(fields))
    if example is None:
        counts["dropped"] += 1
        return None
    counts["documents"] += 1
    counts["characters"] += example.num_characters
    counts["tokens"] += len(example.token_ids)
    counts["truncated"] += example.is_truncated
    shards.append(example)
    return None


def _excerpt(fields: dict[str, Any]) -> str:
    return str(fields)[:EXCERPT_CHARACTERS].encode(errors="replace").decode()
