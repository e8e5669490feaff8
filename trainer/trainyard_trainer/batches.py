"""From rows to the micro-batches of one rank: which rows, how they are padded, what is predicted.

Everything here is a pure function of (seed, step, rank), so that a resume or a change of world size needs one
integer, the step.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Literal, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray

from trainyard_api.plan import BatchPlan
from trainyard_trainer.data.dataset import PackedDataset, Sample
from trainyard_trainer.data.order import global_positions, sample_index
from trainyard_trainer.distillation.cache_entries import CachedPredictions
from trainyard_trainer.distillation.cached_rows import CachedRows
from trainyard_trainer.methods.masking import MaskedRow
from trainyard_trainer.methods.objective import Objective

LENGTH_MULTIPLE = 8
"""Rows are padded to a multiple of this many tokens, which matrix units prefer."""

Stream = Literal["train", "evaluation"]


class Batch(Protocol):
    """What the training loop knows of the arguments of one forward pass.

    Attributes:
        num_labels: predictions to make.
        num_tokens: tokens, padding not counted.
        num_positions: positions, padding counted.
        num_compared: places that it names for the comparison with a teacher; see `ComparedBatch`.
        first_row: number of its first row in the stream of all rows, which seeds dropout.
        loss_weight: weight of its predictions, by whose sum over a step the loss is divided.
    """

    @property
    def num_labels(self) -> int: ...  # noqa: D102 - see the class
    @property
    def num_tokens(self) -> int: ...  # noqa: D102
    @property
    def num_positions(self) -> int: ...  # noqa: D102
    @property
    def num_compared(self) -> int: ...  # noqa: D102
    @property
    def first_row(self) -> int: ...  # noqa: D102
    @property
    def loss_weight(self) -> float: ...  # noqa: D102

    def model_arguments(self, device: torch.device) -> tuple[torch.Tensor, ...]:
        """The tensors that the model's forward takes, in its order."""


