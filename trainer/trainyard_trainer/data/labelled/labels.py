"""Classes of a task: their names and numbers, how often each occurs, and what is refused of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainyard_api.errors import ConfigurationError, DataError
from trainyard_trainer.data.labelled.encode import NOT_PREDICTED
from trainyard_trainer.data.labelled.shards import MAXIMUM_CLASSES, ExampleShard, too_many_classes
from trainyard_trainer.data.labelled.task import LabelKind, has_classes

SHOWN_LABELS = 10
GIVEN = "spec.fineTuning.labels"


@dataclass(frozen=True)
class LabelSettings:
    """What is asked of the labels.

    Attributes:
        kind: their kind.
        given: names of the classes, in the order of their numbers; those of the training data when empty.
        where: the field of the spec that names them in records.
    """

    kind: LabelKind
    given: tuple[str, ...]
    where: str


def class_order(training_counts: Mapping[str, int], given: Sequence[str]) -> tuple[str, ...]:
    """Names of the classes by their numbers: as given, or sorted, whole numbers by their value."""
    if given:
        return tuple(given)
    names = [name for name, count in training_counts.items() if count]
    if all(name.removeprefix("-").isdecimal() and name.isascii() for name in names):
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    return tuple(sorted(names))


def count_labels(shards: Sequence[ExampleShard], examples: NDArray[np.void]) -> dict[str, int]:
    """How often each class is to be predicted in some examples; without classes nothing is counted.

    Args:
        shards: the shards.
        examples: `choose_step.EXAMPLE` [rows]; one that stands there twice counts twice.
    """
    counts: dict[str, int] = {}
    for number, shard in enumerate(shards):
        times = np.bincount(examples["example"][examples["shard"] == number], minlength=len(shard.lengths))
        for name, count in zip(shard.names, label_frequencies(shard, times), strict=True):
            if count:
                counts[name] = counts.get(name, 0) + count
    return counts


def label_frequencies(shard: ExampleShard, times: NDArray[np.int64]) -> list[int]:
    """How often each class of a shard occurs, where each example occurs so many times (int64 [examples])."""
    if not has_classes(shard.kind):
        return []
    times_of_labels = np.repeat(times, shard.label_counts)
    predicted = shard.labels != NOT_PREDICTED
    found = np.bincount(
        shard.labels[predicted], weights=times_of_labels[predicted], minlength=len(shard.names)
    )
    return [round(count) for count in found.tolist()]


def refuse_labels(
    names: Sequence[str],
    training: Mapping[str, int],
    validation: Mapping[str, int],
    settings: LabelSettings,
) -> None:
    """Refuse classes that cannot be learnt or judged.

    Raises:
        ConfigurationError: a class that is given has no example.
        DataError: a label is none of those given, validation has one that training lacks, or there are too
            few or too many.
    """
    if not has_classes(settings.kind):
        return
    known = set(names)
    for examples, counts in (("the training examples", training), ("held-out examples", validation)):
        unknown = [label for label in counts if label not in known]
        if unknown and settings.given:
            raise DataError(
                settings.where,
                f"{_shown(unknown)} of {examples}: none of {GIVEN}",
                f"Correct the records, or add the labels to {GIVEN}",
            )
    empty = [name for name in names if not training.get(name)]
    if empty:
        raise ConfigurationError(
            GIVEN,
            f"{_shown(empty)} without any training example",
            "Remove them, or add examples of them to the training sources",
        )
    unseen = [label for label in validation if label not in known]
    if unseen:
        raise DataError(
            settings.where,
            f"{_shown(unseen)} of held-out examples: training has none of them",
            "Add training examples of them, or remove the held-out ones; a class needs several examples",
        )
    if len(names) > MAXIMUM_CLASSES:
        raise too_many_classes(settings.where)
    if len(names) < (1 if settings.kind == "Classes" else 2):
        raise DataError(
            settings.where,
            f"there is only {_shown(names)}, so nothing can be learnt" if names else "no example has a label",
            "Name the field that holds the labels, or add examples of other classes",
        )


def _shown(labels: Sequence[str]) -> str:
    """Some labels, for people."""
    more = f" and {len(labels) - SHOWN_LABELS} more" if len(labels) > SHOWN_LABELS else ""
    noun = "the label" if len(labels) == 1 else "the labels"
    return f"{noun} {', '.join(map(repr, labels[:SHOWN_LABELS]))}{more}"
