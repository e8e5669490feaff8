"""Why a process left, in a file beside its log: for the node and the runner, which only see an exit code."""

import os
import sys
from pathlib import Path

from trainyard_api.names import Stage
from trainyard_api.progress import ExitRecord
from trainyard_trainer.progress import write_json_atomically


def gang_logs(logs: Path, stage: Stage) -> Path:
    """The folder of what the ranks of a stage say: each gang of an attempt has its own."""
    return logs / "cache" if stage is Stage.CACHE else logs


def exit_record_path(logs: Path, rank: int) -> Path:
    """The file of a rank."""
    return logs / f"exit-rank-{rank}.json"


def stage_exit_record_path(logs: Path, stage: Stage, index: int = 0) -> Path:
    """The file of a process of a stage that is no gang."""
    return logs / f"exit-{stage.lower()}-{index}.json"


def write_exit_record(path: Path, record: ExitRecord) -> None:
    """Store why a process left; where that cannot be stored, its log says so and the exit code stands."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json_atomically(path, record)
    except OSError as error:
        say(f"{path} could not be written: {error}")


def say(text: str) -> None:
    """Print on standard error, which may be a file on a full disk: the exit code must not suffer from it."""
    try:
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()
    except OSError:
        # What was to be said is lost with the disk that is full; the exit code tells what matters.
        return


def drop_what_cannot_be_said() -> None:
    """Let go of text that standard error does not take, or Python would exit with a code of its own."""
    try:
        sys.stderr.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


def read_exit_record(path: Path) -> ExitRecord | None:
    """Why a process left; None when it was killed before it could say."""
    return ExitRecord.model_validate_json(path.read_bytes()) if path.exists() else None


def read_exit_records(logs: Path) -> dict[int, ExitRecord]:
    """The records of the ranks of an attempt, by rank."""
    records = (ExitRecord.model_validate_json(path.read_bytes()) for path in logs.glob("exit-rank-*.json"))
    return {record.rank: record for record in records}
