"""The work of `trainyard predict`: from a file of records to JSON Lines."""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import torch

from trainyard_api.errors import ConfigurationError
from trainyard_trainer.predict.answers import AnswerPredictor
from trainyard_trainer.predict.exported import ExportedModel, load_exported
from trainyard_trainer.predict.predictor import Predictor, predictions
from trainyard_trainer.predict.records import Format, read_records
from trainyard_trainer.predict.sequences import SequencePredictor
from trainyard_trainer.predict.words import WordPredictor
from trainyard_trainer.progress import TEMPORARY_ENDING


@dataclass(frozen=True)
class PredictOptions:
    """What a person asked for.

    Attributes:
        input: file of records.
        of_format: its format; by its ending when None.
        output: where predictions go; standard output when None.
        batch_size: rows per forward pass.
        maximum_new_tokens: longest answer, in tokens.
    """

    input: Path
    of_format: Format | None
    output: Path | None
    batch_size: int
    maximum_new_tokens: int


def predict(run_folder: Path, options: PredictOptions) -> int:
    """Write a prediction for each record, one JSON object per line, in the order of the input.

    Returns:
        How many were written.

    Raises:
        ConfigurationError: the model has no task, the input no known format, or the output no folder.
        DataError: the model or a record is missing or broken; a file of output is then not written.
    """
    records = read_records(options.input, options.of_format)
    with opened_output(options.output) as stream:
        exported = load_exported(run_folder, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
        number = 0
        for prediction in predictions(build_predictor(exported, options), records, options.batch_size):
            stream.write(json.dumps(prediction, ensure_ascii=False) + "\n")
            number += 1
    return number


def build_predictor(exported: ExportedModel, options: PredictOptions) -> Predictor:
    """The predictor of a model's task."""
    if exported.task == "InstructionTuning":
        return AnswerPredictor(exported, options.maximum_new_tokens)
    if exported.task == "TokenClassification":
        return WordPredictor(exported)
    fine_tuning = exported.spec.fine_tuning
    return SequencePredictor(exported, fine_tuning.problem if fine_tuning is not None else "SingleLabel")


@contextmanager
def opened_output(path: Path | None) -> Iterator[TextIO]:
    """Standard output, or a file that appears under its name when all of it is written.

    Raises:
        ConfigurationError: the file cannot be made.
    """
    if path is None:
        yield sys.stdout
        sys.stdout.flush()
        return
    temporary = path.with_name(f".{path.name}{TEMPORARY_ENDING}")
    try:
        stream = temporary.open("w", encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(
            "--output", f"{path} cannot be written ({error.strerror})", "Name a file in a folder of yours"
        ) from error
    try:
        with stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
