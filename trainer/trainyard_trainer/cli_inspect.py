"""The commands that read a run folder: status, logs, report."""

import json
import time
from pathlib import Path
from typing import Annotated

import typer

from trainyard_api.errors import DataError
from trainyard_api.names import File

RunFolderPath = Annotated[
    Path, typer.Argument(metavar="RUN_FOLDER", help="Folder of a run, such as runs/NAME.")
]

FOLLOW_INTERVAL_SECONDS = 0.5


def status(
    run_folder: RunFolderPath, as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False
) -> None:
    """Show the state of a run."""
    from trainyard_trainer.run_folder import read_status  # noqa: PLC0415
    from trainyard_trainer.run_summary import summary_lines  # noqa: PLC0415

    current = read_status(check_run_folder(run_folder))
    if current is None:
        raise DataError(
            str(run_folder / File.STATUS), "the run has not started", "Start it with trainyard run"
        )
    if as_json:
        typer.echo(json.dumps(current.model_dump(mode="json", by_alias=True, exclude_none=True), indent=2))
        return
    report_file = run_folder / File.REPORT
    for line in summary_lines(current, run_folder, report_file if report_file.exists() else None):
        typer.echo(line)
    for attempt in current.attempts:
        failure = attempt.failure
        reason = f": {failure.reason} {failure.message}" if failure else ""
        typer.echo(f"attempt {attempt.number} {attempt.outcome} since {attempt.started_at}{reason}")


def logs(
    run_folder: RunFolderPath,
    rank: Annotated[int | None, typer.Option(min=0, help="Only this rank.")] = None,
    attempt: Annotated[int | None, typer.Option(min=0, help="This attempt instead of the newest.")] = None,
    follow: Annotated[bool, typer.Option("--follow", help="Go on as the log grows, until Ctrl-C.")] = False,
) -> None:
    """Print the logs of a run's processes."""
    files = log_files(check_run_folder(run_folder), rank, attempt)
    offsets = dict.fromkeys(files, 0)
    while True:
        for file in files:
            offsets[file] = print_from(file, offsets[file], label=len(files) > 1)
        if not follow:
            return
        time.sleep(FOLLOW_INTERVAL_SECONDS)


def report(run_folder: RunFolderPath) -> None:
    """Write the report again and print its path."""
    from trainyard_trainer.report import write_report  # noqa: PLC0415

    typer.echo(write_report(check_run_folder(run_folder)))


def check_run_folder(run_folder: Path) -> Path:
    """The folder, if it is one of a run.

    Raises:
        DataError: it is not.
    """
    if not (run_folder / File.RUN).is_file():
        raise DataError(str(run_folder), "this is no run folder", "Name a folder that trainyard run made")
    return run_folder


def log_files(run_folder: Path, rank: int | None, attempt: int | None) -> list[Path]:
    """The logs to print, in order.

    Raises:
        DataError: there is none.
    """
    attempts = sorted((run_folder / File.LOGS).glob("attempt-*"), key=lambda path: int(path.name[8:]))
    wanted = [path for path in attempts if attempt is None or path.name == f"attempt-{attempt}"]
    pattern = "*.log" if rank is None else f"rank-{rank}.log"
    files = sorted(wanted[-1].glob(pattern)) if wanted else []
    if not files:
        raise DataError(str(run_folder / File.LOGS), "there is no such log", "Leave out --rank or --attempt")
    return files


def print_from(file: Path, offset: int, *, label: bool) -> int:
    """Print what was appended to a file since an offset, and return the new offset."""
    with file.open("rb") as stream:
        stream.seek(offset)
        text = stream.read()
    for line in text.decode(errors="replace").splitlines():
        typer.echo(f"{file.stem}: {line}" if label else line)
    return offset + len(text)
