"""From labelled examples to the micro-batches of one rank: which examples, in which order, how padded.

Everything here is a pure function of (seed, step, rank). Within an optimizer step the examples are sorted by
length before they are dealt, so that a micro-batch holds rows of similar length and little padding; which
examples a step holds does not depend on it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from trainyard_api.plan import BatchPlan, RunPlan
from trainyard_api.spec_objectives import ClassBalance
from trainyard_trainer.batches import padded_length
from trainyard_trainer.data.labelled.class_weights import loss_weights
from trainyard_trainer.data.labelled.dataset import LabelledData, LabelledDataset, LabelledSample
from trainyard_trainer.data.labelled.encode import NOT_PREDICTED
from trainyard_trainer.data.labelled.task import LabelKind, labelled_task
from trainyard_trainer.data.order import global_positions, mix_64_array, round_keys, sample_indices

FILLER = -1
"""Number of an example that only keeps the ranks in step."""

JUDGED_SEED = 0
"""Decides which held-out examples are judged where not all are; not the run's seed, so that runs compare."""


@dataclass(frozen=True, slots=True)
class TaskBatch:
    """The arguments of one forward pass, and what it counts.

    Attributes:
        input_ids: int64 [rows, length].
        attention_mask: int64 [rows, length], 0 at padding.
        token_type_ids: int64 [rows, length], 1 in the second text of a pair.
        labels: int64 [rows] (one class); float32 [rows, k] of 0 and 1 (any classes); float32 [rows, 1] (a
            number); int64 [rows, length] with NOT_PREDICTED where nothing is predicted: the class of a word
            at its first token, or the token to be predicted after each place.
        example_ids: numbers of the examples in their data set, int64 [rows]; FILLER in a row that does not
            count.
        num_labels: predictions to make.
        num_tokens: tokens, padding not counted.
        first_row: number of its first row in the stream of all rows, which seeds dropout.
        loss_weight: sum of the weights of its predictions.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    token_type_ids: torch.Tensor
    labels: torch.Tensor
    example_ids: torch.Tensor
    num_labels: int
    num_tokens: int
    first_row: int
    loss_weight: float

    @property
    def num_positions(self) -> int:
        """Positions, padding counted."""
        return self.input_ids.numel()

    @property
    def num_compared(self) -> int:
        """It names no places."""
        return 0

    def model_arguments(self, device: torch.device) -> tuple[torch.Tensor, ...]:
        """The tensors that `TaskModel.forward` takes, in its order."""
        tensors = (self.input_ids, self.attention_mask, self.token_type_ids, self.labels, self.example_ids)
        return tuple(tensor.to(device, non_blocking=True) for tensor in tensors)


@dataclass(frozen=True)
class Collator:
    """Puts samples of one task into tensors.

    Attributes:
        kind: kind of the labels.
        pad_token_id: what fills the ends of rows.
        class_weights: weight of each class in the loss, float32 [k]; None where all are 1.
    """

    kind: LabelKind
    pad_token_id: int
    class_weights: NDArray[np.float32] | None

    def collate(
        self, samples: Sequence[LabelledSample], example_ids: Sequence[int], first_row: int
    ) -> TaskBatch:
        """Pad rows to the longest of them.

        Args:
            samples: the rows.
            example_ids: their numbers.
            first_row: see `TaskBatch`.
        """
        length = padded_length(max(len(sample.token_ids) for sample in samples))
        input_ids = np.full((len(samples), length), self.pad_token_id, dtype=np.int64)
        attention_mask = np.zeros_like(input_ids)
        token_type_ids = np.zeros_like(input_ids)
        for index, sample in enumerate(samples):
            num_tokens = len(sample.token_ids)
            input_ids[index, :num_tokens] = sample.token_ids
            attention_mask[index, :num_tokens] = 1
            token_type_ids[index, :num_tokens] = sample.token_type_ids
        labels = self._labels(samples, length)
        num_labels, loss_weight = self._weight(labels)
        return TaskBatch(
            input_ids=torch.from_numpy(input_ids),
            attention_mask=torch.from_numpy(attention_mask),
            token_type_ids=torch.from_numpy(token_type_ids),
            labels=torch.from_numpy(labels),
            example_ids=torch.tensor(list(example_ids), dtype=torch.int64),
            num_labels=num_labels,
            num_tokens=int(attention_mask.sum()),
            first_row=first_row,
            loss_weight=loss_weight,
        )

    def filler(self, sample: LabelledSample, first_row: int) -> TaskBatch:
        """A batch that predicts nothing, for a rank that has no rows left."""
        batch = self.collate([sample], [FILLER], first_row)
        labels = batch.labels
        if self.kind in {"WordClasses", "TrainedTokens"}:
            labels = torch.full_like(labels, NOT_PREDICTED)
        return replace(batch, labels=labels, num_labels=0, num_tokens=0, loss_weight=0.0)

    def _labels(
        self, samples: Sequence[LabelledSample], length: int
    ) -> NDArray[np.int64] | NDArray[np.float32]:
        if self.kind == "Class":
            return np.array([sample.labels for sample in samples], dtype=np.int64)
        if self.kind in {"Classes", "Number"}:
            return np.stack([np.asarray(sample.labels, dtype=np.float32) for sample in samples])
        labels = np.full((len(samples), length), NOT_PREDICTED, dtype=np.int64)
        shift = 1 if self.kind == "TrainedTokens" else 0
        for index, sample in enumerate(samples):
            own = np.asarray(sample.labels)[shift:]
            labels[index, : len(own)] = own
        return labels

    def _weight(self, labels: NDArray[np.int64] | NDArray[np.float32]) -> tuple[int, float]:
        """Predictions to make, and the sum of their weights."""
        weights = self.class_weights
        if self.kind == "Number":
            return len(labels), float(len(labels))
        if self.kind == "Classes":
            of_row = float(labels.shape[1]) if weights is None else float(weights.sum(dtype=np.float64))
            return labels.size, len(labels) * of_row
        predicted = labels[labels != NOT_PREDICTED].astype(np.int64)
        if weights is None:
            return len(predicted), float(len(predicted))
        return len(predicted), float(weights[predicted].sum(dtype=np.float64))


@dataclass(frozen=True)
class TaskBatchSource:
    """The micro-batches of one rank for every step of a run with a task.

    Attributes:
        train: examples to train on.
        validation: examples to evaluate on.
        collator: makes tensors of them.
        batch: the batch arithmetic.
        rank: the rank that reads.
        seed: decides the order of the examples.
        weighted_sampling: whether every class is drawn equally often, with replacement.
    """

    train: LabelledDataset
    validation: LabelledDataset
    collator: Collator
    batch: BatchPlan
    rank: int
    seed: int
    weighted_sampling: bool = False

    def step_batches(self, step: int) -> list[TaskBatch]:
        """The micro-batches of this rank for optimizer step `step`, counted from 0.

        Of the rows of the step, by length, micro-batch m of rank r holds those from (m x world + r) x micro
        on, so that the ranks work on similar lengths at the same time.
        """
        plan = self.batch
        examples = by_length(self.examples_of_step(step), self.train.lengths)
        batches = []
        for accumulation in range(plan.accumulation_steps):
            start = (accumulation * plan.world_size + self.rank) * plan.micro_batch_size
            chosen = examples[start : start + plan.micro_batch_size].tolist()
            first_row = step * plan.global_batch_size + start
            batches.append(self._assemble(self.train, chosen, first_row))
        return batches

    def examples_of_step(self, step: int) -> NDArray[np.int64]:
        """The examples of a step over all ranks, int64 [globalBatchSize]."""
        size = self.batch.global_batch_size
        if self.weighted_sampling:
            numbers = step * size + np.arange(size, dtype=np.int64)
            return balanced_draws(self.seed, numbers, self._examples_by_class)
        epochs, positions = global_positions(step, size, len(self.train))
        return sample_indices(self.seed, epochs, positions, len(self.train))

    def evaluation_batches(self, maximum_rows: int | None) -> Iterator[TaskBatch]:
        """The micro-batches of this rank for one evaluation; every rank gets the same number of them.

        They go through the model by length. A rank that runs out of rows gets a batch that does not count,
        since under ZeRO-3 all ranks must call the model equally often.
        """
        examples = by_length(self.judged_examples(maximum_rows), self.validation.lengths)
        num_rows = len(examples)
        micro = self.batch.micro_batch_size
        per_round = micro * self.batch.world_size
        for start in range(self.rank * micro, -(-num_rows // per_round) * per_round, per_round):
            chosen = examples[start : start + micro].tolist()
            if chosen:
                yield self._assemble(self.validation, chosen, start)
            else:
                yield self.collator.filler(self.validation.sample(int(examples[0])), start)

    def judged_examples(self, maximum_rows: int | None) -> NDArray[np.int64]:
        """The held-out examples of an evaluation, int64 [rows]; the same ones in every run on this data.

        Where not all are judged they are drawn from all: records are often sorted by their labels, so that
        the first ones may all have the same.
        """
        num_examples = len(self.validation)
        numbers = np.arange(min(num_examples, maximum_rows or num_examples), dtype=np.int64)
        if len(numbers) == num_examples:
            return numbers
        return sample_indices(JUDGED_SEED, np.zeros_like(numbers), numbers, num_examples)

    @cached_property
    def _examples_by_class(self) -> "ExamplesByClass":
        return ExamplesByClass.of(self.train.class_numbers, self.train.num_classes)

    def _assemble(self, dataset: LabelledDataset, examples: list[int], first_row: int) -> TaskBatch:
        samples = [dataset.sample(example) for example in examples]
        return self.collator.collate(samples, examples, first_row)


def build_task_batches(plan: RunPlan, data: LabelledData, rank: int) -> TaskBatchSource:
    """The batches of a rank as the run's task asks for them.

    Raises:
        ConfigurationError: weights are given for other classes than those of the data.
    """
    task, labels = labelled_task(plan.spec), data.manifest.labels
    balance = ClassBalance() if task is None else task.class_balance
    weights = None if labels is None else loss_weights(balance, labels)
    return TaskBatchSource(
        train=data.train,
        validation=data.validation,
        collator=Collator(data.train.kind, data.manifest.tokenizer.pad_token_id, weights),
        batch=plan.batch,
        rank=rank,
        seed=plan.spec.training.seed,
        weighted_sampling=balance.weighted_sampling,
    )


def by_length(examples: NDArray[np.int64], lengths: NDArray[np.int32]) -> NDArray[np.int64]:
    """Examples by their lengths; of equal lengths in the order given."""
    ordered: NDArray[np.int64] = examples[np.argsort(lengths[examples], kind="stable")]
    return ordered


@dataclass(frozen=True)
class ExamplesByClass:
    """The examples of each class.

    Attributes:
        examples: those of the first class, then those of the second, and so on, int64 [n].
        starts: where each class begins, int64 [k].
        sizes: examples of each class, int64 [k].
    """

    examples: NDArray[np.int64]
    starts: NDArray[np.int64]
    sizes: NDArray[np.int64]

    @classmethod
    def of(cls, class_numbers: NDArray[np.integer], num_classes: int) -> "ExamplesByClass":
        """Sort examples by their classes.

        Args:
            class_numbers: class of each example, integers [n].
            num_classes: k.
        """
        sizes = np.bincount(class_numbers, minlength=num_classes).astype(np.int64)
        return cls(np.argsort(class_numbers, kind="stable"), np.cumsum(sizes) - sizes, sizes)


def balanced_draws(seed: int, numbers: NDArray[np.int64], by_class: ExamplesByClass) -> NDArray[np.int64]:
    """The examples of some draws: of k draws in a row each class gets one, and its example is any of it.

    Args:
        seed: seed of the run.
        numbers: of the draws in the stream of all draws, counted from 0.
        by_class: examples of each class, at least one each.

    Returns:
        One example for each draw, int64.
    """
    num_classes = len(by_class.sizes)
    key = np.uint64(round_keys(seed, num_classes)[0])
    choices = mix_64_array(mix_64_array(numbers.astype(np.uint64)) ^ key)
    classes = sample_indices(seed, numbers // num_classes, numbers % num_classes, num_classes)
    chosen = (choices % by_class.sizes[classes].astype(np.uint64)).astype(np.int64)
    drawn: NDArray[np.int64] = by_class.examples[by_class.starts[classes] + chosen]
    return drawn
