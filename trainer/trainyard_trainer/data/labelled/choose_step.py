"""Step choose: which examples are trained on and which are held out, and how often each class occurs.

Of examples with equal inputs one stays: the first of those that are held out whole, else the first of all, so
that no example is both learnt and judged. Of the examples that their hashes would hold out, the first with a
label that no training example has is trained on: a rare class would be judged without being learnt.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trainyard_api.spec import Source
from trainyard_trainer.data.files import write_hashed
from trainyard_trainer.data.frequencies import entropy
from trainyard_trainer.data.labelled.encode import NOT_PREDICTED
from trainyard_trainer.data.labelled.labels import (
    LabelSettings,
    class_order,
    count_labels,
    label_frequencies,
    refuse_labels,
)
from trainyard_trainer.data.labelled.shards import INT32, ExampleShard
from trainyard_trainer.data.labelled.task import has_classes
from trainyard_trainer.data.split import copies_per_epoch, is_validation
from trainyard_trainer.data.steps import StepOutcome

EXAMPLE = np.dtype([("shard", "<u4"), ("example", "<u4")])
SPLITS = ("train", "validation")


@dataclass(frozen=True)
class ChooseOptions:
    """What decides the choice.

    Attributes:
        sources: the sources, by number.
        validation_fraction: of the examples of sources whose split is ByHash.
        exact: whether examples with equal inputs are kept only once.
        labels: what is asked of the labels.
        vocabulary_size: largest token id plus one.
        special_token_ids: tokens that are no text.
    """

    sources: tuple[Source, ...]
    validation_fraction: float
    exact: bool
    labels: LabelSettings
    vocabulary_size: int
    special_token_ids: tuple[int, ...]


@dataclass(frozen=True)
class Choice:
    """Which examples are used.

    Attributes:
        train: EXAMPLE [rows], repeated as the weights say.
        validation: EXAMPLE [rows].
        num_documents: different examples to train on.
        duplicates: examples of each source that equal another.
        num_moved: examples that are trained on for their rare labels.
    """

    train: NDArray[np.void]
    validation: NDArray[np.void]
    num_documents: int
    duplicates: tuple[int, ...]
    num_moved: int


def choose_examples(shards: Sequence[ExampleShard], options: ChooseOptions) -> Choice:
    """Divide the examples of all shards; takes about 60 bytes of memory for each."""
    sizes = [len(shard.lengths) for shard in shards]
    places = np.zeros(sum(sizes), dtype=EXAMPLE)
    places["shard"] = np.repeat(np.arange(len(shards)), sizes)
    places["example"] = np.concatenate([np.arange(size) for size in sizes]) if sizes else 0
    sources = np.array([shard.source for shard in shards])[places["shard"]]
    hashes = np.concatenate([shard.hashes for shard in shards])
    held_out = _held_out(hashes, sources, options)
    is_repeated = repeated(hashes, held_out) if options.exact else np.zeros(len(hashes), dtype=np.bool_)
    weights = np.array([source.weight for source in options.sources])
    copies = np.zeros(len(hashes), dtype=np.int64)
    for number in np.unique(sources):
        chosen = sources == number
        copies[chosen] = copies_per_epoch(hashes[chosen], float(weights[number]))
    by_hash = np.array([source.split == "ByHash" for source in options.sources])[sources]
    is_moved = first_with_unseen_labels(
        shards,
        np.where(held_out | is_repeated, 0, copies),
        held_out & by_hash & ~is_repeated,
        options.labels.given,
    )
    held_out &= ~is_moved
    copies[is_moved] = np.maximum(copies[is_moved], 1)
    is_trained = ~held_out & ~is_repeated
    return Choice(
        train=np.repeat(places[is_trained], copies[is_trained]),
        validation=places[held_out & ~is_repeated],
        num_documents=int((is_trained & (copies > 0)).sum()),
        duplicates=tuple(
            int((is_repeated & (sources == number)).sum()) for number in range(len(options.sources))
        ),
        num_moved=int(is_moved.sum()),
    )


def first_with_unseen_labels(
    shards: Sequence[ExampleShard],
    copies: NDArray[np.int64],
    candidates: NDArray[np.bool_],
    given: Sequence[str],
) -> NDArray[np.bool_]:
    """The first candidate with each label that no training example has, bool [examples of all shards].

    Args:
        shards: the shards.
        copies: how often each example is trained on, int64 [examples of all shards].
        candidates: examples that may be chosen, bool [examples of all shards].
        given: the only labels that there may be; any when empty.
    """
    ends = np.cumsum([len(shard.lengths) for shard in shards])
    seen: set[str] = set()
    for shard, times in zip(shards, np.split(copies, ends[:-1]), strict=True):
        frequencies = label_frequencies(shard, times)
        seen.update(name for name, count in zip(shard.names, frequencies, strict=True) if count)
    chosen = np.zeros(len(candidates), dtype=np.bool_)
    for shard, end in zip(shards, ends.tolist(), strict=True):
        of_shard = slice(end - len(shard.lengths), end)
        for number, owner in _first_owners(shard, candidates[of_shard]):
            name = shard.names[number]
            if name not in seen and (not given or name in given):
                seen.add(name)
                chosen[of_shard][owner] = True
    return chosen


def _first_owners(shard: ExampleShard, candidates: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Each class of a shard that a candidate has, with the first that has it."""
    if not shard.names:
        return []
    predicted = np.flatnonzero(shard.labels != NOT_PREDICTED)
    owners = np.searchsorted(shard.label_ends, predicted, side="right")
    usable = candidates[owners]
    numbers, firsts = np.unique(shard.labels[predicted[usable]].astype(np.int64), return_index=True)
    return list(zip(numbers.tolist(), owners[usable][firsts].tolist(), strict=True))


