"""Rows in the tokens of a teacher with another tokenizer, and where tokens of both end in the text."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainyard_trainer.data.align_step import ENDS, STEP
from trainyard_trainer.data.dataset import (
    HAS_PREFIX,
    HAS_SUFFIX,
    PackedDataset,
    PreparedData,
    damaged,
    open_step,
)
from trainyard_trainer.data.files import map_array
from trainyard_trainer.data.shards import OFFSETS, TokenShard, token_dtype


@dataclass(frozen=True, slots=True)
class AlignedShard:
    """What the step align wrote for one token shard; the module describes the files.

    Attributes:
        ends: uint32 [n].
        teacher_tokens: uint16 or uint32 [m].
        teacher_ends: uint32 [m].
        teacher_offsets: int64 [documents + 1].
    """

    ends: NDArray[np.uint32]
    teacher_tokens: NDArray[np.unsignedinteger]
    teacher_ends: NDArray[np.uint32]
    teacher_offsets: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class AlignedPiece:
    """A piece of a document in the tokens of both; ends count the characters of its document.

    Attributes:
        ends: int64 [n], where each place of the run's piece ends, its suffix left out.
        token_ids: int32 [m], the teacher's tokens, special ones included.
        teacher_ends: int64 [m or m - 1], where each of them ends, the suffix left out.
    """

    ends: NDArray[np.int64]
    token_ids: NDArray[np.int32]
    teacher_ends: NDArray[np.int64]


@dataclass(frozen=True)
class AlignedRows:
    """The rows of a run for a teacher with another tokenizer.

    Attributes:
        dataset: the rows.
        shards: beside each of its token shards.
        prefix_token_id: the teacher's special token before a document.
        suffix_token_id: the one after it.
        maximum_tokens: the longest text that the teacher reads.
    """

    dataset: PackedDataset
    shards: tuple[AlignedShard, ...]
    prefix_token_id: int
    suffix_token_id: int
    maximum_tokens: int

    def pieces(self, row: int) -> list[AlignedPiece]:
        """The pieces of a row; what is longer than the teacher reads is cut."""
        first, end = int(self.dataset.rows[row]), int(self.dataset.rows[row + 1])
        return [self._piece(*piece) for piece in self.dataset.pieces[first:end].tolist()]

    def _piece(self, start: int, length: int, shard_number: int, ends: int) -> AlignedPiece:
        own, theirs = self.dataset.shards[shard_number], self.shards[shard_number]
        document = int(np.searchsorted(own.offsets, start, side="right")) - 1
        before = int(theirs.ends[start - 1]) if start > own.offsets[document] else 0
        own_ends = theirs.ends[start : start + length].astype(np.int64)
        tokens = slice(*theirs.teacher_offsets[document : document + 2].tolist())
        low, high = 0, tokens.stop - tokens.start
        if start > own.offsets[document]:
            low = int(np.searchsorted(theirs.teacher_ends[tokens], before, side="right"))
        if not ends & HAS_SUFFIX:
            last = own_ends[-1] if length else before
            high = int(np.searchsorted(theirs.teacher_ends[tokens], last, side="right"))
        chosen = slice(tokens.start + low, tokens.start + max(low, high))
        prefix = np.full(ends & HAS_PREFIX, self.prefix_token_id, dtype=np.int32)
        suffix = np.full(ends >> 1, self.suffix_token_id, dtype=np.int32)
        ids = np.concatenate([prefix, theirs.teacher_tokens[chosen].astype(np.int32), suffix])
        starts = np.full(len(prefix), before, dtype=np.int64)
        return AlignedPiece(
            ends=np.concatenate([starts, own_ends]),
            token_ids=ids[: self.maximum_tokens],
            teacher_ends=np.concatenate([starts, theirs.teacher_ends[chosen]])[: self.maximum_tokens],
        )


def open_aligned(data: PreparedData) -> AlignedRows:
    """The training rows of a run for its teacher.

    Raises:
        DataError: the step is missing, damaged, or of other tokens.
    """
    manifest = data.manifest
    step = next((step for step in manifest.steps if step.name == STEP), None)
    tokenizer, teacher = manifest.teacher_tokenizer, manifest.teacher
    if step is None or tokenizer is None or teacher is None:
        raise damaged(data.prepared, "it lacks the tokens of the teacher")
    folder = data.prepared / step.folder
    opened = open_step(folder, step.content_hash)
    shards = tuple(_open(folder, str(name), tokenizer.vocabulary_size) for name in opened.details["shards"])
    pairs = zip(data.train.shards, shards, strict=True)
    if any(not _fits(own, theirs) for own, theirs in pairs):
        raise damaged(folder, "it belongs to other tokens")
    return AlignedRows(
        dataset=data.train,
        shards=shards,
        prefix_token_id=tokenizer.prefix_token_id,
        suffix_token_id=tokenizer.suffix_token_id,
        maximum_tokens=teacher.maximum_positions,
    )


def _open(folder: Path, name: str, vocabulary_size: int) -> AlignedShard:
    def mapped(kind: str, dtype: np.dtype[Any]) -> NDArray[Any]:
        return map_array(folder / f"{name}.{kind}", dtype)

    return AlignedShard(
        ends=mapped("ends", ENDS),
        teacher_tokens=mapped("teacher-tokens", token_dtype(vocabulary_size)),
        teacher_ends=mapped("teacher-ends", ENDS),
        teacher_offsets=mapped("teacher-offsets", OFFSETS),
    )


def _fits(own: TokenShard, theirs: AlignedShard) -> bool:
    """Whether two shards hold the same documents."""
    return len(own.token_ids) == len(theirs.ends) and len(own.offsets) == len(theirs.teacher_offsets)
