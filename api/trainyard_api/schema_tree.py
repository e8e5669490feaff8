"""The schema as one tree of JSON-schema nodes: the start of the CRD, the documentation and error messages."""

import re
from collections.abc import Iterator
from typing import Any

from trainyard_api.model import ApiModel

Node = dict[str, Any]
"""A JSON-schema node with its references inlined and without titles; keys are camelCase."""

_INDEX = re.compile(r"\[\d+\]")


def schema_tree(model: type[ApiModel]) -> Node:
    """The schema of a model, with references inlined and optional fields reduced to their type."""
    schema = model.model_json_schema(by_alias=True)
    return _inlined(schema, schema.get("$defs", {}))


def walk(node: Node, path: str = "") -> Iterator[tuple[str, Node]]:
    """Every node with its path, such as `spec.data.sources[].uri`; parents come before their children."""
    yield path, node
    for name, child in node.get("properties", {}).items():
        yield from walk(child, f"{path}.{name}" if path else name)
    if "items" in node:
        yield from walk(node["items"], f"{path}[]")


def node_at(tree: Node, path: str) -> Node | None:
    """The node of a path, or None; list items are written `sources[0]` or `sources[]`."""
    node: Node | None = tree
    for part in path.replace("[", ".[").split(".") if path else []:
        if node is None:
            return None
        node = node.get("items") if part.startswith("[") else node.get("properties", {}).get(part)
    return node


def without_indices(path: str) -> str:
    """A path of a document as a path of the schema: `sources[3].uri` becomes `sources[].uri`."""
    return _INDEX.sub("[]", path)


def is_free_form(node: Node) -> bool:
    """Whether the node is an object whose fields belong to another project."""
    return (
        node.get("type") == "object" and "properties" not in node and node.get("additionalProperties") == {}
    )


def minimal_value(node: Node) -> Any:
    """A small value that the node accepts.

    It stands in for a broken one, so that rules elsewhere can be checked.
    """
    if "default" in node:
        return node["default"]
    if "enum" in node:
        return node["enum"][0]
    kind = node.get("type")
    if kind == "object":
        fields = node.get("properties", {})
        return {name: minimal_value(fields[name]) for name in node.get("required", [])}
    if kind == "array":
        return [minimal_value(node["items"]) for _ in range(node.get("minItems", 0))]
    return _minimal_scalar(node)


def _minimal_scalar(node: Node) -> str | float | bool:
    """A text of the smallest length, false, the smallest whole number, or a number inside the bounds."""
    kind = node.get("type")
    if kind == "string":
        return "x" * int(node.get("minLength") or 1)
    if kind == "boolean":
        return False
    if kind == "integer":
        return int(node.get("minimum", 0))
    low = float(node.get("minimum") or node.get("exclusiveMinimum") or 0.0)
    high = float(node.get("maximum") or node.get("exclusiveMaximum") or low + 2.0)
    return (low + high) / 2.0


def _inlined(node: Node, definitions: dict[str, Node]) -> Node:
    """The node and everything below it in plain form."""
    merged = dict(node)
    if "$ref" in merged:
        target = definitions[merged.pop("$ref").removeprefix("#/$defs/")]
        merged = {**target, **merged}
    if "anyOf" in merged:
        (only,) = [option for option in merged.pop("anyOf") if option.get("type") != "null"]
        merged = {**_inlined(only, definitions), **merged}
        merged.pop("default", None)
    if "const" in merged:
        merged["enum"] = [merged.pop("const")]
    for keyword in ("title", "$defs"):
        merged.pop(keyword, None)
    if "properties" in merged:
        merged["properties"] = {
            name: _inlined(child, definitions) for name, child in merged["properties"].items()
        }
    for keyword in ("items", "additionalProperties"):
        if isinstance(merged.get(keyword), dict):
            merged[keyword] = _inlined(merged[keyword], definitions)
    return merged
