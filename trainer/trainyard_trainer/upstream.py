"""The runs whose models another run reads, on this machine: they must have succeeded before."""

from pathlib import Path

from trainyard_api.errors import ConfigurationError
from trainyard_api.names import ConditionType, File, Reason
from trainyard_api.policy.upstream import Obstacle, Upstream, needed_runs, obstacle
from trainyard_api.spec import TrainingRun
from trainyard_api.status import TrainingRunStatus
from trainyard_api.validation import load_run_file
from trainyard_trainer.run_folder import read_status


def check_upstream(run: TrainingRun, storage: Path) -> None:
    """Refuse to start before the runs whose models are needed have made them; the operator's policy decides.

    Args:
        run: the run to start.
        storage: the storage root, where the folders of all runs lie.

    Raises:
        ConfigurationError: one of them is missing, unfinished or failed, or the runs wait for each other.
        DataError: its status cannot be read.
    """

    def lookup(name: str) -> Upstream | None:
        folder = storage / name
        if not (folder / File.RUN).is_file():
            return None
        needed = needed_runs(load_run_file(folder / File.RUN).spec)
        return Upstream(read_status(folder) or TrainingRunStatus(), tuple(needed.values()))

    for where, name in needed_runs(run.spec).items():
        found = obstacle(run.metadata.name, (name,), lookup)
        if found is not None:
            raise ConfigurationError(where, *_told(found, name, storage))


def _told(found: Obstacle, name: str, storage: Path) -> tuple[str, str]:
    """What is wrong and what to do, for somebody at this machine."""
    folder = storage / name
    again = f"trainyard run {name}.yaml --output {storage}"
    match found.reason:
        case Reason.UPSTREAM_MISSING:
            return f"there is no run {name} in {storage}", f"Run it first: {again}"
        case Reason.UPSTREAM_FAILED:
            return f"the run {name} has failed{_failure(folder)}", f"Correct it and run it again: {again}"
        case Reason.UPSTREAM_CYCLE:
            return found.message[0].lower() + found.message[1:], "Let one of them read another model"
        case _:
            return f"the run {name} has not finished", f"Let it finish first: {again}"


def _failure(folder: Path) -> str:
    """Why a run failed, as its status tells."""
    status = read_status(folder) or TrainingRunStatus()
    messages = [
        condition.message for condition in status.conditions if condition.type == ConditionType.FAILED
    ]
    return f" ({messages[0].rstrip('.')})" if messages and messages[0] else ""
