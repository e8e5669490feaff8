"""The run whose model another run starts from, on this machine: it must have succeeded before."""

from pathlib import Path

from trainyard_api.errors import ConfigurationError
from trainyard_api.names import ConditionType, File, Reason
from trainyard_api.policy.upstream import Obstacle, Upstream, obstacle
from trainyard_api.spec import TrainingRun
from trainyard_api.status import TrainingRunStatus
from trainyard_api.validation import load_run_file
from trainyard_trainer.run_folder import read_status

WHERE = "spec.model.fromRun.name"


def check_upstream(run: TrainingRun, storage: Path) -> None:
    """Refuse to start before the run whose model is needed has made it; the operator's policy decides.

    Args:
        run: the run to start.
        storage: the storage root, where the folders of all runs lie.

    Raises:
        ConfigurationError: that run is missing, unfinished or failed, or the runs wait for each other.
        DataError: its status cannot be read.
    """
    from_run = run.spec.model.from_run
    if from_run is None:
        return

    def lookup(name: str) -> Upstream | None:
        folder = storage / name
        if not (folder / File.RUN).is_file():
            return None
        needed = load_run_file(folder / File.RUN).spec.model.from_run
        return Upstream(
            read_status(folder) or TrainingRunStatus(), (needed.name,) if needed is not None else ()
        )

    found = obstacle(run.metadata.name, (from_run.name,), lookup)
    if found is not None:
        raise ConfigurationError(WHERE, *_told(found, from_run.name, storage))


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
            return found.message[0].lower() + found.message[1:], "Let one of them start from another model"
        case _:
            return f"the run {name} has not finished", f"Let it finish first: {again}"


def _failure(folder: Path) -> str:
    """Why a run failed, as its status tells."""
    status = read_status(folder) or TrainingRunStatus()
    messages = [
        condition.message for condition in status.conditions if condition.type == ConditionType.FAILED
    ]
    return f" ({messages[0].rstrip('.')})" if messages and messages[0] else ""
