"""What pydantic finds, in plain words and YAML names: one Problem for each of its errors."""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches

from pydantic_core import ErrorDetails

from trainyard_api.problems import Problem
from trainyard_api.schema_tree import Node, node_at, walk, without_indices

_CLUSTER_METADATA = frozenset(
    {
        "creationTimestamp",
        "deletionGracePeriodSeconds",
        "deletionTimestamp",
        "finalizers",
        "generateName",
        "generation",
        "managedFields",
        "ownerReferences",
        "resourceVersion",
        "selfLink",
        "uid",
    },
)
_TYPE_WORDS = {
    "object": "an object",
    "array": "a list",
    "string": "a text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
}
_SHOWN_CHARACTERS = 60


def path_of(location: Sequence[str | int]) -> str:
    """A pydantic location as a path: spec.data.sources[0].uri."""
    path = ""
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
        elif part != "[key]":
            path += f".{part}" if path else part
    return path


def schema_problem(error: ErrorDetails, tree: Node) -> Problem:
    """One pydantic error in plain words.

    Args:
        error: the error, with its location in camelCase.
        tree: the schema of the whole document.
    """
    path = path_of(error["loc"])
    node = node_at(tree, without_indices(path))
    if error["type"] == "extra_forbidden":
        return _unknown_field(path, tree)
    if error["type"] == "missing":
        return Problem(path, "it is missing", f"Write {expected(node or {})}{_meaning(node)}")
    if node is None or error["loc"][-1] == "[key]":
        return Problem(path, _sentence(error["msg"]), "Use text keys and plain values")
    found = error["input"]
    if "enum" in node:
        return _not_allowed(path, found, node)
    return Problem(path, _wrongness(error, found), f"Write {expected(node)}{_advice(found, node)}")


def suggestion(path: str, tree: Node) -> str | None:
    """The nearest known name beside an unknown field, or None."""
    parent_path, _, name = path.rpartition(".")
    parent = node_at(tree, without_indices(parent_path)) or {}
    names = list(parent.get("properties", {}))
    by_plain_name = {_plain(known): known for known in names}
    nearest = get_close_matches(_plain(name), by_plain_name, n=1, cutoff=0.7)
    return by_plain_name[nearest[0]] if nearest else None


def expected(node: Node) -> str:
    """What a node accepts, in words."""
    if "enum" in node:
        return _listed([str(value) for value in node["enum"]])
    if node.get("pattern", "").startswith("^[a-z0-9]"):
        return f"1 to {node['maxLength']} lower-case letters, digits and hyphens"
    kind = node.get("type", "")
    return _TYPE_WORDS.get(kind, "a value") + _limit_words(node, kind)


def _limit_words(node: Node, kind: str) -> str:
    """The limits of a node of some type, in words."""
    if kind in ("integer", "number"):
        return _range_words(node)
    if kind == "string" and "maxLength" in node:
        return f" of {node.get('minLength', 0)} to {node['maxLength']} characters"
    if kind == "array" and "maxItems" in node:
        return f" of {node.get('minItems', 0)} to {node['maxItems']} items"
    if kind == "object" and "properties" in node:
        return f" with the fields {', '.join(node.get('required') or node['properties'])}"
    return ""


def _unknown_field(path: str, tree: Node) -> Problem:
    """An unknown field: the nearest name at that place, else where the name belongs, else what is allowed."""
    parent_path, _, name = path.rpartition(".")
    if path == "status" or (parent_path == "metadata" and name in _CLUSTER_METADATA):
        return Problem(path, "the cluster writes this field", "Remove it")
    known = (node_at(tree, without_indices(parent_path)) or {}).get("properties", {})
    nearest = suggestion(path, tree)
    places = [place for place, _ in walk(tree) if place.rpartition(".")[2] == name]
    if nearest is not None:
        remedy = f"Did you mean {nearest}?"
    elif places:
        remedy = f"It belongs to {_listed(places[:3])}"
    else:
        remedy = f"Remove it; allowed here: {', '.join(known)}"
    return Problem(path, f"unknown field{f' in {parent_path}' if parent_path else ''}", remedy)


