"""Refusals and warnings that follow from counts: pure functions, one per rule."""

from trainyard_api.errors import DataError
from trainyard_api.spec import Source, TrainingRunSpec
from trainyard_trainer.data.manifest import SplitManifest
from trainyard_trainer.data.steps import FinishedStep

QUARANTINE = "quarantine.jsonl"
LOW_EFFICIENCY = 0.95
STARVED_EFFICIENCY = 0.5
FEW_ROWS = 16


def check_source(step: FinishedStep, source: Source, where: str, maximum_invalid_fraction: float) -> None:
    """Refuse a source without text, without its text field, or with too many invalid records.

    Raises:
        DataError: names the field and shows the first invalid records.
    """
    counts, details = step.manifest.counts, step.manifest.details
    records, invalid = counts["records"], counts["invalid"]
    fields = details["fields"]
    if records and details["missingField"] == records:
        raise missing_field(source, where, fields if isinstance(fields, list) else [])
    if invalid > maximum_invalid_fraction * records:
        examples = details["examples"]
        shown = "; ".join(str(example) for example in examples) if isinstance(examples, list) else ""
        raise DataError(
            f"{where}.uri",
            f"{invalid} of {records} records cannot be used, more than maximumInvalidFraction "
            f"{maximum_invalid_fraction:g} allows: {shown}",
            f"Correct them ({step.folder / QUARANTINE} lists them), "
            "or raise spec.data.preparation.maximumInvalidFraction",
        )
    if not counts["documents"]:
        raise DataError(
            f"{where}.uri",
            f"{source.uri} holds no text ({records} records, {counts['dropped']} documents too short)",
            "Correct the source, or lower spec.data.preparation.minimumCharacters",
        )


def missing_field(source: Source, where: str, fields: list[object] | list[str]) -> DataError:
    """The error of a text field that no record has."""
    present = ", ".join(map(str, fields)) or "no fields at all"
    return DataError(
        f"{where}.textField",
        f"no record of {source.uri} has the field {source.text_field!r}; they have {present}",
        "Name the field that holds the text",
    )


def check_rows(train: SplitManifest, validation: SplitManifest, spec: TrainingRunSpec) -> None:
    """Refuse data that fills no optimizer step or no evaluation, or a packer that leaves rows half empty.

    Raises:
        DataError: names the field.
    """
    if not validation.rows:
        raise DataError(
            "spec.data.validationFraction",
            f"{spec.data.validation_fraction:g} of {train.documents} documents leaves none to evaluate on",
            "Raise it, add text, or split documents by sources[].documentBoundary",
        )
    batch = spec.training.global_batch_size
    if train.rows < batch:
        raise DataError(
            "spec.training.globalBatchSize",
            f"the training text fills {train.rows} rows of {spec.data.sequence_length} tokens, "
            f"fewer than one batch of {batch}",
            "Lower globalBatchSize or data.sequenceLength, or add text",
        )
    efficiency = train.tokens / (train.rows * spec.data.sequence_length)
    if spec.data.packing.enabled and train.rows > FEW_ROWS and efficiency < STARVED_EFFICIENCY:
        raise DataError(
            "spec.data.packing",
            f"only {efficiency:.0%} of the positions of the packed rows hold tokens",
            "Change data.sequenceLength so that documents fit together",
        )


def packing_warnings(train: SplitManifest, spec: TrainingRunSpec) -> tuple[str, ...]:
    """What a person should know about the rows."""
    efficiency = train.tokens / (train.rows * spec.data.sequence_length)
    if not spec.data.packing.enabled or efficiency >= LOW_EFFICIENCY:
        return ()
    warning = (
        f"Packed rows are {efficiency:.1%} full: many documents are a little longer than half of "
        f"sequenceLength {spec.data.sequence_length}; a larger one packs better"
    )
    return (warning,)
