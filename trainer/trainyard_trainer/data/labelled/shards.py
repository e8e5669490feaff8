"""Shards of encoded examples: arrays on disk, in which classes have numbers of the shard's own.

A shard NAME is NAME.tokens (int32), NAME.types (uint8), NAME.lengths (int32, tokens of each example),
NAME.hashes (uint64 [examples, 2], equal for equal inputs), NAME.labels and NAME.label_counts (int32, labels
of each example). Labels are float32 for numbers, int32 for classes (one for each token of word classes,
NOT_PREDICTED where there is none) and uint8 for tokens that are trained or not.
"""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainyard_api.errors import DataError
from trainyard_trainer.data.files import map_array, write_hashed
from trainyard_trainer.data.labelled.encode import NOT_PREDICTED, EncodedExample
from trainyard_trainer.data.labelled.task import LabelKind
from trainyard_trainer.data.manifest import FileRecord
from trainyard_trainer.data.normalize import document_hash

MAXIMUM_CLASSES = 10_000
"""More different labels than this are no classes, but another column."""

SHARD_TOKENS = 16 << 20
INT32 = np.dtype("<i4")
HASHES = np.dtype("<u8")
BYTES = np.dtype("u1")
LABELS: dict[LabelKind, np.dtype[Any]] = {
    "Class": INT32,
    "Classes": INT32,
    "WordClasses": INT32,
    "Number": np.dtype("<f4"),
    "TrainedTokens": BYTES,
}


@dataclass(frozen=True)
class ExampleShard:
    """One shard on disk.

    Attributes:
        folder: folder of the step that wrote it.
        name: name of the shard.
        source: number of the source.
        kind: kind of its labels.
        names: names of its classes, by the numbers in its labels.
    """

    folder: Path
    name: str
    source: int
    kind: LabelKind
    names: tuple[str, ...]

    @cached_property
    def token_ids(self) -> NDArray[np.int32]:
        """Tokens of all examples."""
        return self._map("tokens", INT32)

    @cached_property
    def token_type_ids(self) -> NDArray[np.uint8]:
        """Which text of a pair each token belongs to."""
        return self._map("types", BYTES)

    @cached_property
    def lengths(self) -> NDArray[np.int32]:
        """Tokens of each example."""
        return self._map("lengths", INT32)

    @cached_property
    def hashes(self) -> NDArray[np.uint64]:
        """Hashes of the inputs, uint64 [examples, 2]."""
        return self._map("hashes", HASHES).reshape(-1, 2)

    @cached_property
    def labels(self) -> NDArray[Any]:
        """Labels of all examples, one after the other."""
        return self._map("labels", LABELS[self.kind])

    @cached_property
    def label_counts(self) -> NDArray[np.int32]:
        """Labels of each example."""
        return self._map("label_counts", INT32)

    @cached_property
    def token_ends(self) -> NDArray[np.int64]:
        """Where the tokens of each example end."""
        return np.cumsum(self.lengths, dtype=np.int64)

    @cached_property
    def label_ends(self) -> NDArray[np.int64]:
        """Where the labels of each example end."""
        return np.cumsum(self.label_counts, dtype=np.int64)

    def tokens_of(self, example: int) -> slice:
        """Where the tokens of an example stand."""
        end = int(self.token_ends[example])
        return slice(end - int(self.lengths[example]), end)

    def labels_of(self, example: int) -> slice:
        """Where the labels of an example stand."""
        end = int(self.label_ends[example])
        return slice(end - int(self.label_counts[example]), end)

    def _map(self, ending: str, dtype: np.dtype[Any]) -> NDArray[Any]:
        return map_array(self.folder / f"{self.name}.{ending}", dtype)


@dataclass
class ExampleShards:
    """Writes examples to shards of bounded size.

    Attributes:
        folder: where.
        prefix: begins the names of the shards.
        kind: kind of the labels.
        where: the field of the spec that names the labels, for errors.
        files: all files written.
        names: names of the classes of each shard written.
    """

    folder: Path
    prefix: str
    kind: LabelKind
    where: str
    files: list[FileRecord] = field(default_factory=list)
    names: dict[str, list[str]] = field(default_factory=dict)
    _examples: list[EncodedExample] = field(default_factory=list)
    _labels: list[NDArray[Any]] = field(default_factory=list)
    _numbers: dict[str, int] = field(default_factory=dict)
    _num_tokens: int = 0

    def append(self, example: EncodedExample) -> None:
        """Add one example.

        Raises:
            DataError: there are more classes than a task can have.
        """
        self._examples.append(example)
        self._labels.append(self._labels_of(example))
        self._num_tokens += len(example.token_ids)
        if len(self._numbers) > MAXIMUM_CLASSES:
            raise too_many_classes(self.where)
        if self._num_tokens >= SHARD_TOKENS:
            self.flush()

    def flush(self) -> None:
        """Write what was added since the last shard."""
        if not self._examples:
            return
        name = f"{self.prefix}-{len(self.names):05d}"
        hashes = b"".join(document_hash(example.identity) for example in self._examples)
        arrays = {
            "tokens": np.concatenate([example.token_ids for example in self._examples]).astype(INT32),
            "types": np.concatenate([example.token_type_ids for example in self._examples]),
            "lengths": np.array([len(example.token_ids) for example in self._examples], dtype=INT32),
            "hashes": np.frombuffer(hashes, dtype=HASHES),
            "labels": np.concatenate(self._labels).astype(LABELS[self.kind]),
            "label_counts": np.array([len(labels) for labels in self._labels], dtype=INT32),
        }
        self.files += [
            write_hashed(self.folder, f"{name}.{ending}", array) for ending, array in arrays.items()
        ]
        self.names[name] = list(self._numbers)
        self._examples, self._labels, self._numbers, self._num_tokens = [], [], {}, 0

    def _labels_of(self, example: EncodedExample) -> NDArray[Any]:
        if self.kind == "Number":
            return np.array([example.number], dtype=np.float32)
        if self.kind == "TrainedTokens":
            return example.is_trained.astype(np.uint8)
        numbers = [self._numbers.setdefault(name, len(self._numbers)) for name in example.names]
        if self.kind != "WordClasses":
            return np.array(numbers, dtype=np.int32)
        labels = np.full(len(example.token_ids), NOT_PREDICTED, dtype=np.int32)
        labels[list(example.places)] = numbers
        return labels


def too_many_classes(where: str) -> DataError:
    """The error of labels that are no classes."""
    return DataError(
        where,
        f"there are more than {MAXIMUM_CLASSES} different labels",
        "Name the field that holds classes, or set fineTuning.problem to Regression for numbers",
    )
