"""Reading of prepared examples: `open_labelled`, then one sample for each number of an example."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainyard_api.errors import DataError
from trainyard_trainer.data.dataset import damaged, open_step, read_data_manifest
from trainyard_trainer.data.files import check_hashes, map_array
from trainyard_trainer.data.labelled.choose_step import EXAMPLE
from trainyard_trainer.data.labelled.encode import NOT_PREDICTED
from trainyard_trainer.data.labelled.shards import INT32, ExampleShard
from trainyard_trainer.data.labelled.task import LabelKind
from trainyard_trainer.data.manifest import DataManifest

Labels = int | NDArray[np.float32] | NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class LabelledSample:
    """One example.

    Attributes:
        token_ids: int32 [n], special tokens included.
        token_type_ids: uint8 [n], 1 in the second text of a pair.
        labels: the class number; float32 [k] of 0 and 1 (any classes); float32 [1] (a number); int32 [n],
            NOT_PREDICTED but at the first token of each word; or int32 [n], the token itself where the
            assistant wrote it, NOT_PREDICTED elsewhere.
    """

    token_ids: NDArray[np.int32]
    token_type_ids: NDArray[np.uint8]
    labels: Labels


@dataclass(frozen=True)
class LabelledDataset:
    """The examples to train on, or those held out.

    Attributes:
        shards: what was encoded.
        class_numbers_of: for each shard, the number of each of its classes; -1 for one that is not used.
        examples: `choose_step.EXAMPLE` [rows].
        lengths: tokens of each example, int32 [rows].
        kind: kind of the labels.
        num_classes: classes of the task.
        num_tokens: tokens of all examples, special ones included.
    """

    shards: tuple[ExampleShard, ...]
    class_numbers_of: tuple[NDArray[np.int32], ...]
    examples: NDArray[Any]
    lengths: NDArray[np.int32]
    kind: LabelKind
    num_classes: int
    num_tokens: int

    def __len__(self) -> int:
        return len(self.examples)

    def sample(self, index: int) -> LabelledSample:
        """The example with a number in 0 .. len - 1.

        Raises:
            IndexError: there is no such example.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"example {index} is not in 0 .. {len(self) - 1}")
        number, example = (int(value) for value in self.examples[index])
        shard = self.shards[number]
        tokens = shard.tokens_of(example)
        token_ids = np.array(shard.token_ids[tokens])
        found = np.array(shard.labels[shard.labels_of(example)])
        labels = self._labels(found, self.class_numbers_of[number], token_ids)
        return LabelledSample(token_ids, np.array(shard.token_type_ids[tokens]), labels)

    @cached_property
    def class_numbers(self) -> NDArray[np.int32]:
        """The class of each example that has exactly one, int32 [rows]."""
        numbers = np.zeros(len(self), dtype=np.int32)
        for number, shard in enumerate(self.shards):
            chosen = self.examples["shard"] == number
            found = shard.labels[self.examples["example"][chosen]]
            numbers[chosen] = self.class_numbers_of[number][found]
        return numbers

    def _labels(
        self, found: NDArray[Any], class_numbers: NDArray[np.int32], token_ids: NDArray[np.int32]
    ) -> Labels:
        if self.kind == "Class":
            return int(class_numbers[found[0]])
        if self.kind == "Number":
            return found.astype(np.float32)
        if self.kind == "Classes":
            has_class = np.zeros(self.num_classes, dtype=np.float32)
            has_class[class_numbers[found]] = 1.0
            return has_class
        if self.kind == "TrainedTokens":
            return np.where(found == 1, token_ids, NOT_PREDICTED).astype(np.int32)
        labels = np.full(len(found), NOT_PREDICTED, dtype=np.int32)
        predicted = found != NOT_PREDICTED
        labels[predicted] = class_numbers[found[predicted]]
        return labels


@dataclass(frozen=True)
class LabelledData:
    """Everything that training for a task needs to know about its data."""

    manifest: DataManifest
    """What was prepared, and from what."""
    tokenizer_folder: Path
    """The tokenizer; stock Transformers loads it."""
    train: LabelledDataset
    """Examples to train on."""
    validation: LabelledDataset
    """Examples to evaluate on."""
    prepared: Path
    """The prepared folder of the storage."""


def open_labelled(run_folder: Path) -> LabelledData:
    """Open what `prepare` made for a run with a task, after checking all files by size, the lists by hash.

    Raises:
        DataError: something is missing, damaged, from another version, or text without labels.
    """
    manifest = read_data_manifest(run_folder)
    prepared = (run_folder / manifest.prepared).resolve()
    steps = {step.name: step for step in manifest.steps}
    if "choose" not in steps:
        raise damaged(prepared, "the run's data has no labels")
    opened = {name: open_step(prepared / steps[name].folder, steps[name].content_hash) for name in _CHECKED}
    for name in _CHECKED:
        if problem := check_hashes(prepared / steps[name].folder, opened[name].files):
            raise damaged(prepared / steps[name].folder, problem)
    kind: LabelKind = opened["choose"].details["kind"]
    shards = []
    for number, step in enumerate(step for step in manifest.steps if step.name == "encode"):
        content = open_step(prepared / step.folder, step.content_hash)
        for name, names in content.details["shards"].items():
            shards.append(ExampleShard(prepared / step.folder, name, number, kind, tuple(names)))
    names = tuple(opened["choose"].details["names"])
    folder = prepared / steps["choose"].folder
    train, validation = (
        _open_split(folder, split, tuple(shards), kind, names) for split in ("train", "validation")
    )
    return LabelledData(manifest, prepared / steps["tokenizer"].folder, train, validation, prepared)


_CHECKED = ("tokenizer", "choose")


def _open_split(
    folder: Path, split: str, shards: tuple[ExampleShard, ...], kind: LabelKind, names: Sequence[str]
) -> LabelledDataset:
    examples = map_array(folder / f"{split}.examples", EXAMPLE)
    lengths = map_array(folder / f"{split}.lengths", INT32)
    if len(examples) != len(lengths):
        raise DataError(
            str(folder), f"{split}.lengths does not fit {split}.examples", "Delete it and run again"
        )
    numbers = {name: number for number, name in enumerate(names)}
    return LabelledDataset(
        shards=shards,
        class_numbers_of=tuple(
            np.array([numbers.get(name, -1) for name in shard.names], dtype=np.int32) for shard in shards
        ),
        examples=examples,
        lengths=lengths,
        kind=kind,
        num_classes=len(names),
        num_tokens=int(lengths.sum(dtype=np.int64)),
    )
