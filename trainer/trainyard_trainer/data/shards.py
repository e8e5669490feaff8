"""Sharded token files: the tokens of many documents, one after the other, in memory-mapped files.

A shard NAME is NAME.tokens (little-endian uint16 or uint32 ids, no special tokens), NAME.starts (one bit
per token, set at the first token of a word, in little bit order), NAME.offsets (int64 [documents + 1],
where each document starts) and NAME.hashes (uint64 [documents, 2], the documents' hashes, which decide
split and weight).
"""

from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from trainyard_trainer.data.files import HashedFile, map_array, write_hashed
from trainyard_trainer.data.manifest import FileRecord

HASHES = np.dtype("<u8")
OFFSETS = np.dtype("<i8")
STARTS = np.dtype("u1")
SMALL_VOCABULARY = 1 << 16


def token_dtype(vocabulary_size: int) -> np.dtype[Any]:
    """The smallest type of the files that holds every id."""
    return np.dtype("<u2") if vocabulary_size <= SMALL_VOCABULARY else np.dtype("<u4")


class TokenShardWriter:
    """Writes one shard, batch by batch."""

    def __init__(self, folder: Path, name: str, vocabulary_size: int) -> None:
        self._folder = folder
        self._name = name
        self._dtype = token_dtype(vocabulary_size)
        self._tokens = HashedFile(folder, f"{name}.tokens")
        self._starts = HashedFile(folder, f"{name}.starts")
        self._unwritten_starts = np.zeros(0, dtype=np.bool_)
        self._lengths: list[NDArray[np.int64]] = []
        self._hashes: list[NDArray[np.uint64]] = []

    def append(
        self,
        token_ids: NDArray[np.int32],
        word_starts: NDArray[np.bool_],
        lengths: NDArray[np.int64],
        hashes: NDArray[np.uint64],
    ) -> None:
        """Add documents.

        Args:
            token_ids: int32 [n], the tokens of all of them.
            word_starts: bool [n], whether each begins a word.
            lengths: int64 [d], tokens per document; sums to n.
            hashes: uint64 [d, 2].
        """
        self._tokens.write(token_ids.astype(self._dtype))
        starts = np.concatenate([self._unwritten_starts, word_starts])
        num_whole = len(starts) & ~7
        self._starts.write(np.packbits(starts[:num_whole], bitorder="little"))
        self._unwritten_starts = starts[num_whole:]
        self._lengths.append(lengths)
        self._hashes.append(hashes)

    def __enter__(self) -> Self:
        """Nothing to open; see `__exit__`."""
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Let the files go, also after an error; only `close` makes them count."""
        self._tokens.abandon()
        self._starts.abandon()

    def close(self) -> tuple[FileRecord, ...]:
        """Finish the shard and describe its files."""
        self._starts.write(np.packbits(self._unwritten_starts, bitorder="little"))
        lengths = np.concatenate([np.zeros(1, dtype=np.int64), *self._lengths])
        offsets = np.cumsum(lengths, dtype=np.int64).astype(OFFSETS)
        hashes = np.concatenate([np.zeros((0, 2), dtype=np.uint64), *self._hashes]).astype(HASHES)
        return (
            self._tokens.close(),
            self._starts.close(),
            write_hashed(self._folder, f"{self._name}.offsets", offsets),
            write_hashed(self._folder, f"{self._name}.hashes", hashes),
        )


@dataclass(frozen=True, slots=True)
class TokenShard:
    """One memory-mapped shard.

    Attributes:
        token_ids: uint16 or uint32 [n].
        packed_starts: uint8 [ceil(n / 8)], bit i % 8 of byte i // 8 belongs to token i.
        offsets: int64 [documents + 1].
        hashes: uint64 [documents, 2].
    """

    token_ids: NDArray[np.unsignedinteger]
    packed_starts: NDArray[np.uint8]
    offsets: NDArray[np.int64]
    hashes: NDArray[np.uint64]


def open_token_shard(folder: Path, name: str, vocabulary_size: int) -> TokenShard:
    """Map the files of one shard.

    Raises:
        DataError: a file is missing or has an impossible size.
    """
    return TokenShard(
        token_ids=map_array(folder / f"{name}.tokens", token_dtype(vocabulary_size)),
        packed_starts=map_array(folder / f"{name}.starts", STARTS),
        offsets=map_array(folder / f"{name}.offsets", OFFSETS),
        hashes=map_array(folder / f"{name}.hashes", HASHES).reshape(-1, 2),
    )


def unpack_starts(packed: NDArray[np.uint8], start: int, end: int) -> NDArray[np.uint8]:
    """The bits of tokens start .. end - 1, uint8 [end - start]."""
    first = start >> 3
    bits = np.unpackbits(packed[first : (end + 7) >> 3], bitorder="little")
    return bits[start - (first << 3) : end - (first << 3)]