def repeated(hashes: NDArray[np.uint64], held_out: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Whether another example with the same hash stays in the place of each example, bool [n].

    Args:
        hashes: uint64 [n, 2].
        held_out: bool [n]; of equal examples a held-out one stays.
    """
    order = np.lexsort((np.arange(len(hashes)), ~held_out, hashes[:, 1], hashes[:, 0]))
    same = (hashes[order][1:] == hashes[order][:-1]).all(axis=1)
    marks = np.zeros(len(hashes), dtype=np.bool_)
    marks[order[1:][same]] = True
    return marks


def choose_step(shards: Sequence[ExampleShard], options: ChooseOptions, folder: Path) -> StepOutcome:
    """Choose, count the labels, refuse what cannot be trained on, and write both lists.

    Raises:
        DataError: names the field of labels or the split that cannot work.
    """
    choice = choose_examples(shards, options)
    examples = {"train": choice.train, "validation": choice.validation}
    kind = options.labels.kind
    counted = {split: count_labels(shards, examples[split]) for split in SPLITS}
    names = class_order(counted["train"], options.labels.given) if has_classes(kind) else ()
    refuse_labels(names, counted["train"], counted["validation"], options.labels)
    counts = {
        "documents": choice.num_documents,
        "duplicates": sum(choice.duplicates),
        "moved": choice.num_moved,
    }
    files = []
    for split, chosen in examples.items():
        lengths = _of_each(shards, chosen, "lengths")
        counts |= {
            f"{split}_documents": choice.num_documents if split == "train" else len(chosen),
            f"{split}_pieces": len(chosen),
            f"{split}_rows": len(chosen),
            f"{split}_tokens": int(lengths.sum()),
        }
        files += [
            write_hashed(folder, f"{split}.examples", chosen),
            write_hashed(folder, f"{split}.lengths", lengths.astype(INT32)),
        ]
    details = {
        "perSource": list(choice.duplicates),
        "names": list(names),
        "trainingCounts": [counted["train"][name] for name in names],
        "validationCounts": [counted["validation"].get(name, 0) for name in names],
        **_losses_of_frequencies(shards, choice.train, counted["train"], options),
    }
    return StepOutcome(tuple(files), counts, details)


def _held_out(
    hashes: NDArray[np.uint64], sources: NDArray[np.int64], options: ChooseOptions
) -> NDArray[np.bool_]:
    splits = np.array([source.split for source in options.sources])[sources]
    held_out: NDArray[np.bool_] = (splits == "Validation") | (
        (splits == "ByHash") & is_validation(hashes, options.validation_fraction)
    )
    return held_out


def _of_each(shards: Sequence[ExampleShard], examples: NDArray[np.void], name: str) -> NDArray[np.int64]:
    """An array of the shards at each example, int64 [rows]."""
    values = np.zeros(len(examples), dtype=np.int64)
    for number, shard in enumerate(shards):
        chosen = examples["shard"] == number
        values[chosen] = getattr(shard, name)[examples["example"][chosen]]
    return values


def _losses_of_frequencies(
    shards: Sequence[ExampleShard],
    examples: NDArray[np.void],
    counts: dict[str, int],
    options: ChooseOptions,
) -> dict[str, float]:
    """What a model without context attains: see `unigramEntropy` and `frequencyLoss` of the data manifest."""
    tokens = np.zeros(options.vocabulary_size, dtype=np.int64)
    trained = np.zeros(options.vocabulary_size, dtype=np.int64)
    numbers = []
    for number, shard in enumerate(shards):
        times = np.bincount(examples["example"][examples["shard"] == number], minlength=len(shard.lengths))
        of_tokens = np.repeat(times, shard.lengths)
        tokens += np.bincount(shard.token_ids, weights=of_tokens, minlength=len(tokens)).astype(np.int64)
        if options.labels.kind == "TrainedTokens":
            weights = of_tokens * shard.labels
            trained += np.bincount(shard.token_ids, weights=weights, minlength=len(tokens)).astype(np.int64)
        elif options.labels.kind == "Number":
            numbers.append(np.repeat(shard.labels, times))
    tokens[list(options.special_token_ids)] = 0
    loss = entropy(np.array(list(counts.values()), dtype=np.int64))
    if options.labels.kind == "TrainedTokens":
        loss = entropy(trained)
    elif options.labels.kind == "Number":
        loss = float(np.concatenate(numbers).var()) if len(examples) else 0.0
    elif options.labels.kind == "Classes":
        rows = len(examples)
        each = [entropy(np.array([count, rows - count], dtype=np.int64)) for count in counts.values()]
        loss = float(np.mean(each)) if each else 0.0
    return {"unigramEntropy": entropy(tokens), "frequencyLoss": loss}
