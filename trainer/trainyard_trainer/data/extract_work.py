"""What is to be done with the units of a source of text, and what their documents depend on."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from trainyard_api.spec import Data
from trainyard_trainer.data.extract import ExtractResult, ExtractTask, extract_unit
from trainyard_trainer.data.labelled.prepare import source_place
from trainyard_trainer.data.normalize import NORMALIZATION
from trainyard_trainer.data.sources import InputFile
from trainyard_trainer.data.unit_steps import UnitWork
from trainyard_trainer.data.units import Unit


def extract_work(
    data: Data, number: int, files: Sequence[InputFile], units: Mapping[int, Unit], folder: Path
) -> UnitWork[ExtractTask, ExtractResult]:
    """What is to be read of one source.

    Args:
        data: of the spec.
        number: of the source.
        files: of it.
        units: to read, by their numbers.
        folder: where to write.
    """
    tasks = [
        ExtractTask(
            number=index,
            unit=unit,
            folder=folder,
            source=data.sources[number],
            where=source_place(number),
            normalize=data.preparation.normalize,
            minimum_characters=data.preparation.minimum_characters,
            stop_early=data.preparation.maximum_invalid_fraction < 1.0,
        )
        for index, unit in units.items()
    ]
    return UnitWork("extract", extract_unit, ExtractResult, tasks, files, extract_settings(data, number))


def extract_settings(data: Data, number: int) -> dict[str, object]:
    """What the documents of a source depend on beside its files."""
    source, preparation = data.sources[number], data.preparation
    return {
        "format": source.format,
        "textField": None if source.format == "Text" else source.text_field,
        "documentBoundary": source.document_boundary,
        "normalize": preparation.normalize,
        "minimumCharacters": preparation.minimum_characters,
        "normalization": NORMALIZATION,
    }
