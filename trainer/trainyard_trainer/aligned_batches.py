"""The micro-batches of a rank beside the same text in the tokens of a teacher with another tokenizer."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from trainyard_trainer.batches import BatchSource, MicroBatch, collate
from trainyard_trainer.compared_batches import ComparedBatch, TeacherRows
from trainyard_trainer.data.aligned_rows import AlignedPiece, AlignedRows
from trainyard_trainer.data.dataset import Sample
from trainyard_trainer.methods.masking import MaskedRow
from trainyard_trainer.methods.sorted_logit_loss import aligned_places

_NO_PREDICTIONS = np.zeros(0, dtype=np.int32)


@dataclass(frozen=True)
class AlignedSource:
    """The micro-batches of one rank, those of training with what the teacher reads.

    Attributes:
        source: the run's own batches.
        rows: its training rows for the teacher.
        pad_token_id: what fills the ends of the teacher's rows.
    """

    source: BatchSource
    rows: AlignedRows
    pad_token_id: int

    def step_batches(self, step: int) -> list[ComparedBatch]:
        """The micro-batches of this rank for optimizer step `step`, counted from 0."""
        return [self._aligned(batch) for batch in self.source.step_batches(step)]

    def evaluation_batches(self, maximum_rows: int | None) -> Iterator[MicroBatch]:
        """The micro-batches of one evaluation, in which the teacher has no part."""
        return self.source.evaluation_batches(maximum_rows)

    def _aligned(self, batch: MicroBatch) -> ComparedBatch:
        pieces = [self.rows.pieces(row) for row in batch.rows]
        theirs = _collated(pieces, self.pad_token_id, batch.first_row)
        lengths = batch.input_ids.shape[1], theirs.input_ids.shape[1]
        found = [
            (own + number * lengths[0], their + number * lengths[1])
            for number, row in enumerate(pieces)
            for own, their in [row_places(row, _piece_lengths(batch.document_ids[number]))]
        ]
        own_places, their_places = (
            torch.from_numpy(np.concatenate([pair[side] for pair in found])) for side in (0, 1)
        )
        return ComparedBatch(batch, own_places, TeacherRows(theirs, their_places))


def row_places(
    pieces: Sequence[AlignedPiece], lengths: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Places of a row at which both have read the same text, in the run's row and in the teacher's.

    Args:
        pieces: the row.
        lengths: positions of each piece in the run's row.
    """
    own, theirs = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.int64)]
    start = teacher_start = 0
    for piece, length in zip(pieces, lengths.tolist(), strict=True):
        found = aligned_places(piece.ends, piece.teacher_ends)
        own.append(found[0] + start)
        theirs.append(found[1] + teacher_start)
        start, teacher_start = start + length, teacher_start + len(piece.token_ids)
    return np.concatenate(own), np.concatenate(theirs)


def _piece_lengths(document_ids: torch.Tensor) -> NDArray[np.int64]:
    """Positions of each piece of a row."""
    lengths: NDArray[np.int64] = np.bincount(document_ids[document_ids >= 0].numpy())
    return lengths


def _collated(rows: Sequence[Sequence[AlignedPiece]], pad_token_id: int, first_row: int) -> MicroBatch:
    """What the teacher reads: each piece by itself, whatever the student sees of the others."""
    samples = [
        Sample(
            token_ids=ids,
            flags=np.zeros(len(ids), dtype=np.uint8),
            document_lengths=np.array([len(piece.token_ids) for piece in row], dtype=np.int32),
        )
        for row in rows
        for ids in [np.concatenate([piece.token_ids for piece in row])]
    ]
    nothing = [MaskedRow(sample.token_ids, _NO_PREDICTIONS, _NO_PREDICTIONS) for sample in samples]
    return collate(samples, nothing, pad_token_id=pad_token_id, isolate_documents=True, first_row=first_row)
