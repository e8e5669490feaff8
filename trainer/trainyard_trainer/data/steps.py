"""Preparation steps: addressed by a hash of their inputs, committed by a rename, shared by runs.

<prepared>/extract-<key>/manifest.json      its presence under the final name is the commit
<prepared>/.temporary-extract-<key>/        being written; removed by whoever holds the lock next
<prepared>/locks/extract-<key>.lock         held while the step is looked for or written
"""

import errno
import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from trainyard_api.errors import StorageFullError
from trainyard_trainer.data.dataset import MANIFEST
from trainyard_trainer.data.files import check_sizes
from trainyard_trainer.data.manifest import (
    FORMAT_VERSION,
    FileRecord,
    StepManifest,
    StepSummary,
    content_hash,
    hash_of,
)
from trainyard_trainer.data.parallel import stopped
from trainyard_trainer.progress import write_json_atomically

LOCK_POLL_SECONDS = 0.2
KEY_DIGITS = 32
STORAGE_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


@dataclass(frozen=True)
class StepOutcome:
    """What the body of a step returns."""

    files: tuple[FileRecord, ...]
    """Files that it wrote."""
    counts: Mapping[str, int]
    """Figures by name."""
    details: Mapping[str, Any]
    """What later steps need to know."""


@dataclass(frozen=True)
class FinishedStep:
    """A committed step."""

    folder: Path
    """Where it lies."""
    manifest: StepManifest
    """What it holds."""
    reused: bool
    """Whether it was there before."""
    seconds: float
    """What it took now."""

    @property
    def content_hash(self) -> str:
        """Hash over its files."""
        return content_hash(self.manifest.files)

    def summary(self) -> StepSummary:
        """The step in the manifest of a run."""
        return StepSummary(
            name=self.manifest.name,
            key=self.manifest.key,
            folder=self.folder.name,
            content_hash=self.content_hash,
            num_files=len(self.manifest.files),
            counts=self.manifest.counts,
            seconds=round(self.seconds, 3),
            reused=self.reused,
        )


@dataclass(frozen=True)
class StepStore:
    """The prepared folder of a storage.

    Attributes:
        root: the folder.
        should_stop: whether to give up waiting for another run.
        clock: seconds that only grow.
    """

    root: Path
    should_stop: Callable[[], bool]
    clock: Callable[[], float] = time.monotonic

    def run(self, name: str, inputs: Mapping[str, Any], body: Callable[[Path], StepOutcome]) -> FinishedStep:
        """The step with these inputs: reused when it is there, else made by `body` in a given folder.

        Raises:
            StorageFullError: no space is left; nothing is kept.
            PreemptedError: told to stop while another run held the lock, or in `body`; nothing is kept.
        """
        started = self.clock()
        key = step_key(name, inputs)
        folder = self.root / f"{name}-{key}"
        try:
            with self.locked(folder.name):
                manifest = committed_step(folder)
                reused = manifest is not None
                if manifest is None:
                    manifest = self._make(folder, name, inputs, body)
        except OSError as error:
            if error.errno in STORAGE_FULL:
                raise _storage_full(self.root, name) from error
            raise
        return FinishedStep(folder, manifest, reused, self.clock() - started)

    def _make(
        self,
        folder: Path,
        name: str,
        inputs: Mapping[str, Any],
        body: Callable[[Path], StepOutcome],
    ) -> StepManifest:
        started = self.clock()
        temporary = self.root / f".temporary-{folder.name}"
        _remove(temporary)
        _remove(folder)
        temporary.mkdir()
        try:
            outcome = body(temporary)
            manifest = StepManifest(
                name=name,
                key=step_key(name, inputs),
                inputs=dict(inputs),
                files=outcome.files,
                counts=dict(outcome.counts),
                details=dict(outcome.details),
                seconds=round(self.clock() - started, 3),
            )
            write_json_atomically(temporary / MANIFEST, manifest)
            sync_folder(temporary)
            temporary.rename(folder)
        except BaseException:
            _remove(temporary)
            raise
        sync_folder(self.root)
        return manifest

    @contextmanager
    def locked(self, name: str) -> Iterator[None]:
        """Hold the lock of a name, which no other process of any machine holds at the same time.

        Raises:
            PreemptedError: told to stop while another one held it.
        """
        locks = self.root / "locks"
        locks.mkdir(parents=True, exist_ok=True)
        with (locks / f"{name}.lock").open("ab") as file:
            while not _try_lock(file.fileno()):
                if self.should_stop():
                    raise stopped()
                time.sleep(LOCK_POLL_SECONDS)
            yield


def step_key(name: str, inputs: Mapping[str, Any]) -> str:
    """The key of a step: a hash of its name, its inputs and the format of the files."""
    return hash_of({"format": FORMAT_VERSION, "step": name, "inputs": dict(inputs)})[:KEY_DIGITS]


def committed_step(folder: Path) -> StepManifest | None:
    """The manifest of a committed step whose files are all there in their sizes, or None."""
    try:
        manifest = StepManifest.model_validate_json((folder / MANIFEST).read_bytes())
    except (FileNotFoundError, ValidationError):
        return None
    return None if check_sizes(folder, manifest.files) else manifest


def sync_folder(folder: Path) -> None:
    """Bring a folder's entries to the disk, so that a rename survives a loss of power."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)


def _storage_full(root: Path, name: str) -> StorageFullError:
    return StorageFullError(
        str(root),
        f"no space is left for the preparation step {name}; what it had written was removed",
        "Free space or choose another --output, then run again: finished steps are reused",
    )
