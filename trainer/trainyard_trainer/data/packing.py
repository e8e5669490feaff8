"""Cutting documents into pieces and packing pieces into rows; pure functions of lengths and a seed.

Packing is best-fit-decreasing over the histogram of lengths: all pieces of one length are placed together, so that
the cost grows with the number of distinct lengths and with sorting, not with pieces times rows.
"""

import bisect
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from trainyard_trainer.data.order import mix_64, mix_64_array

Objective = Literal["MaskedLM", "CausalLM"]
HAS_PREFIX = 0b01
HAS_SUFFIX = 0b10


@dataclass(frozen=True, slots=True)
class Pieces:
    """Parts of documents that fit a row.

    Attributes:
        documents: int64 [p], index of the document.
        starts: int64 [p], first token, counted from the document's start.
        lengths: int64 [p], tokens, special ones left out.
        ends: uint8 [p]; bit 0: a special token goes before it, bit 1: one goes after it.
    """

    documents: NDArray[np.int64]
    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]
    ends: NDArray[np.uint8]

    def row_lengths(self) -> NDArray[np.int64]:
        """Positions that each piece takes in a row, int64 [p]."""
        return self.lengths + (self.ends & HAS_PREFIX) + (self.ends >> 1)


def cut_documents(lengths: NDArray[np.int64], sequence_length: int, objective: Objective) -> Pieces:
    """Cut documents into pieces of at most `sequence_length` positions, in order; empty documents give none.

    MaskedLM puts two special tokens around every piece. CausalLM puts one before the document and one after it, and never
    leaves a last piece of a single token, which would predict nothing.

    Args:
        lengths: int64 [d], tokens of each document.
        sequence_length: positions of a row.
        objective: which special tokens there are.
    """
    masked = objective == "MaskedLM"
    capacity = sequence_length - 2 if masked else sequence_length
    sizes = np.where(lengths > 0, lengths if masked else lengths + 2, 0)
    num_pieces = -(-sizes // capacity)
    documents = np.repeat(np.arange(len(lengths), dtype=np.int64), num_pieces)
    number = np.arange(len(documents), dtype=np.int64) - np.repeat(
        np.cumsum(num_pieces) - num_pieces, num_pieces
    )
    size = sizes[documents]
    starts = number * capacity
    ends = np.minimum(starts + capacity, size)
    if masked:
        both = np.full(len(documents), HAS_PREFIX | HAS_SUFFIX, dtype=np.uint8)
        return Pieces(documents, starts, ends - starts, both)
    lonely = (size % capacity == 1) & (size > 1)
    ends -= lonely & (ends == size - 1)
    starts -= lonely & (starts == size - 1)
    first, last = starts == 0, ends == size
    kinds = (first * HAS_PREFIX + last * HAS_SUFFIX).astype(np.uint8)
    starts_in_text, ends_in_text = np.maximum(starts - 1, 0), np.minimum(ends - 1, size - 2)
    return Pieces(documents, starts_in_text, ends_in_text - starts_in_text, kinds)


def pack(
    lengths: NDArray[np.int64], sequence_length: int, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Divide pieces among rows so that few positions stay empty.

    Args:
        lengths: int64 [p], positions that each piece takes, 1 .. sequence_length.
        sequence_length: positions of a row.
        seed: decides which of the pieces of equal length go together, and the order of the rows.

    Returns:
        Row starts int64 [rows + 1] and the pieces int64 [p] in the order of the rows: row r holds
        `pieces[starts[r]:starts[r + 1]]`.
    """
    shuffled = _shuffled_by_length(lengths, seed)
    row_of_piece, num_rows = _best_fit_decreasing(lengths[shuffled], sequence_length)
    new_number = np.empty(num_rows, dtype=np.int64)
    new_number[_shuffled(num_rows, seed)] = np.arange(num_rows)
    row_of_piece = new_number[row_of_piece]
    order = np.argsort(row_of_piece, kind="stable")
    starts = np.concatenate([[0], np.cumsum(np.bincount(row_of_piece, minlength=num_rows))])
    return starts.astype(np.int64), shuffled[order]


def one_piece_per_row(num_pieces: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows without packing, in the same form as `pack` returns."""
    return np.arange(num_pieces + 1, dtype=np.int64), _shuffled(num_pieces, seed)


def _random_keys(count: int, seed: int) -> NDArray[np.uint64]:
    return mix_64_array(np.arange(count, dtype=np.uint64) ^ np.uint64(mix_64(seed + 1)))


def _shuffled(count: int, seed: int) -> NDArray[np.int64]:
    return np.argsort(_random_keys(count, seed), kind="stable")


def _shuffled_by_length(lengths: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """Numbers of the pieces, longest first, those of equal length in random order."""
    shuffled = _shuffled(len(lengths), seed)
    return shuffled[np.argsort(-lengths[shuffled], kind="stable")]


class _OpenRows:
    """Rows with room left, grouped by how much."""

    def __init__(self) -> None:
        self._groups: dict[int, list[NDArray[np.int64]]] = {}
        self._rooms: list[int] = []

    def add(self, room: int, rows: NDArray[np.int64]) -> None:
        """Put rows back with the room they have left."""
        if not room or not len(rows):
            return
        if room not in self._groups:
            self._groups[room] = []
            bisect.insort(self._rooms, room)
        self._groups[room].append(rows)

    def take_tightest(self, length: int) -> tuple[int, NDArray[np.int64]] | None:
        """Take all rows of the least room that is at least `length`, or None when there is no such row."""
        place = bisect.bisect_left(self._rooms, length)
        if place == len(self._rooms):
            return None
        room = self._rooms.pop(place)
        return room, np.concatenate(self._groups.pop(room))


def _best_fit_decreasing(lengths: NDArray[np.int64], sequence_length: int) -> tuple[NDArray[np.int64], int]:
    """The row of each piece, and the number of rows.

    Args:
        lengths: int64 [p], longest first.
        sequence_length: positions of a row.
    """
    row_of_piece = np.empty(len(lengths), dtype=np.int64)
    num_rows = 0
    open_rows = _OpenRows()
    boundaries = np.flatnonzero(np.diff(lengths, prepend=-1, append=-1))
    for first, end in zip(boundaries[:-1].tolist(), boundaries[1:].tolist(), strict=True):
        length, placed = int(lengths[first]), first
        while placed < end:
            found = open_rows.take_tightest(length)
            if found is None:
                per_row = sequence_length // length
                num_new = -(-(end - placed) // per_row)
                room, rows = sequence_length, np.arange(num_rows, num_rows + num_new, dtype=np.int64)
                num_rows += num_new
            else:
                room, rows = found
            placed = _fill(row_of_piece, placed, end, length, room, rows, open_rows)
    return row_of_piece, num_rows


def _fill(  # noqa: PLR0913 - the state of one step of the loop above
    row_of_piece: NDArray[np.int64],
    placed: int,
    end: int,
    length: int,
    room: int,
    rows: NDArray[np.int64],
    open_rows: _OpenRows,
) -> int:
    """Put as many of the pieces placed .. end - 1 into the rows as fit; returns the first piece that is left."""
    per_row = room // length
    num_full, rest = divmod(min(end - placed, len(rows) * per_row), per_row)
    num_placed = num_full * per_row + rest
    row_of_piece[placed : placed + num_full * per_row] = np.repeat(rows[:num_full], per_row)
    open_rows.add(room - per_row * length, rows[:num_full])
    if rest:
        row_of_piece[placed + num_full * per_row : placed + num_placed] = rows[num_full]
        open_rows.add(room - rest * length, rows[num_full : num_full + 1])
    open_rows.add(room, rows[num_full + bool(rest) :])
    return placed + num_placed
