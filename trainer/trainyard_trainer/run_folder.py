"""The folder of a run on this machine: whose it is, and that only one runner works in it."""

import errno
import fcntl
import os
import shutil
from pathlib import Path
from types import TracebackType
from typing import Self

import yaml
from pydantic import ValidationError

from trainyard_api.errors import ConfigurationError, DataError, RunFolderConflictError, UnavailableError
from trainyard_api.immutability import immutable_differences
from trainyard_api.names import File
from trainyard_api.spec import TrainingRun, to_document
from trainyard_api.status import TrainingRunStatus
from trainyard_api.validation import load_run_file
from trainyard_trainer.progress import TEMPORARY_ENDING, write_json_atomically, write_text_atomically


class RunFolder:
    """An open, locked run folder.

    Args:
        path: the folder; made when it is missing.

    Raises:
        ConfigurationError: no folder can be made or written there.
        RunFolderConflictError: there is a folder of something else.
        UnavailableError: another runner works in it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.mkdir(parents=True, exist_ok=True)
            check_is_free_or_run(path)
            self._lock = (path / File.LOCK).open("a+b", buffering=0)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise ConfigurationError(
                "--output",
                f"{path} cannot be made or written ({error.strerror})",
                "Name a folder that you may write to",
            ) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._lock.seek(0)
            holder = self._lock.read().decode().strip() or "unknown"
            self._lock.close()
            raise UnavailableError(
                str(path),
                f"another runner (process {holder}) works in this folder",
                "Wait for it, stop it, or give the run another name",
            ) from error
        try:
            self._lock.truncate(0)
            self._lock.write(f"{os.getpid()}\n".encode())
        except OSError as error:
            self._lock.close()
            raise OSError(error.errno, error.strerror, str(path / File.LOCK)) from error
        for left in path.glob(f".*{TEMPORARY_ENDING}"):
            # A process that was killed while it wrote; the lock says that none is at work now.
            _remove(left)

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


def _remove(left: Path) -> None:
    """Remove a temporary file, or the folder of a model that was being exported."""
    if left.is_dir():
        shutil.rmtree(left)
    else:
        left.unlink()


def check_is_free_or_run(path: Path) -> None:
    """Refuse a folder that holds something else than a run.

    Raises:
        RunFolderConflictError: it does.
    """
    names = sorted(entry.name for entry in path.iterdir())
    foreign = [name for name in names if name != File.LOCK and not name.endswith(TEMPORARY_ENDING)]
    if foreign and File.RUN not in foreign:
        raise RunFolderConflictError(
            str(path),
            f"it is not empty and holds no run, but {', '.join(foreign[:3])}",
            "Give the run another metadata.name or another --output",
        )


def read_status(path: Path) -> TrainingRunStatus | None:
    """The status in a run folder; None before a run was started.

    Raises:
        DataError: the file is damaged.
    """
    file = path / File.STATUS
    if not file.exists():
        return None
    try:
        return TrainingRunStatus.model_validate_json(file.read_bytes())
    except ValidationError as error:
        raise DataError(
            str(file),
            "this is no status of a run",
            "Remove the file; the run goes on from its checkpoint without it",
        ) from error
