"""Cutting documents into pieces and packing pieces into rows; pure functions of lengths and a seed.

Packing is best-fit-decreasing over the histogram of lengths: all pieces of one length are placed together,
so that the cost grows with the number of distinct lengths and with sorting, not with pieces times rows.
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
        row_lengths: NDArray[np.int64] = self.lengths + (self.ends & HAS_PREFIX) + (self.ends >> 1)
        return row_lengths


def cut_documents(lengths: NDArray[np.int64], sequence_length: int, objective: Objective) -> Pieces:
    """Cut documents into pieces of at most `sequence_length` positions, in order; empty documents give none.

    MaskedLM puts two special tokens around every piece. CausalLM puts one before the document and one after
    it, and never leaves a last piece of a single token, which would predict nothing.

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
    fit = _BestFit(lengths[shuffled], sequence_length)
    new_number = np.empty(fit.num_rows, dtype=np.int64)
    new_number[_shuffled(fit.num_rows, seed)] = np.arange(fit.num_rows)
    row_of_piece = new_number[fit.row_of_piece]
    order = np.argsort(row_of_piece, kind="stable")
    starts = np.concatenate([[0], np.cumsum(np.bincount(row_of_piece, minlength=fit.num_rows))])
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


class _BestFit:
    """Best-fit-decreasing over groups of pieces of equal length.

    Attributes:
        row_of_piece: int64 [p], filled as pieces are placed.
        num_rows: rows opened so far.
    """

    def __init__(self, lengths: NDArray[np.int64], sequence_length: int) -> None:
        self.row_of_piece = np.empty(len(lengths), dtype=np.int64)
        self.num_rows = 0
        self._sequence_length = sequence_length
        self._open_rows = _OpenRows()
        self._placed = 0
        ends = np.flatnonzero(np.diff(lengths, append=-1)) + 1
        for end in ends.tolist():
            self._place_equal(end, int(lengths[self._placed]))

    def _place_equal(self, end: int, length: int) -> None:
        """Place the pieces up to `end`, which all have this length."""
        while self._placed < end:
            found = self._open_rows.take_tightest(length)
            if found is None:
                num_new = -(-(end - self._placed) // (self._sequence_length // length))
                found = (
                    self._sequence_length,
                    np.arange(self.num_rows, self.num_rows + num_new, dtype=np.int64),
                )
                self.num_rows += num_new
            self._fill(end, length, *found)

    def _fill(self, end: int, length: int, room: int, rows: NDArray[np.int64]) -> None:
        """Put as many of the pieces up to `end` into the rows as fit."""
        per_row = room // length
        num_full, rest = divmod(min(end - self._placed, len(rows) * per_row), per_row)
        num_in_full = num_full * per_row
        self.row_of_piece[self._placed : self._placed + num_in_full] = np.repeat(rows[:num_full], per_row)
        self._open_rows.add(room - per_row * length, rows[:num_full])
        self._placed += num_in_full
        if rest:
            self.row_of_piece[self._placed : self._placed + rest] = rows[num_full]
            self._open_rows.add(room - rest * length, rows[num_full : num_full + 1])
            self._placed += rest
        self._open_rows.add(room, rows[num_full + bool(rest) :])
