"""`docs/api.md`: every field, rule, exit code and reason, from the models and tables themselves."""

import ast
import inspect
import json
from collections.abc import Iterable
from enum import Enum
from itertools import pairwise

from trainyard_api import names
from trainyard_api.deepspeed_keys import ALLOWED_KEYS, OWNED_KEYS, UNSUPPORTED_KEYS, ValueType
from trainyard_api.immutability import MUTABLE_FIELDS, is_mutable
from trainyard_api.model import ApiModel
from trainyard_api.names import (
    API_VERSION,
    KIND,
    PERMANENT_EXIT_CODES,
    ConditionType,
    ExitCode,
    Phase,
    Reason,
)
from trainyard_api.rules.all_rules import ALL_RULES
from trainyard_api.rules.unsupported import UNSUPPORTED_RULES
from trainyard_api.schema_problems import expected
from trainyard_api.schema_tree import Node, is_free_form, node_at, schema_tree, walk
from trainyard_api.spec import TrainingRun
from trainyard_api.status import TrainingRunStatus


def api_reference() -> str:
    """The whole page as Markdown."""
    return (
        "\n".join(
            [
                f"# {KIND} ({API_VERSION})",
                "",
                "All keys are camelCase. `[]` stands for the items of a list. A field without a default is",
                "required or stays unset. Of the spec, only *mutable* fields may change once a run exists.",
                "",
                "## Metadata",
                "",
                *_field_table(TrainingRun, "metadata"),
                "",
                "## Spec",
                "",
                *_field_table(TrainingRun, "spec"),
                "",
                "## Status",
                "",
                *_field_table(TrainingRunStatus, "status"),
                "",
                "## Rules across fields",
                "",
                *_rule_table(),
                "",
                "## Not supported yet",
                "",
                *(f"- `{field}`: {rule.remedy}." for rule in UNSUPPORTED_RULES for field in rule.fields),
                "",
                "## Fields that may change",
                "",
                *(f"- `{field}`" for field in MUTABLE_FIELDS),
                "",
                "## Keys of spec.deepspeed.config",
                "",
                *_deepspeed_tables(),
                "",
                "## Exit codes",
                "",
                *_exit_code_table(),
                "",
                "## Phases, conditions and reasons",
                "",
                *_value_list("Phases", Phase),
                *_value_list("Conditions", ConditionType),
                *_value_list("Reasons", Reason),
            ]
        ).rstrip()
        + "\n"
    )


def _field_table(model: type[ApiModel], root: str) -> Iterable[str]:
    """Every field below one field of a model (or of the model itself, for the status)."""
    tree = schema_tree(model)
    node = tree if model is TrainingRunStatus else node_at(tree, root)
    if node is None:
        raise ValueError(f"{model.__name__} has no field {root}")
    yield "| Field | Type | Default | Description |"
    yield "|---|---|---|---|"
    required = {root} | {
        f"{path}.{name}" for path, parent in walk(node, root) for name in parent.get("required", [])
    }
    for path, field in walk(node, root):
        if path != root and not (path.endswith("[]") and "properties" not in field):
            yield _field_row(path, field, is_required=path in required)


def _field_row(path: str, node: Node, *, is_required: bool) -> str:
    """One field."""
    default = "required" if is_required else ""
    if "default" in node and "properties" not in node:
        default = f"`{json.dumps(node['default'])}`"
    description = " ".join(node.get("description", "").split())
    mutable = " *Mutable.*" if is_mutable(path) else ""
    return f"| `{path}` | {_type_words(node)} | {default} | {_cell(description + mutable)} |"


def _type_words(node: Node) -> str:
    """The type of a field in words."""
    if is_free_form(node):
        return "free-form object"
    if "enum" in node:
        return ", ".join(f"`{value}`" for value in node["enum"])
    if node.get("type") == "object":
        return "object"
    return _cell(expected(node))


def _rule_table() -> Iterable[str]:
    """What fields must fulfil together."""
    yield "| Fields | Refused when | What to write | Checked by the API server |"
    yield "|---|---|---|---|"
    for rule in ALL_RULES:
        if rule not in UNSUPPORTED_RULES:
            fields = ", ".join(f"`{field}`" for field in rule.fields)
            served = "yes" if rule.cel else "no"
            yield f"| {fields} | {_cell(rule.problem)} | {_cell(rule.remedy)} | {served} |"


def _deepspeed_tables() -> Iterable[str]:
    """Keys that are owned, allowed and not supported."""
    yield "| Key that Trainyard owns | What to do instead |"
    yield "|---|---|"
    yield from (f"| `{key}` | {remedy} |" for key, remedy in OWNED_KEYS.items())
    yield ""
    for wanted in ValueType:
        keys = sorted(key for key, value_type in ALLOWED_KEYS.items() if value_type is wanted)
        yield f"Allowed with {wanted}: {', '.join(f'`{key}`' for key in keys)}."
        yield ""
    yield f"Not supported yet: {', '.join(f'`{key}`' for key in sorted(UNSUPPORTED_KEYS))}."


def _exit_code_table() -> Iterable[str]:
    """Exit codes with their meaning, from the docstrings of names.py."""
    meanings = _member_docstrings(ExitCode)
    yield "| Code | Name | Meaning | Restarted |"
    yield "|---|---|---|---|"
    for code in ExitCode:
        restarted = "no" if code in PERMANENT_EXIT_CODES or code is ExitCode.SUCCEEDED else "yes"
        yield f"| {code.value} | {code.name} | {_cell(meanings[code.name])} | {restarted} |"


def _member_docstrings(enumeration: type[Enum]) -> dict[str, str]:
    """The docstring below each member of an enumeration of names.py, which Python itself does not keep."""
    tree = ast.parse(inspect.getsource(names))
    (body,) = [
        item.body
        for item in tree.body
        if isinstance(item, ast.ClassDef) and item.name == enumeration.__name__
    ]
    return {
        statement.targets[0].id: str(following.value.value)
        for statement, following in pairwise(body)
        if isinstance(statement, ast.Assign)
        and isinstance(statement.targets[0], ast.Name)
        and isinstance(following, ast.Expr)
        and isinstance(following.value, ast.Constant)
    }


def _value_list(title: str, enumeration: type[Enum]) -> Iterable[str]:
    """The values of an enumeration in one line."""
    yield f"{title}: {', '.join(f'`{member.value}`' for member in enumeration)}."
    yield ""


def _cell(text: str) -> str:
    """Text that does not end a table cell."""
    return text.replace("|", "\\|")
