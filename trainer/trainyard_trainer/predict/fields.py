"""What predictions read of a record, and how they refuse what cannot be read."""

from typing import Any

from trainyard_api.errors import DataError
from trainyard_trainer.predict.records import InputRecord

SHOWN_FIELDS = 20


def text_of(record: InputRecord, field: str) -> str:
    """The text of a field.

    Raises:
        DataError: there is no such field, or it holds no text.
    """
    value = value_of(record, field)
    if not isinstance(value, str):
        raise _wrong_kind(record, field, value, "text", "Write a string")
    return characters_of(record, field, value)


def words_of(record: InputRecord, field: str) -> list[str]:
    """The words of a field: a list of them, or a text that white space divides.

    Raises:
        DataError: there is no such field, or it holds no words.
    """
    value = value_of(record, field)
    words = value.split() if isinstance(value, str) else value
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise _wrong_kind(record, field, value, "words", "Write a list of strings, or a text")
    return [characters_of(record, field, word) for word in words]


def messages_of(record: InputRecord, field: str, text_field: str) -> list[dict[str, str]]:
    """The messages of a field, or the text of another as the message of a user.

    Raises:
        DataError: there is neither, or nothing is left to answer.
    """
    if field not in record.fields and text_field in record.fields:
        return [{"role": "user", "content": text_of(record, text_field)}]
    value = value_of(record, field)
    is_list = isinstance(value, list) and all(_is_message(message) for message in value)
    if not is_list or not value:
        raise _wrong_kind(
            record, field, value, "messages", 'Write a list such as [{"role": "user", "content": "..."}]'
        )
    if value[-1]["role"] == "assistant":
        raise DataError(
            record.place, "its last message is the assistant's: nothing is left to answer", "Remove it"
        )
    return [
        {"role": message["role"], "content": characters_of(record, field, message["content"])}
        for message in value
    ]


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


def characters_of(record: InputRecord, field: str, text: str) -> str:
    """The text itself, where all of it are characters.

    Raises:
        DataError: it holds a lone surrogate, or came from bytes that are no UTF-8.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            record.place, f"{field!r} is not UTF-8, or holds a lone surrogate", "Save the file as UTF-8"
        ) from error
    return text


def _is_message(message: object) -> bool:
    """Whether an object has a role and a content."""
    return isinstance(message, dict) and all(
        isinstance(message.get(name), str) for name in ("role", "content")
    )


def _wrong_kind(record: InputRecord, field: str, value: object, wanted: str, remedy: str) -> DataError:
    return DataError(record.place, f"{field!r} holds {type(value).__name__}, not {wanted}", remedy)
