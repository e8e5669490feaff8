"""Why a rank left, in a file beside its log: for the node and the runner, which only see an exit code."""

from pathlib import Path

from trainyard_api.progress import ExitRecord
from trainyard_trainer.progress import write_json_atomically


def exit_record_path(logs: Path, rank: int) -> Path:
    """The file of a rank."""
    return logs / f"exit-rank-{rank}.json"


def write_exit_record(logs: Path, record: ExitRecord) -> None:
    """Store why a rank left."""
    logs.mkdir(parents=True, exist_ok=True)
    write_json_atomically(exit_record_path(logs, record.rank), record)


def read_exit_record(logs: Path, rank: int) -> ExitRecord | None:
    """Why a rank left; None when it was killed before it could say."""
    path = exit_record_path(logs, rank)
    if not path.exists():
        return None
    return ExitRecord.model_validate_json(path.read_bytes())


def read_exit_records(logs: Path) -> dict[int, ExitRecord]:
    """The records of an attempt, by rank."""
    records = (ExitRecord.model_validate_json(path.read_bytes()) for path in logs.glob("exit-rank-*.json"))
    return {record.rank: record for record in records}
