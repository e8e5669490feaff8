"""The folder of a run on this machine: whose it is, and that only one runner works in it."""

import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Self

import yaml

from trainyard_api.errors import RunFolderConflictError, UnavailableError
from trainyard_api.immutability import immutable_differences
from trainyard_api.names import File
from trainyard_api.spec import TrainingRun, to_document
from trainyard_api.status import TrainingRunStatus
from trainyard_api.validation import load_run_file
from trainyard_trainer.progress import write_json_atomically, write_text_atomically


class RunFolder:
    """An open, locked run folder.

    Args:
        path: the folder; made when it is missing.

    Raises:
        UnavailableError: another runner works in it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(parents=True, exist_ok=True)
        self._lock = (path / File.LOCK).open("a+")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._lock.seek(0)
            holder = self._lock.read().strip() or "unknown"
            self._lock.close()
            raise UnavailableError(
                str(path),
                f"another runner (process {holder}) works in this folder",
                "Wait for it, stop it, or give the run another name",
            ) from error
        self._lock.truncate(0)
        self._lock.write(f"{os.getpid()}\n")
        self._lock.flush()

    def __enter__(self) -> Self:
        """Nothing more to open."""
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Let the next runner in."""
        self._lock.close()

    def claim(self, run: TrainingRun) -> None:
        """Make the folder the run's, or check that it is.

        Raises:
            RunFolderConflictError: it holds another run, or one whose model or data differ.
        """
        file = self.path / File.RUN
        if file.exists():
            differences = immutable_differences(load_run_file(file), run)
            if differences:
                listed = "; ".join(str(difference) for difference in differences)
                raise RunFolderConflictError(
                    str(self.path),
                    f"it belongs to another spec: {listed}",
                    "Give the run another metadata.name or another --output, or restore these fields",
                )
        write_text_atomically(file, yaml.safe_dump(to_document(run), sort_keys=False))

    def read_status(self) -> TrainingRunStatus:
        """The status that the last runner left."""
        return read_status(self.path) or TrainingRunStatus()

    def write_status(self, status: TrainingRunStatus) -> None:
        """Replace status.json."""
        write_json_atomically(self.path / File.STATUS, status)


def read_status(path: Path) -> TrainingRunStatus | None:
    """The status in a run folder; None before a run was started."""
    file = path / File.STATUS
    if not file.exists():
        return None
    return TrainingRunStatus.model_validate_json(file.read_bytes())
