"""Units of a source as steps of their own, so that several processes can share the reading of sources.

<prepared>/units/extract-<key>/result.json    what the unit gave; the files beside it are those of a unit

`steps` tells how such a folder is committed, reused and locked. Who needs a whole source links the files of
its units into the folder of the step, which holds the same bytes as if one process had read everything.
"""

import errno
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from pydantic import TypeAdapter

from trainyard_trainer.data.extract import ExtractResult
from trainyard_trainer.data.files import write_hashed
from trainyard_trainer.data.parallel import Advance, Pool
from trainyard_trainer.data.sources import InputFile
from trainyard_trainer.data.steps import StepOutcome, StepStore
from trainyard_trainer.data.units import Unit

UNITS = "units"
RESULT = "result.json"
NO_HARD_LINKS = frozenset(
    {errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EXDEV, errno.EMLINK}
)
"""What file systems answer that have no hard links, or none for this file."""


class UnitTask(Protocol):
    """What is to be done with one unit."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def number(self) -> int:
        """Number of the unit in its source."""

    @property
    def unit(self) -> Unit:
        """What to read."""

    @property
    def folder(self) -> Path:
        """Where to write."""


TaskType = TypeVar("TaskType", bound=UnitTask)
ResultType = TypeVar("ResultType", bound=ExtractResult)


@dataclass(frozen=True)
class UnitWork(Generic[TaskType, ResultType]):
    """Units of one source that are to be read.

    Attributes:
        name: of the step that they are parts of.
        function: a module-level function that reads one of them.
        result_type: what it returns.
        tasks: one of each unit.
        files: the source.
        settings: what the outcome depends on beside the files.
    """

    name: str
    function: Callable[[TaskType, Advance], ResultType]
    result_type: type[ResultType]
    tasks: Sequence[TaskType]
    files: Sequence[InputFile]
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class MadeUnit(Generic[ResultType]):
    """A committed unit: its folder, and what it gave."""

    folder: Path
    result: ResultType


@dataclass(frozen=True)
class _StoredUnit(Generic[TaskType, ResultType]):
    """One unit as a step; all that a worker process needs to make or find it."""

    root: Path
    name: str
    inputs: Mapping[str, Any]
    function: Callable[[TaskType, Advance], ResultType]
    task: TaskType
    result_type: type[ResultType]


@dataclass(frozen=True)
class UnitReader:
    """Reads the units of sources, each as a step of its own where several processes share them.

    Attributes:
        prepared: the prepared folder.
        num_shards: processes that share the units.
        pool: worker processes.
    """

    prepared: Path
    num_shards: int
    pool: Pool

    def read(self, work: UnitWork[TaskType, ResultType], advance: Advance) -> list[ResultType]:
        """What the units give, their files in the folders of the tasks; `advance` is told of bytes.

        Raises:
            as `Pool.run` and `StepStore.run`.
        """
        if self.num_shards == 1:
            return self.pool.run(work.function, work.tasks, advance)
        made = self.make(work, advance)
        for task, unit in zip(work.tasks, made, strict=True):
            for file in unit.result.files:
                _link(unit.folder / file.name, task.folder / file.name)
        return [unit.result for unit in made]

    def make(self, work: UnitWork[TaskType, ResultType], advance: Advance) -> list[MadeUnit[ResultType]]:
        """Make or find the step of each unit; the folders of the tasks are not used.

        Raises:
            as `Pool.run` and `StepStore.run`.
        """
        hashes = {file.uri: file.content_hash for file in work.files}
        stored = [
            _StoredUnit(
                root=self.prepared / UNITS,
                name=work.name,
                inputs={
                    **work.settings,
                    "number": task.number,
                    "parts": [
                        [hashes[part.uri], part.compression, part.start, part.end] for part in task.unit
                    ],
                },
                function=work.function,
                task=task,
                result_type=work.result_type,
            )
            for task in work.tasks
        ]
        return self.pool.run(_make_unit, stored, advance)


def unit_bytes(unit: Unit) -> int:
    """Roughly what is read of a unit."""
    return sum(part.size_bytes for part in unit)


def _make_unit(stored: _StoredUnit[TaskType, ResultType], advance: Advance) -> MadeUnit[ResultType]:
    """Read a unit, unless it was read before; another process may be about to."""
    adapter = TypeAdapter(stored.result_type)

    def body(folder: Path) -> StepOutcome:
        result = stored.function(replace(stored.task, folder=folder), advance)
        record = write_hashed(folder, RESULT, adapter.dump_json(result))
        return StepOutcome((*result.files, record), result.counts, {})

    def should_stop() -> bool:
        advance(0)  # raises when it is time to stop, which a worker process knows in no other way
        return False

    stored.root.mkdir(parents=True, exist_ok=True)
    step = StepStore(stored.root, should_stop).run(stored.name, stored.inputs, body)
    if step.reused:
        advance(unit_bytes(stored.task.unit))
    return MadeUnit(step.folder, adapter.validate_json((step.folder / RESULT).read_bytes()))


def _link(source: Path, target: Path) -> None:
    """Let a second name stand for a file, or copy it where the file system has no hard links."""
    try:
        target.hardlink_to(source)
    except OSError as error:
        if error.errno not in NO_HARD_LINKS:
            raise
        shutil.copyfile(source, target)
        with target.open("rb") as copied:
            os.fsync(copied.fileno())
