"""Whether a podTemplate has only fields that pods have, each with a value of its kind.

The API server drops an unknown field of a pod with no more than a warning, so a mistyped nodeSelector would
place the pods anywhere. The fields come from the models of the Kubernetes client.
"""

import re
from collections.abc import Iterator
from difflib import get_close_matches
from typing import Any

from kubernetes.aio.client import models

from trainyard_api.problems import Problem
from trainyard_api.quantities import parse_quantity

_COLLECTION = re.compile(r"(?P<kind>List|Dict)\[(?:str, )?(?P<item>.+)\]")
_QUANTITIES = frozenset({"limits", "requests", "overhead", "sizeLimit", "divisor"})
"""Fields that hold quantities, which the models know only as text."""
_PLAIN_KINDS: dict[str, tuple[type, str]] = {
    "str": (str, "text"),
    "int": (int, "a whole number"),
    "bool": (bool, "true or false"),
    "datetime": (str, "a time as text"),
}


def field_problems(template: dict[str, Any], path: str) -> Iterator[Problem]:
    """Unknown fields and values of a wrong kind in a pod template; directives of a patch are passed over."""
    yield from _object_problems(template, models.V1PodTemplateSpec, path)


def _object_problems(value: dict[str, Any], model: Any, path: str) -> Iterator[Problem]:
    """The problems of an object whose fields a model lists."""
    kinds = {model.attribute_map[name]: kind for name, kind in model.openapi_types.items()}
    for key, field in value.items():
        if key.startswith("$"):
            continue
        if key not in kinds:
            nearest = get_close_matches(key, kinds, n=1, cutoff=0.7)
            hint = f"Did you mean {nearest[0]}?" if nearest else f"Remove it; known here: {', '.join(kinds)}"
            yield Problem(f"{path}.{key}", "pods have no such field", hint)
        elif field is not None:
            yield from _value_problems(field, kinds[key], key, f"{path}.{key}")


def _value_problems(value: Any, kind: str, name: str, path: str) -> Iterator[Problem]:
    """The problems of the value of one field, of any kind."""
    collection = _COLLECTION.fullmatch(kind)
    if collection is not None and collection["kind"] == "List":
        yield from _list_problems(value, collection["item"], name, path)
    elif collection is not None or hasattr(models, kind):
        if not isinstance(value, dict):
            yield Problem(path, f"{_shown(value)} is not an object", "Write its fields as key: value")
        elif collection is None:
            yield from _object_problems(value, getattr(models, kind), path)
        else:
            yield from _map_problems(value, collection["item"], name, path)
    elif name in _QUANTITIES:
        if parse_quantity(value) is None:
            yield Problem(path, f"{_shown(value)} is no quantity", "Write an amount such as 500m, 2 or 16Gi")
    elif kind in _PLAIN_KINDS:
        yield from _plain_problems(value, kind, path)


def _list_problems(value: Any, kind: str, name: str, path: str) -> Iterator[Problem]:
    """The problems of a list whose items are of one kind."""
    if not isinstance(value, list):
        yield Problem(path, f"{_shown(value)} is not a list", "Begin each item with a hyphen")
        return
    for position, item in enumerate(value):
        yield from _value_problems(item, kind, name, f"{path}[{position}]")


def _map_problems(value: dict[str, Any], kind: str, name: str, path: str) -> Iterator[Problem]:
    """The problems of an object with keys of the author's own and values of one kind."""
    for key, item in value.items():
        if item is not None and not key.startswith("$"):
            yield from _value_problems(item, kind, name, f"{path}.{key}")


def _plain_problems(value: Any, kind: str, path: str) -> Iterator[Problem]:
    """The problem of a text, number or truth value of another kind."""
    expected, words = _PLAIN_KINDS[kind]
    if not isinstance(value, expected) or (expected is int and isinstance(value, bool)):
        quotes = ", in quotes" if expected is str and not isinstance(value, dict | list) else ""
        yield Problem(path, f"{_shown(value)} is not {words}", f"Write {words}{quotes}")


def _shown(value: Any) -> str:
    """A value as a short text."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
