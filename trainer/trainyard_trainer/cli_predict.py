"""The command that uses an exported model: predict."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from trainyard_trainer.cli_inspect import RunFolderPath, check_run_folder

InputFormat = Literal["JsonLines", "CSV", "Parquet"]


def predict(  # noqa: PLR0913, PLR0917 - the options of the command
    run_folder: RunFolderPath,
    input_file: Annotated[
        Path, typer.Option("--input", metavar="FILE", help="Records: JSON Lines, CSV or Parquet.")
    ],
    output: Annotated[
        Path | None, typer.Option("--output", metavar="FILE", help="JSON Lines; standard output if left out.")
    ] = None,
    input_format: Annotated[
        InputFormat | None, typer.Option("--format", help="Format of the input; by its ending if left out.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Rows per forward pass.")] = 32,
    maximum_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 128,
) -> None:
    """Predict for each record of a file with the model that a fine-tuning run exported.

    Fields are named as in the first source of the run. Classification gives label and scores, tagging a tag
    for each word, instruction tuning the answer.
    """
    from trainyard_trainer.predict import command  # noqa: PLC0415

    options = command.PredictOptions(input_file, input_format, output, batch_size, maximum_new_tokens)
    number = command.predict(check_run_folder(run_folder), options)
    typer.echo(f"{number:,} predictions", err=True)
