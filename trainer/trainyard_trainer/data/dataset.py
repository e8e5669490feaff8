"""The rows that training reads: memory-mapped, cheap, without torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from trainyard_api.errors import DataError
from trainyard_api.names import File
from trainyard_trainer.data.files import check_hashes, check_sizes, map_array
from trainyard_trainer.data.manifest import DataManifest, StepManifest, content_hash
from trainyard_trainer.data.shards import TokenShard, open_token_shard, unpack_starts

WORD_START = 0b01
SPECIAL = 0b10
HAS_PREFIX = 0b01
HAS_SUFFIX = 0b10
MANIFEST = "manifest.json"
ROWS = np.dtype("<i8")
PIECES = np.dtype([("start", "<i8"), ("length", "<i4"), ("shard", "<i4"), ("ends", "u1")])
"""A piece of a document: `length` tokens of a shard from `start`, and which special tokens go around them."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One row.

    Attributes:
        token_ids: int32 [n].
        flags: uint8 [n]; bit 0 marks the first token of a word, bit 1 a special token.
        document_lengths: int32 [d], tokens of each document (or piece of one); sums to n <= sequence length.
    """

    token_ids: NDArray[np.int32]
    flags: NDArray[np.uint8]
    document_lengths: NDArray[np.int32]


@dataclass(frozen=True)
class PackedDataset:
    """Rows of a split; several threads may read at once.

    Attributes:
        shards: the token files.
        rows: int64 [rows + 1], where the pieces of each row begin.
        pieces: PIECES [pieces], in the order of the rows.
        prefix_token_id: special token before a piece that has one.
        suffix_token_id: special token after a piece that has one.
        num_tokens: tokens of all rows, special ones included.
        sequence_length: most tokens of a row.
    """

    shards: tuple[TokenShard, ...]
    rows: NDArray[np.int64]
    pieces: NDArray[Any]
    prefix_token_id: int
    suffix_token_id: int
    num_tokens: int
    sequence_length: int

    def __len__(self) -> int:
        return len(self.rows) - 1

    def sample(self, index: int) -> Sample:
        """The row with a number in 0 .. len - 1.

        Raises:
            IndexError: there is no such row.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} is not in 0 .. {len(self) - 1}")
        first, end = int(self.rows[index]), int(self.rows[index + 1])
        pieces = self.pieces[first:end].tolist()
        token_ids = np.empty(self.sequence_length, dtype=np.int32)
        flags = np.zeros(self.sequence_length, dtype=np.uint8)
        lengths = np.empty(len(pieces), dtype=np.int32)
        place = 0
        for number, (start, length, shard_number, ends) in enumerate(pieces):
            shard = self.shards[shard_number]
            piece_start = place
            if ends & HAS_PREFIX:
                token_ids[place] = self.prefix_token_id
                flags[place] = SPECIAL
                place += 1
            token_ids[place : place + length] = shard.token_ids[start : start + length]
            flags[place : place + length] = unpack_starts(shard.packed_starts, start, start + length)
            place += length
            if ends & HAS_SUFFIX:
                token_ids[place] = self.suffix_token_id
                flags[place] = SPECIAL
                place += 1
            lengths[number] = place - piece_start
        return Sample(token_ids[:place], flags[:place], lengths)


@dataclass(frozen=True)
class PreparedData:
    """Everything that training needs to know about its data."""

    manifest: DataManifest
    """What was prepared, and from what."""
    tokenizer_folder: Path
    """The tokenizer; stock Transformers loads it."""
    train: PackedDataset
    """Rows to train on."""
    validation: PackedDataset
    """Rows to evaluate on."""
    prepared: Path
    """The prepared folder of the storage."""


def open_prepared(run_folder: Path) -> PreparedData:
    """Open what `prepare` made for a run, after checking sizes of all files and hashes of the packing index.

    Raises:
        DataError: something is missing, damaged or from another version.
    """
    manifest = read_data_manifest(run_folder)
    prepared = (run_folder / manifest.prepared).resolve()
    steps = {step.name: prepared / step.folder for step in manifest.steps}
    expected = {step.name: step.content_hash for step in manifest.steps}
    opened = {name: open_step(steps[name], expected[name]) for name in ("tokenizer", "tokenize", "pack")}
    problem = check_hashes(steps["pack"], opened["pack"].files)
    problem = problem or check_hashes(steps["tokenizer"], opened["tokenizer"].files)
    if problem:
        raise damaged(steps["pack"], problem)
    shards = tuple(
        open_token_shard(steps["tokenize"], str(name), manifest.tokenizer.vocabulary_size)
        for name in _names_of_shards(opened["tokenize"])
    )
    return PreparedData(
        manifest=manifest,
        tokenizer_folder=steps["tokenizer"],
        train=_open_split(steps["pack"], "train", manifest, shards),
        validation=_open_split(steps["pack"], "validation", manifest, shards),
        prepared=prepared,
    )


def read_data_manifest(run_folder: Path) -> DataManifest:
    """The manifest of a run's data.

    Raises:
        DataError: it is missing or damaged.
    """
    path = run_folder / File.DATA
    try:
        manifest = DataManifest.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise DataError(str(path), "the run has no prepared data", "Run the Prepare stage first") from error
    except ValidationError as error:
        raise damaged(path, f"it cannot be read ({error.error_count()} problems)") from error
    if manifest.with_hash().hash != manifest.hash:
        raise damaged(path, "its hash does not fit its content")
    return manifest


def _open_split(
    folder: Path, split: str, manifest: DataManifest, shards: tuple[TokenShard, ...]
) -> PackedDataset:
    counts = manifest.train if split == "train" else manifest.validation
    rows = map_array(folder / f"{split}.rows", ROWS)
    pieces = map_array(folder / f"{split}.pieces", PIECES)
    if len(rows) != counts.rows + 1 or len(pieces) != counts.pieces:
        raise damaged(folder, f"{split}.rows does not have the {counts.rows} rows of the manifest")
    return PackedDataset(
        shards=shards,
        rows=rows,
        pieces=pieces,
        prefix_token_id=manifest.tokenizer.prefix_token_id,
        suffix_token_id=manifest.tokenizer.suffix_token_id,
        num_tokens=counts.tokens,
        sequence_length=manifest.sequence_length,
    )


def open_step(folder: Path, expected_hash: str) -> StepManifest:
    """The manifest of a step, after checking the sizes of its files.

    Args:
        folder: the step's.
        expected_hash: over its files, as the manifest of the run has it.

    Raises:
        DataError: it is missing, damaged or another one.
    """
    try:
        step = StepManifest.model_validate_json((folder / MANIFEST).read_bytes())
    except OSError as error:
        raise damaged(folder, f"its manifest cannot be read ({error.strerror})") from error
    except ValidationError as error:
        raise damaged(folder, f"its manifest cannot be read ({error.error_count()} problems)") from error
    if content_hash(step.files) != expected_hash:
        raise damaged(folder, "it was prepared again with another outcome")
    problem = check_sizes(folder, step.files)
    if problem:
        raise damaged(folder, problem)
    return step


def _names_of_shards(step: StepManifest) -> list[str]:
    names = step.details["shards"]
    if not isinstance(names, list):
        raise damaged(Path(step.name), "its manifest lists no shards")
    return [str(name) for name in names]


def damaged(path: Path, problem: str) -> DataError:
    """The error of prepared data that cannot be used."""
    return DataError(str(path), problem, "Delete it and run again to prepare it anew")