class Supply(Protocol):
    """The batches of one rank, each a pure function of its step."""

    def step_batches(self, step: int) -> Sequence[Batch]:
        """The batches of optimizer step `step`, counted from 0."""

    def evaluation_batches(self, maximum_rows: int | None) -> Iterator[Batch]:
        """The batches of one evaluation; every rank gets the same number of them."""


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """The arguments of one forward pass, and what it counts.

    Attributes:
        input_ids: int64 [rows, length].
        position_ids: int64 [rows, length].
        document_ids: int64 [rows, length], -1 at padding.
        predicted_places: int64 [m], into the flattened batch.
        labels: int64 [m].
        num_tokens: tokens, padding not counted.
        first_row: number of its first row in the stream of all rows, which seeds dropout.
        rows: numbers of its rows in their data set.
        kept: what a cache keeps of the teacher at its places, in training from a cache.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    document_ids: torch.Tensor
    predicted_places: torch.Tensor
    labels: torch.Tensor
    num_tokens: int
    first_row: int
    rows: tuple[int, ...] = ()
    kept: CachedPredictions | None = None

    @property
    def num_positions(self) -> int:
        """Positions, padding counted."""
        return self.input_ids.numel()

    @property
    def num_compared(self) -> int:
        """It names no places."""
        return 0

    @property
    def num_labels(self) -> int:
        """Predictions to make."""
        return self.labels.numel()

    @property
    def loss_weight(self) -> float:
        """What the summed loss is divided by: every prediction weighs the same."""
        return float(self.num_labels)

    def model_arguments(self, device: torch.device) -> tuple[torch.Tensor, ...]:
        """The tensors that `LanguageModel.forward` takes, in its order; those of a cache follow them."""
        kept = () if self.kept is None else self.kept.tensors()
        tensors = (
            self.input_ids,
            self.position_ids,
            self.document_ids,
            self.predicted_places,
            self.labels,
            *kept,
        )
        return tuple(tensor.to(device, non_blocking=True) for tensor in tensors)


def collate(
    samples: Sequence[Sample],
    masked_rows: Sequence[MaskedRow],
    *,
    pad_token_id: int,
    isolate_documents: bool,
    first_row: int,
) -> MicroBatch:
    """Pad rows to the longest of them and flatten what is predicted."""
    length = padded_length(max(len(sample.token_ids) for sample in samples))
    input_ids = np.full((len(samples), length), pad_token_id, dtype=np.int64)
    position_ids = np.zeros((len(samples), length), dtype=np.int64)
    document_ids = np.full((len(samples), length), -1, dtype=np.int64)
    for index, (sample, masked) in enumerate(zip(samples, masked_rows, strict=True)):
        num_tokens = len(masked.token_ids)
        input_ids[index, :num_tokens] = masked.token_ids
        document_ids[index, :num_tokens] = np.repeat(
            np.arange(len(sample.document_lengths)), sample.document_lengths
        )
        lengths = sample.document_lengths if isolate_documents else np.array([num_tokens])
        position_ids[index, :num_tokens] = restarting_positions(lengths)
    places = [row.positions.astype(np.int64) + index * length for index, row in enumerate(masked_rows)]
    return MicroBatch(
        input_ids=torch.from_numpy(input_ids),
        position_ids=torch.from_numpy(position_ids),
        document_ids=torch.from_numpy(document_ids),
        predicted_places=torch.from_numpy(np.concatenate(places)),
        labels=torch.from_numpy(np.concatenate([row.labels for row in masked_rows]).astype(np.int64)),
        num_tokens=sum(len(sample.token_ids) for sample in samples),
        first_row=first_row,
    )


def padded_length(longest: int) -> int:
    """Positions of the rows of a batch whose longest one has so many tokens."""
    return -(-longest // LENGTH_MULTIPLE) * LENGTH_MULTIPLE


def restarting_positions(document_lengths: NDArray[np.integer]) -> NDArray[np.int64]:
    """0, 1, 2, ... for each document after the other: [2, 3] gives 0 1 0 1 2."""
    starts = np.cumsum(document_lengths) - document_lengths
    places = np.arange(int(document_lengths.sum()), dtype=np.int64)
    positions: NDArray[np.int64] = places - np.repeat(starts, document_lengths)
    return positions


@dataclass(frozen=True)
class BatchSource:
    """The micro-batches of one rank for every step of a run.

    Attributes:
        train: rows to train on.
        validation: rows to evaluate on.
        objective: what is predicted.
        batch: the batch arithmetic.
        rank: the rank that reads.
        seed: decides the order of the rows.
        pad_token_id: what fills the ends of rows.
        isolate_documents: whether positions restart at each document.
        cached: what a cache keeps of the teacher for the rows to train on; None without a cache.
    """

    train: PackedDataset
    validation: PackedDataset
    objective: Objective
    batch: BatchPlan
    rank: int
    seed: int
    pad_token_id: int
    isolate_documents: bool
    cached: CachedRows | None = None

    def step_batches(self, step: int) -> list[MicroBatch]:
        """The micro-batches of this rank for optimizer step `step`, counted from 0.

        Micro-batch m of rank r holds rows (m x world + r) x micro .. of the step, so the rows of a step are
        the same for every world size and micro-batch size.
        """
        plan = self.batch
        epochs, positions = global_positions(step, plan.global_batch_size, len(self.train))
        batches = []
        for accumulation in range(plan.accumulation_steps):
            start = (accumulation * plan.world_size + self.rank) * plan.micro_batch_size
            chosen = slice(start, start + plan.micro_batch_size)
            rows = [
                (int(epoch), int(sample_index(self.seed, int(epoch), int(position), len(self.train))))
                for epoch, position in zip(epochs[chosen], positions[chosen], strict=True)
            ]
            batch = self._assemble(self.train, "train", rows, step * plan.global_batch_size + start)
            if self.cached is not None:
                batch = replace(batch, kept=self.cached.of_rows([row for _, row in rows], batch))
            batches.append(batch)
        return batches

    def successive_rows(self, rows: range) -> MicroBatch:
        """Training rows by their numbers, as the first epoch shows them."""
        return self._assemble(self.train, "train", [(0, row) for row in rows], rows.start)

    def evaluation_batches(self, maximum_rows: int | None) -> Iterator[MicroBatch]:
        """The micro-batches of this rank for one evaluation; every rank gets the same number of them.

        A rank that runs out of rows repeats row 0 without labels, since under ZeRO-3 all ranks must call the
        model equally often.
        """
        num_rows = min(len(self.validation), maximum_rows or len(self.validation))
        micro = self.batch.micro_batch_size
        per_round = micro * self.batch.world_size
        for start in range(self.rank * micro, -(-num_rows // per_round) * per_round, per_round):
            rows = [(0, row) for row in range(start, min(start + micro, num_rows))]
            if rows:
                yield self._assemble(self.validation, "evaluation", rows, start)
            else:
                yield _without_labels(self._assemble(self.validation, "evaluation", [(0, 0)], start))

    def _assemble(
        self, dataset: PackedDataset, stream: Stream, rows: Sequence[tuple[int, int]], first_row: int
    ) -> MicroBatch:
        samples = [dataset.sample(row) for _, row in rows]
        masked = [
            self.objective.apply(sample, stream=stream, epoch=epoch, row=row)
            for sample, (epoch, row) in zip(samples, rows, strict=True)
        ]
        batch = collate(
            samples,
            masked,
            pad_token_id=self.pad_token_id,
            isolate_documents=self.isolate_documents,
            first_row=first_row,
        )
        return replace(batch, rows=tuple(row for _, row in rows))


def _without_labels(batch: MicroBatch) -> MicroBatch:
    nothing = torch.zeros(0, dtype=torch.int64)
    return MicroBatch(
        batch.input_ids,
        batch.position_ids,
        batch.document_ids,
        nothing,
        nothing,
        num_tokens=0,
        first_row=batch.first_row,
    )


class Prefetcher:
    """Assembles the next step's micro-batches in a thread while the current step computes."""

    def __init__(self, source: Supply, first_step: int) -> None:
        self._source = source
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches")
        self._step = first_step
        self._pending: Future[Sequence[Batch]] = self._executor.submit(source.step_batches, first_step)

    def next_step(self) -> Sequence[Batch]:
        """The micro-batches of the next step, in the order of steps."""
        batches = self._pending.result()
        self._step += 1
        self._pending = self._executor.submit(self._source.step_batches, self._step)
        return batches

    def __enter__(self) -> Self:
        """Nothing to open; see `__exit__`."""
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop the thread; the step it works on is finished and dropped."""
        self._executor.shutdown(wait=True, cancel_futures=True)
