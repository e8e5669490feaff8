"""The commands that read a run folder: status, logs, report."""

import json
import re
import time
from contextlib import suppress
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
    check_run_folder(run_folder)
    offsets: dict[Path, int] = {}
    with suppress(KeyboardInterrupt):  # Ctrl-C is how a person ends --follow
        while True:
            for file in log_files(run_folder, rank, attempt):
                offsets[file] = print_from(file, offsets.get(file, 0), label=rank is None, whole_lines=follow)
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
    numbered = {
        int(match[1]): path
        for path in (run_folder / File.LOGS).glob("attempt-*")
        if (match := re.fullmatch(r"attempt-([0-9]+)", path.name))
    }
    wanted = [numbered[number] for number in sorted(numbered) if attempt in (None, number)]
    pattern = "*.log" if rank is None else f"rank-{rank}.log"
    files = sorted(wanted[-1].glob(pattern)) if wanted else []
    if not files:
        raise DataError(str(run_folder / File.LOGS), "there is no such log", "Leave out --rank or --attempt")
    return files


def print_from(file: Path, offset: int, *, label: bool, whole_lines: bool) -> int:
    """Print what was appended to a file since an offset, and return the new offset."""
    with file.open("rb") as stream:
        stream.seek(offset)
        text = stream.read()
    if whole_lines:
        text = text[: text.rfind(b"\n") + 1]
    for line in text.decode(errors="replace").splitlines():
        typer.echo(f"{file.stem}: {line}" if label else line)
    return offset + len(text)
