"""Files of a prepared folder: written once, hashed while they are written, checked before they are used."""

import hashlib
import os
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from trainyard_api.errors import DataError
from trainyard_trainer.data.manifest import FileRecord

COPY_BYTES = 1 << 20


class HashedFile:
    """A binary file that is hashed while it is written and is on disk when it is closed."""

    def __init__(self, folder: Path, name: str) -> None:
        self._name = name
        self._file = (folder / name).open("wb")
        self._hash = hashlib.sha256()
        self._size_bytes = 0

    def write(self, data: bytes | NDArray[Any]) -> None:
        """Append bytes, or the bytes of an array."""
        if isinstance(data, np.ndarray):
            view = np.ascontiguousarray(data).reshape(-1).view(np.uint8).data
        else:
            view = memoryview(data)
        self._file.write(view)
        self._hash.update(view)
        self._size_bytes += len(view)

    def close(self) -> FileRecord:
        """Bring it to the disk and describe it."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        return FileRecord(name=self._name, size_bytes=self._size_bytes, sha256=self._hash.hexdigest())

    def __enter__(self) -> Self:
        """Nothing to open; see `__exit__`."""
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Let the file go, also after an error; only `close` makes it count."""
        self.abandon()

    def abandon(self) -> None:
        """Let the file go; nobody needs it, so a disk too full for the rest of it is no error."""
        with suppress(OSError):
            self._file.close()


def write_hashed(folder: Path, name: str, data: bytes | NDArray[Any]) -> FileRecord:
    """Write one whole file and describe it."""
    with HashedFile(folder, name) as file:
        if len(data):
            file.write(data)
        return file.close()


def sha256_of_file(path: Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def map_array(path: Path, dtype: np.dtype[Any]) -> NDArray[Any]:
    """A file as a read-only array in virtual memory; an empty file is an empty array.

    Raises:
        DataError: the file is missing or its size does not fit the type.
    """
    try:
        size_bytes = path.stat().st_size
    except OSError as error:
        raise _damaged(path, f"it cannot be read ({error.strerror})") from error
    if size_bytes % dtype.itemsize:
        raise _damaged(path, f"its size of {size_bytes} bytes is not a multiple of {dtype.itemsize}")
    if not size_bytes:
        return np.zeros(0, dtype=dtype)
    return np.memmap(path, dtype=dtype, mode="r")


def check_sizes(folder: Path, files: tuple[FileRecord, ...]) -> str | None:
    """What is wrong with the files of a folder by their sizes, or None."""
    for file in files:
        try:
            size_bytes = (folder / file.name).stat().st_size
        except OSError:
            return f"{file.name} is missing"
        if size_bytes != file.size_bytes:
            return f"{file.name} has {size_bytes} bytes instead of {file.size_bytes}"
    return None


def check_hashes(folder: Path, files: tuple[FileRecord, ...]) -> str | None:
    """What is wrong with the files of a folder by their content, or None."""
    for file in files:
        if sha256_of_file(folder / file.name) != file.sha256:
            return f"{file.name} was changed after it was written"
    return None


def _damaged(path: Path, problem: str) -> DataError:
    return DataError(str(path), problem, "Delete its folder and run again to prepare it anew")
