"""What predictions read of a record: the values that training reads, and texts where people write them so."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from trainyard_api.errors import DataError
from trainyard_trainer.data.labelled import values
from trainyard_trainer.predict.records import InputRecord

SHOWN_FIELDS = 20


def text_of(record: InputRecord, field: str) -> str:
    """The text of a field.

    Raises:
        DataError: there is no such field, or it holds no text.
    """
    with reading(record):
        return values.text_of(value_of(record, field), field)


def words_of(record: InputRecord, field: str) -> list[str]:
    """The words of a field: a list of them, maybe in JSON, or a text that white space divides.

    Raises:
        DataError: there is no such field, or it holds no words.
    """
    value = value_of(record, field)
    words = _words_of_text(value) if isinstance(value, str) else value
    with reading(record):
        return values.words_of(words, field, is_csv=False) if words != [] else []


def messages_of(record: InputRecord, field: str, text_field: str) -> list[dict[str, str]]:
    """The messages of a field, or the text of another as the message of a user.

    Raises:
        DataError: there is neither, or nothing is left to answer.
    """
    if field not in record.fields and text_field in record.fields:
        return [{"role": "user", "content": text_of(record, text_field)}]
    with reading(record):
        messages = values.conversation_of(value_of(record, field), field, is_csv=True)
    if not messages or messages[-1]["role"] == "assistant":
        problem = "its last message is the assistant's" if messages else "it has no messages"
        raise DataError(
            record.place,
            f"{problem}: nothing is left to answer",
            'End it with a message of the user, such as {"role": "user", "content": "..."}',
        )
    return messages


def value_of(record: InputRecord, field: str) -> Any:
    """The value of a field.

    Raises:
        DataError: there is no such field.
    """
    if field not in record.fields:
        found = ", ".join(sorted(map(str, record.fields))[:SHOWN_FIELDS]) or "nothing"
        raise DataError(
            record.place,
            f"it has no field {field!r}, only {found}",
            "Name the fields as the run's first source does",
        )
    return record.fields[field]


def _words_of_text(text: str) -> list[Any]:
    """The words of a list in JSON, as CSV holds it, or those that white space divides."""
    try:
        words = json.loads(text)
    except (ValueError, RecursionError):
        words = None
    is_list = isinstance(words, list) and all(isinstance(word, str) for word in words)
    return list(words) if is_list else text.split()


@contextmanager
def reading(record: InputRecord) -> Iterator[None]:
    """What training would set aside, as an error that names the record.

    Raises:
        DataError: it was set aside.
    """
    try:
        yield
    except values.UnusableError as error:
        raise DataError(record.place, str(error), "Write it as the training data's records") from error