def _not_allowed(path: str, found: object, node: Node) -> Problem:
    """A value that is none of an enumeration."""
    values = [str(value) for value in node["enum"]]
    plain = {_plain(value): value for value in values}
    nearest = get_close_matches(_plain(str(found)), plain, n=1, cutoff=0.5)
    hint = f"Did you mean {plain[nearest[0]]}? " if nearest and len(values) > 1 else ""
    return Problem(path, f"{_shown(found)} is not allowed", f"{hint}Write {_listed(values)}")


def _wrongness(error: ErrorDetails, found: object) -> str:
    """What is wrong with a value: its kind, or its size."""
    match error["type"]:
        case "greater_than" | "greater_than_equal":
            return f"{_shown(found)} is too small"
        case "less_than" | "less_than_equal":
            return f"{_shown(found)} is too large"
        case "string_too_short" | "string_too_long" | "too_short" | "too_long":
            return _wrong_length(found)
        case "string_pattern_mismatch":
            return f"{_shown(found)} has characters that are not allowed"
        case _:
            return f"found {_described(found)}"


def _wrong_length(found: object) -> str:
    """The length of a text or list, which is outside its limits."""
    if isinstance(found, str):
        return f"it has {len(found)} characters"
    return f"it has {len(found)} items" if isinstance(found, list) else "it has a wrong length"


def _advice(found: object, node: Node) -> str:
    """What people usually meant by a value of the wrong kind."""
    kind = node.get("type")
    if kind == "string" and isinstance(found, bool):
        return "; YAML reads yes, no, on and off as true and false, so put the text in quotes"
    if kind == "string" and not isinstance(found, (str, dict, list)) and found is not None:
        return "; put it in quotes"
    if kind in ("integer", "number", "boolean") and isinstance(found, str):
        return ", without quotes"
    if kind == "array" and isinstance(found, Mapping):
        return "; begin each item with a hyphen"
    return _meaning(node) if found is None else ""


def _meaning(node: Node | None) -> str:
    """The first sentence of a node's description, in brackets."""
    description = (node or {}).get("description", "")
    return f" ({description.partition(';')[0].rstrip('.')})" if description else ""


def _described(found: object) -> str:
    """A value and its kind, as YAML names it."""
    if found is None:
        return "nothing (null)"
    if isinstance(found, bool):
        return str(found).lower()
    if isinstance(found, Mapping):
        return "an object"
    if isinstance(found, list):
        return "a list"
    kinds = {str: "the text", int: "the number", float: "the number"}
    return f"{kinds.get(type(found), f'the {type(found).__name__}')} {_shown(found)}"


def _shown(found: object) -> str:
    """A value, cut to a readable length."""
    text = repr(found) if isinstance(found, str) else str(found)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."


def _range_words(node: Node) -> str:
    """The bounds of a number in words."""
    words = []
    for keyword, text in (
        ("minimum", "of at least"),
        ("exclusiveMinimum", "above"),
        ("maximum", "at most"),
        ("exclusiveMaximum", "below"),
    ):
        if keyword in node:
            words.append(f"{text} {node[keyword]:g}" if node[keyword] < 1e6 else f"{text} {node[keyword]}")
    return f" {' and '.join(words)}" if words else ""


def _listed(values: Sequence[str]) -> str:
    """Values in a sentence: a, b or c."""
    return " or ".join(filter(None, [", ".join(values[:-1]), values[-1]]))


def _plain(name: str) -> str:
    """A name without case, underscores and hyphens, so that spellings compare."""
    return name.lower().replace("_", "").replace("-", "")


def _sentence(message: str) -> str:
    """A message as the middle of a sentence."""
    return message[:1].lower() + message[1:]
