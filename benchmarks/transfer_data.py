"""Labelled examples of the transfer benchmark: read, divided by their text, drawn, written as sources."""

import gzip
import hashlib
import json
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from email import message_from_string
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

MAXIMUM_CHARACTERS = 4000
"""Far more than the longest row that is trained on."""


class Example(Protocol):
    """What the two kinds of examples have in common."""

    @property
    def text(self) -> str:
        """What tells it from others."""

    @property
    def record(self) -> Mapping[str, Any]:
        """The fields of a source."""


@dataclass(frozen=True)
class Email:
    """One labelled e-mail."""

    text: str
    label: str

    @property
    def record(self) -> Mapping[str, Any]:
        """The fields of a source."""
        return {"text": self.text, "label": self.label}


@dataclass(frozen=True)
class Sentence:
    """One sentence and the part of speech of each of its words."""

    words: tuple[str, ...]
    tags: tuple[str, ...]

    @property
    def text(self) -> str:
        """The words between spaces."""
        return " ".join(self.words)

    @property
    def record(self) -> Mapping[str, Any]:
        """The fields of a source."""
        return {"words": self.words, "tags": self.tags}


Kind = TypeVar("Kind", bound=Example)


@dataclass(frozen=True)
class Parts(Generic[Kind]):
    """Examples that are kept apart by their text."""

    test: tuple[Kind, ...]
    """Never trained on, and no setting was chosen by them."""
    pool: tuple[Kind, ...]
    """What training examples are drawn from."""


def read_emails(file: Path) -> list[Email]:
    """The e-mails of the fetched corpus, in its order.

    Args:
        file: JSON Lines (gzip) with `text`, the whole e-mail, and `label`.
    """
    return [Email(subject_and_body(record["text"]), record["label"]) for record in _records(file)]


def read_sentences(file: Path, minimum_count: int) -> list[Sentence]:
    """The sentences of the fetched corpus that hold no rare tag, in its order.

    Args:
        file: JSON Lines (gzip) with `words` and `tags`.
        minimum_count: words that have a tag in the whole corpus; one with fewer is rare.
    """
    sentences = [Sentence(tuple(record["words"]), tuple(record["tags"])) for record in _records(file)]
    counts = Counter(tag for sentence in sentences for tag in sentence.tags)
    return [sentence for sentence in sentences if all(counts[tag] >= minimum_count for tag in sentence.tags)]


def subject_and_body(message: str) -> str:
    """What a person wrote of an e-mail.

    The other headers say on which machine and in which month it was collected, which differs between spam and
    the rest, so that a model could do without reading.
    """
    headers, _, body = message.replace("\r\n", "\n").partition("\n\n")
    first = headers.partition("\n")
    is_mailbox_line = first[0].startswith("From ")
    parsed = message_from_string(first[2] if is_mailbox_line else headers)
    subject = " ".join(str(parsed["Subject"] or "").split())
    return f"{subject}\n{body.strip()[:MAXIMUM_CHARACTERS]}"


def divide(examples: Sequence[Kind], num_test: int) -> Parts[Kind]:
    """Keep each different text once and divide by the hash of the text, so that no text is in both parts.

    Args:
        examples: all of them.
        num_test: examples of the test set.
    """
    once = {example.text: example for example in examples}
    ordered = sorted(once.values(), key=lambda example: hashlib.sha256(example.text.encode()).digest())
    return Parts(test=tuple(ordered[:num_test]), pool=tuple(ordered[num_test:]))


def draw(pool: Sequence[Kind], number: int, seed: int) -> list[Kind]:
    """Training examples of a seed; those of a smaller number are the first ones of a larger number.

    Args:
        pool: what to draw from.
        number: how many.
        seed: decides which.

    Raises:
        ValueError: the pool has fewer.
    """
    if number > len(pool):
        raise ValueError(f"{number} examples are wanted, and the pool has {len(pool)}")
    order = list(range(len(pool)))
    random.Random(seed).shuffle(order)  # noqa: S311 - a choice of samples, no secret
    return [pool[place] for place in order[:number]]


def write_source(examples: Sequence[Example], file: Path) -> Path:
    """Write examples as a JSON Lines source of a run."""
    file.write_text("".join(json.dumps(example.record) + "\n" for example in examples), encoding="utf-8")
    return file


def _records(file: Path) -> list[dict[str, Any]]:
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]
