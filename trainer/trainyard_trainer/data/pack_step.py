"""Step pack: token shards become rows of the training and validation sets, as an index of pieces."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from trainyard_trainer.data.dataset import PIECES, ROWS
from trainyard_trainer.data.files import HashedFile
from trainyard_trainer.data.frequencies import entropy, masked_frequency_loss
from trainyard_trainer.data.manifest import FileRecord
from trainyard_trainer.data.packing import Objective, cut_documents, one_piece_per_row, pack
from trainyard_trainer.data.shards import TokenShard
from trainyard_trainer.data.split import copies_per_epoch, is_validation
from trainyard_trainer.data.steps import StepOutcome

BLOCK_PIECES = 2 << 20
"""Pieces that are packed together; bounds memory, and rows mix documents of one block only."""

COUNTED_TOKENS = 4 << 20


@dataclass(frozen=True)
class PackOptions:
    """What decides the rows.

    Attributes:
        sequence_length: positions of a row.
        objective: which special tokens there are.
        enabled: whether pieces share rows.
        seed: mixes pieces and rows.
        validation_fraction: fraction of the documents held out.
        weights: occurrences per epoch, by source.
        vocabulary_size: largest id plus one.
    """

    sequence_length: int
    objective: Objective
    enabled: bool
    seed: int
    validation_fraction: float
    weights: tuple[float, ...]
    vocabulary_size: int


def pack_shards(
    shards: list[tuple[TokenShard, int]], options: PackOptions, folder: Path, advance: Callable[[int], None]
) -> StepOutcome:
    """Write the rows of both splits, and count the training tokens.

    Args:
        shards: token shards and the number of each one's source, in order.
        options: what decides the rows.
        folder: where to write.
        advance: told about the tokens seen; may raise to stop.
    """
    with (
        _SplitWriter(folder, "train", options) as train,
        _SplitWriter(folder, "validation", options) as validation,
    ):
        return _pack(shards, options, train, validation, advance)


def _pack(
    shards: list[tuple[TokenShard, int]],
    options: PackOptions,
    train: "_SplitWriter",
    validation: "_SplitWriter",
    advance: Callable[[int], None],
) -> StepOutcome:
    train.begin()
    validation.begin()
    frequencies = np.zeros(options.vocabulary_size, dtype=np.int64)
    for number, (shard, source) in enumerate(shards):
        lengths = np.diff(shard.offsets)
        held_out = is_validation(shard.hashes, options.validation_fraction)
        copies = np.where(held_out, 0, copies_per_epoch(shard.hashes, options.weights[source]))
        train.add(number, shard, lengths, copies)
        validation.add(number, shard, lengths, held_out.astype(np.int64))
        _count_tokens(frequencies, shard, copies, advance)
    details: dict[str, Any] = {
        "unigramEntropy": entropy(frequencies),
        "maskedFrequencyLoss": masked_frequency_loss(frequencies),
    }
    files: list[FileRecord] = []
    counts: dict[str, int] = {}
    for writer in (train, validation):
        files += writer.close()
        counts |= {f"{writer.name}_{name}": value for name, value in writer.counts.items()}
    return StepOutcome(tuple(files), counts, details)


@dataclass
class _SplitWriter:
    """Collects pieces of one split, packs them in blocks, and writes the rows."""

    folder: Path
    name: str
    options: PackOptions
    counts: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(("documents", "pieces", "rows", "tokens"), 0)
    )

    def __post_init__(self) -> None:
        self._waiting: list[NDArray[Any]] = []
        self._num_waiting = 0
        self._num_blocks = 0
        self._pieces = HashedFile(self.folder, f"{self.name}.pieces")
        self._rows = HashedFile(self.folder, f"{self.name}.rows")

    def begin(self) -> None:
        """Write where the first row begins."""
        self._rows.write(np.zeros(1, dtype=ROWS))

    def add(
        self, number: int, shard: TokenShard, lengths: NDArray[np.int64], copies: NDArray[np.int64]
    ) -> None:
        """Cut the documents of a shard, each as often as it occurs."""
        chosen = np.repeat(np.arange(len(lengths)), copies)
        self.counts["documents"] += int(((copies > 0) & (lengths > 0)).sum())
        cut = cut_documents(lengths[chosen], self.options.sequence_length, self.options.objective)
        pieces = np.empty(len(cut.lengths), dtype=PIECES)
        pieces["start"] = shard.offsets[chosen[cut.documents]] + cut.starts
        pieces["length"] = cut.lengths
        pieces["shard"] = number
        pieces["ends"] = cut.ends
        self.counts["tokens"] += int(cut.row_lengths().sum())
        self._waiting.append(pieces)
        self._num_waiting += len(pieces)
        if self._num_waiting >= BLOCK_PIECES:
            self._flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._pieces.abandon()
        self._rows.abandon()

    def close(self) -> list[FileRecord]:
        """Pack what waits and finish the files."""
        self._flush()
        return [self._pieces.close(), self._rows.close()]

    def _flush(self) -> None:
        if not self._num_waiting:
            return
        pieces = np.concatenate(self._waiting)
        seed = self.options.seed * 1_000_003 + self._num_blocks
        if self.options.enabled:
            ends = pieces["ends"].astype(np.int64)
            row_lengths = pieces["length"].astype(np.int64) + (ends & 1) + (ends >> 1)
            starts, order = pack(row_lengths, self.options.sequence_length, seed)
        else:
            starts, order = one_piece_per_row(len(pieces), seed)
        self._pieces.write(pieces[order])
        self._rows.write((starts[1:] + self.counts["pieces"]).astype(ROWS))
        self.counts["pieces"] += len(pieces)
        self.counts["rows"] += len(starts) - 1
        self._waiting, self._num_waiting = [], 0
        self._num_blocks += 1


def _count_tokens(
    frequencies: NDArray[np.int64],
    shard: TokenShard,
    copies: NDArray[np.int64],
    advance: Callable[[int], None],
) -> None:
    """Add the training tokens of a shard to the counts, each as often as its document occurs."""
    for first in range(0, len(shard.token_ids), COUNTED_TOKENS):
        tokens = shard.token_ids[first : first + COUNTED_TOKENS]
        ends = np.clip(shard.offsets, first, first + len(tokens))
        occurrences = np.repeat(copies, np.diff(ends))
        for count in np.unique(occurrences[occurrences > 0]).tolist():
            frequencies += count * np.bincount(tokens[occurrences == count], minlength=len(frequencies))
        advance(len(tokens))
