"""E-mails for the transfer benchmark: read, cut to what a person wrote, divided, and written as sources."""

import gzip
import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from email import message_from_string
from pathlib import Path

MAXIMUM_CHARACTERS = 4000
"""Far more than the longest row that is trained on."""


@dataclass(frozen=True)
class Email:
    """One labelled e-mail."""

    text: str
    label: str


@dataclass(frozen=True)
class Emails:
    """E-mails that are kept apart by their text."""

    test: tuple[Email, ...]
    """Never trained on, and no setting was chosen by them."""
    pool: tuple[Email, ...]
    """What labelled training e-mails are drawn from."""


def read_emails(file: Path) -> list[Email]:
    """The e-mails of the fetched corpus, in its order.

    Args:
        file: JSON Lines (gzip) with `text`, the whole e-mail, and `label`.
    """
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        records = [json.loads(line) for line in lines]
    return [Email(subject_and_body(record["text"]), record["label"]) for record in records]


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


def divide(emails: Sequence[Email], num_test: int) -> Emails:
    """Keep each different text once and divide by the hash of the text, so that no text is in both parts.

    Args:
        emails: all of them.
        num_test: e-mails of the test set.
    """
    once = {message.text: message for message in emails}
    ordered = sorted(once.values(), key=lambda message: hashlib.sha256(message.text.encode()).digest())
    return Emails(test=tuple(ordered[:num_test]), pool=tuple(ordered[num_test:]))


def draw(pool: Sequence[Email], num_labels: int, seed: int) -> list[Email]:
    """Training e-mails of a seed; those of a smaller number are the first ones of a larger number.

    Args:
        pool: what to draw from.
        num_labels: how many.
        seed: decides which.

    Raises:
        ValueError: the pool has fewer.
    """
    if num_labels > len(pool):
        raise ValueError(f"{num_labels} labels are wanted, and the pool has {len(pool)}")
    order = list(range(len(pool)))
    random.Random(seed).shuffle(order)  # noqa: S311 - a choice of samples, no secret
    return [pool[number] for number in order[:num_labels]]


def write_source(emails: Sequence[Email], file: Path) -> Path:
    """Write e-mails as a JSON Lines source of a run."""
    lines = [json.dumps({"text": message.text, "label": message.label}) + "\n" for message in emails]
    file.write_text("".join(lines), encoding="utf-8")
    return file
