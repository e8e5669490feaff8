"""Which rows a rank reads, and how they become tensors."""

import dataclasses

import numpy as np
import pytest

from trainyard_api.plan import BatchPlan
from trainyard_trainer.batches import BatchSource, Prefetcher, collate, restarting_positions
from trainyard_trainer.data.dataset import Sample
from trainyard_trainer.methods.causal import CausalLanguageModeling
from trainyard_trainer.methods.masking import MaskedRow


class Rows:
    """A data set whose row i holds i + 2 times the token i + 10."""

    sequence_length = 64

    def __init__(self, num_rows: int) -> None:
        self.num_rows = num_rows
        self.num_tokens = sum(range(2, num_rows + 2))

    def __len__(self) -> int:
        return self.num_rows

    def sample(self, index: int) -> Sample:
        length = index % 30 + 2
        return Sample(
            np.full(length, index + 10, dtype=np.int32), np.ones(length, dtype=np.uint8), np.array([length])
        )


def source_of(
    rank: int = 0, world_size: int = 1, micro: int = 2, global_batch: int = 8, rows: int = 37
) -> BatchSource:
    plan = BatchPlan(
        global_batch_size=global_batch,
        micro_batch_size=micro,
        accumulation_steps=global_batch // (micro * world_size),
        world_size=world_size,
    )
    return BatchSource(
        Rows(rows), Rows(11), CausalLanguageModeling(), plan, rank, 5, 0, isolate_documents=True
    )


def rows_of_step(step: int, world_size: int, micro: int, global_batch: int = 8) -> list[int]:
    """The rows of all ranks in the order of the stream."""
    batches = [
        batch
        for rank in range(world_size)
        for batch in source_of(rank, world_size, micro, global_batch).step_batches(step)
    ]
    ordered = sorted(batches, key=lambda batch: batch.first_row)
    return [int(row[0]) - 10 for batch in ordered for row in batch.input_ids]


@pytest.mark.parametrize(("world_size", "micro"), [(1, 8), (1, 1), (2, 2), (2, 4), (4, 2), (8, 1)])
@pytest.mark.parametrize("step", [0, 3, 4, 11])
def test_the_rows_of_a_step_do_not_depend_on_ranks_and_micro_batches(
    world_size: int, micro: int, step: int
) -> None:
    assert rows_of_step(step, world_size, micro) == rows_of_step(step, 1, 8)


def test_an_epoch_reads_every_row_once_and_the_next_in_another_order() -> None:
    stream = [row for step in range(37) for row in rows_of_step(step, 2, 4)]
    epochs = [stream[start : start + 37] for start in range(0, 8 * 37, 37)]
    assert all(sorted(epoch) == list(range(37)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == len(epochs)


@pytest.mark.parametrize(("world_size", "micro"), [(1, 4), (2, 4), (3, 2), (4, 8)])
@pytest.mark.parametrize("maximum", [None, 5, 100])
def test_an_evaluation_counts_every_row_once_with_equally_many_passes_per_rank(
    world_size: int, micro: int, maximum: int | None
) -> None:
    per_rank = [
        list(source_of(rank, world_size, micro, micro * world_size).evaluation_batches(maximum))
        for rank in range(world_size)
    ]
    counted = sorted(
        int(row[0]) - 10
        for batches in per_rank
        for batch in batches
        if batch.num_labels
        for row in batch.input_ids
    )
    assert counted == list(range(min(11, maximum or 11)))
    assert len({len(batches) for batches in per_rank}) == 1


def test_positions_restart_at_each_document() -> None:
    assert restarting_positions(np.array([2, 3, 1])).tolist() == [0, 1, 0, 1, 2, 0]


def test_rows_are_padded_to_the_longest_and_places_count_in_the_flattened_batch() -> None:
    short = Sample(np.array([7, 8], dtype=np.int32), np.ones(2, dtype=np.uint8), np.array([2]))
    long = Sample(np.arange(20, 29, dtype=np.int32), np.ones(9, dtype=np.uint8), np.array([4, 5]))
    rows = [
        MaskedRow(short.token_ids, np.array([1], dtype=np.int32), np.array([8], dtype=np.int32)),
        MaskedRow(long.token_ids, np.array([0, 8], dtype=np.int32), np.array([20, 28], dtype=np.int32)),
    ]
    batch = collate([short, long], rows, pad_token_id=1, isolate_documents=True, first_row=0)
    assert batch.input_ids.shape == (2, 16)
    assert batch.input_ids[0].tolist() == [7, 8] + [1] * 14
    assert batch.document_ids[0].tolist() == [0, 0] + [-1] * 14
    assert batch.document_ids[1].tolist() == [0] * 4 + [1] * 5 + [-1] * 7
    assert batch.position_ids[1].tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 4] + [0] * 7
    assert batch.input_ids.flatten()[batch.predicted_places].tolist() == batch.labels.tolist() == [8, 20, 28]
    assert (batch.num_tokens, batch.num_positions, batch.num_labels) == (11, 32, 3)


def test_the_prefetcher_gives_the_steps_in_their_order_from_any_start() -> None:
    source = source_of()
    with Prefetcher(source, 5) as prefetcher:
        for step in (5, 6, 7):
            expected = [dataclasses.astuple(batch) for batch in source.step_batches(step)]
            for got, want in zip(map(dataclasses.astuple, prefetcher.next_step()), expected, strict=True):
                assert all(
                    (a == b).all() if hasattr(a, "all") else a == b for a, b in zip(got, want, strict=True)
                )
