"""A cache on disk: a folder for each shard.

`records` holds one record of the layout for each place, `starts` where the places of each row begin (int64
[rows + 1]), `cache.json` the key, the layout and a hash of both files. It is written last, and the folder is
renamed then, so that a shard is whole or does not exist. Plain arrays, mapped into memory: no pickle.
"""

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from trainyard_api.errors import DataError
from trainyard_api.model import ApiModel
from trainyard_trainer.data.files import HashedFile, check_hashes, check_sizes, map_array, write_hashed
from trainyard_trainer.data.manifest import FileRecord
from trainyard_trainer.distillation.cache_layout import CacheLayout

MANIFEST = "cache.json"
RECORDS = "records"
STARTS = "starts"
_OFFSETS = np.dtype("<i8")
_AGAIN = "Delete its folder and run again to make the cache anew"


class CacheManifest(ApiModel):
    """What a shard holds."""

    key: str
    """Hash of everything that decides its content."""
    layout: CacheLayout
    """What is kept of each place."""
    first_row: int
    """Number of its first row among those of all shards."""
    num_rows: int
    """Rows of the prepared data."""
    num_places: int
    """Places of all its rows."""
    files: tuple[FileRecord, ...]
    """Its files."""


def write_shard(  # noqa: PLR0913 - what a shard is made of
    folder: Path,
    key: str,
    layout: CacheLayout,
    first_row: int,
    rows: Iterable[NDArray[np.void]],
    *,
    writer: str = "",
) -> CacheManifest:
    """Write the records of some successive rows; the folder appears when all of them are on the disk.

    Args:
        folder: does not exist yet, or holds a shard that is replaced.
        key: of the cache.
        layout: of the records.
        first_row: number of the first row.
        rows: records of each row, in the order of its places.
        writer: name of the run, since two runs may need one cache at a time.
    """
    temporary = folder.with_name(f"{folder.name}{writer and '.'}{writer}.partial")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    starts = [0]
    with HashedFile(temporary, RECORDS) as file:
        for records in rows:
            if len(records):
                file.write(records.astype(layout.record, copy=False))
            starts.append(starts[-1] + len(records))
        files = (file.close(), write_hashed(temporary, STARTS, np.array(starts, dtype=_OFFSETS)))
    manifest = CacheManifest(
        key=key,
        layout=layout,
        first_row=first_row,
        num_rows=len(starts) - 1,
        num_places=starts[-1],
        files=files,
    )
    write_hashed(temporary, MANIFEST, manifest.model_dump_json(by_alias=True, indent=2).encode())
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)
    return manifest


def is_whole(folder: Path, key: str, rows: range) -> bool:
    """Whether a shard is there with these rows and needs not be made, as far as sizes tell."""
    try:
        manifest = CacheManifest.model_validate_json((folder / MANIFEST).read_bytes(), by_name=False)
    except (OSError, ValidationError):
        return False
    is_same = (manifest.key, manifest.first_row, manifest.num_rows) == (key, rows.start, len(rows))
    return is_same and check_sizes(folder, manifest.files) is None


def shard_damage(folder: Path, key: str) -> str | None:
    """What is wrong with the content of a shard, by its hashes; None when nothing is.

    Raises:
        DataError: its manifest is missing, damaged or another cache's.
    """
    manifest = _manifest(folder, key)
    return check_sizes(folder, manifest.files) or check_hashes(folder, manifest.files)


class PredictionCache:
    """The shards of a cache, as one.

    Args:
        folders: of all shards, in any order.
        key: what the run needs.
        check: whether to read every file and compare its hash; one process of a run has to.

    Raises:
        DataError: a shard is missing, damaged, or made from another teacher, tokenizer, data or masking.
    """

    def __init__(self, folders: Sequence[Path], key: str, *, check: bool) -> None:
        shards = sorted(
            ((_manifest(folder, key), folder) for folder in folders), key=lambda shard: shard[0].first_row
        )
        self._first_rows: list[int] = []
        self._starts: list[NDArray[np.int64]] = []
        self._records: list[NDArray[Any]] = []
        self.num_rows = 0
        for manifest, folder in shards:
            if manifest.first_row != self.num_rows:
                raise DataError(
                    str(folder), f"rows {self.num_rows} to {manifest.first_row - 1} are in no shard", _AGAIN
                )
            damage = check_hashes(folder, manifest.files) if check else check_sizes(folder, manifest.files)
            if damage is not None:
                raise DataError(str(folder), damage, _AGAIN)
            self._first_rows.append(manifest.first_row)
            self._starts.append(map_array(folder / STARTS, _OFFSETS))
            self._records.append(map_array(folder / RECORDS, manifest.layout.record))
            self.num_rows += manifest.num_rows

    def row(self, number: int) -> NDArray[np.void]:
        """The records of a row, in the order of its places; a view into the file.

        Raises:
            IndexError: there is no such row.
        """
        if not 0 <= number < self.num_rows:
            raise IndexError(number)
        shard = int(np.searchsorted(self._first_rows, number, side="right")) - 1
        inside = number - self._first_rows[shard]
        start, end = self._starts[shard][inside : inside + 2]
        return self._records[shard][start:end]


def _manifest(folder: Path, key: str) -> CacheManifest:
    """What a shard holds, if it is the one that is needed."""
    try:
        manifest = CacheManifest.model_validate_json((folder / MANIFEST).read_bytes(), by_name=False)
    except (OSError, ValidationError) as error:
        raise DataError(str(folder / MANIFEST), f"it cannot be read: {error}", _AGAIN) from error
    if manifest.key != key:
        raise DataError(
            str(folder),
            "the cache was made from another teacher, tokenizer, data, masking or temperature",
            "Run again without it to make one that fits, or undo the change",
        )
    return manifest
