"""Values of a record's fields as a task needs them; what is not usable says why, for people."""

import json
import math
from typing import Any

ROLES = ("system", "user", "assistant", "tool")


class UnusableError(Exception):
    """A record that cannot be used; its text is the reason."""


def text_of(value: Any, field: str) -> str:
    """A text without lone surrogates, which are no characters.

    Raises:
        UnusableError: it is none.
    """
    if not isinstance(value, str):
        raise _wrong_type(value, field, "text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise UnusableError(f"field {field!r} is not UTF-8, or holds a lone surrogate") from error
    return value


def class_name(value: Any, field: str) -> str:
    """The name of a class: text, a whole number, or true and false.

    Raises:
        UnusableError: it is none of these, or empty.
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if not isinstance(value, str):
        raise _wrong_type(value, field, "a label (text or a whole number)")
    name = text_of(value, field).strip()
    if not name:
        raise UnusableError(f"field {field!r} holds an empty label")
    return name


def class_names(value: Any, field: str, *, is_csv: bool) -> list[str]:
    """The names of any number of classes; none is allowed.

    Raises:
        UnusableError: it is no list of labels.
    """
    return [class_name(each, field) for each in list_of(value, field, "labels", is_csv=is_csv)]


def number_of(value: Any, field: str, *, is_csv: bool) -> float:
    """A finite number.

    Raises:
        UnusableError: it is none.
    """
    if is_csv and isinstance(value, str):
        try:
            value = float(value)
        except ValueError as error:
            raise UnusableError(f"field {field!r} holds {value[:40]!r}, not a number") from error
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise _wrong_type(value, field, "a number")
    if not math.isfinite(value) or abs(value) > 3.0e38:
        raise UnusableError(f"field {field!r} holds {value}, not a finite number of 32 bits")
    return float(value)


def words_of(value: Any, field: str, *, is_csv: bool) -> list[str]:
    """A list of at least one word.

    Raises:
        UnusableError: it is none.
    """
    words = [text_of(word, field) for word in list_of(value, field, "words", is_csv=is_csv)]
    if not words:
        raise UnusableError(f"field {field!r} holds no words")
    return words


def messages_of(value: Any, field: str, *, is_csv: bool) -> list[dict[str, str]]:
    """The messages of a conversation, at least one of them the assistant's.

    Raises:
        UnusableError: it is none.
    """
    messages = conversation_of(value, field, is_csv=is_csv)
    if not any(message["role"] == "assistant" for message in messages):
        raise UnusableError(f"field {field!r} holds no message of the assistant to learn from")
    return messages


def conversation_of(value: Any, field: str, *, is_csv: bool) -> list[dict[str, str]]:
    """The messages of a conversation, whoever wrote them.

    Raises:
        UnusableError: it is none.
    """
    messages = []
    for message in list_of(value, field, "messages", is_csv=is_csv):
        if not isinstance(message, dict) or not {"role", "content"} <= message.keys():
            raise UnusableError(f"field {field!r} holds a message without role and content")
        if message["role"] not in ROLES:
            shown = str(message["role"])[:40]
            known = ", ".join(ROLES)
            raise UnusableError(f"field {field!r} holds the role {shown!r}, which is none of {known}")
        messages.append({"role": message["role"], "content": text_of(message["content"], field)})
    return messages


def list_of(value: Any, field: str, content: str, *, is_csv: bool) -> list[Any]:
    """A list; in CSV it is written as JSON.

    Raises:
        UnusableError: it is none.
    """
    if is_csv and isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise UnusableError(f"field {field!r} holds no list of {content} in JSON: {error}") from error
    if not isinstance(value, list):
        raise _wrong_type(value, field, f"a list of {content}")
    return value


def _wrong_type(value: Any, field: str, wanted: str) -> UnusableError:
    return UnusableError(f"field {field!r} holds {type(value).__name__}, not {wanted}")
