"""Validation of a TrainingRun: every problem at once, from the schema and from the rules across fields."""

import copy
import math
from collections.abc import Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from trainyard_api.errors import ConfigurationError
from trainyard_api.names import API_VERSION, KIND
from trainyard_api.problems import InvalidRunError, Problem
from trainyard_api.rules.all_rules import ALL_RULES
from trainyard_api.rules.rule import Rule
from trainyard_api.schema_problems import path_of, schema_problem, suggestion
from trainyard_api.schema_tree import Node, minimal_value, node_at, schema_tree, without_indices
from trainyard_api.spec import TrainingRun
from trainyard_api.yaml_document import YamlProblemError, parse_yaml_document

MAXIMUM_FILE_BYTES = 1_048_576
"""Kubernetes stores no larger object either."""

_MAXIMUM_REPAIRS = 10
_INTEGER_LIMIT = 2**63


def load_run_file(path: str | Path, extra_rules: Sequence[Rule] = ()) -> TrainingRun:
    """Read and validate a TrainingRun file.

    Args:
        path: YAML or JSON file with one document.
        extra_rules: rules to check beside those of the API.

    Raises:
        ConfigurationError: the file cannot be read.
        InvalidRunError: it holds no valid TrainingRun; all problems are in it.
    """
    try:
        document = parse_yaml_document(_read_text(Path(path)))
    except YamlProblemError as error:
        raise InvalidRunError([error.found], str(path)) from error
    try:
        return validate_document(document, extra_rules)
    except InvalidRunError as error:
        raise InvalidRunError(error.problems, str(path)) from error


def validate_document(document: object, extra_rules: Sequence[Rule] = ()) -> TrainingRun:
    """The TrainingRun of a plain document, as YAML or JSON gives it: no conversions, camelCase only.

    Args:
        document: the document.
        extra_rules: rules to check beside those of the API.

    Raises:
        InvalidRunError: with every problem: those of numbers and fields first, then those of the rules.
    """
    if not isinstance(document, dict):
        problem = Problem("", "the document is not an object", "Write apiVersion, kind, metadata and spec")
        raise InvalidRunError([problem])
    rules = [*ALL_RULES, *extra_rules]
    known = [*_identity_problems(document), *_number_problems(document)]
    try:
        run = _parsed(document)
    except ValidationError:
        raise InvalidRunError(_all_problems(document, known, rules)) from None
    problems = known + _rule_problems(run, rules, frozenset(problem.path for problem in known))
    if problems:
        raise InvalidRunError(problems)
    return run


def _identity_problems(document: dict[Any, Any]) -> Iterator[Problem]:
    """The two fields that have a default in Python, but that a cluster insists on."""
    for name, value in (("apiVersion", API_VERSION), ("kind", KIND)):
        if name not in document:
            yield Problem(name, "it is missing", f"Write {name}: {value}")


def _parsed(document: object) -> TrainingRun:
    """The document as a model, or pydantic's errors."""
    return TrainingRun.model_validate(document, strict=True, by_alias=True, by_name=False)


@cache
def _tree() -> Node:
    """The schema of a TrainingRun."""
    return schema_tree(TrainingRun)


def _all_problems(document: object, known: Sequence[Problem], rules: Sequence[Rule]) -> list[Problem]:
    """Problems of single fields, then what the rules say of the parts that are sound.

    Broken values are replaced by ones that the schema accepts until the whole document parses; rules that
    touch a replaced value are left out, so that one mistake is not reported twice.

    Args:
        document: the document, which stays as it is.
        known: problems already found; their values are replaced first.
        rules: what to check in the end.
    """
    problems = list(known)
    reported = {problem.path for problem in known}
    harmed = {without_indices(path) for path in reported}
    repaired = _without_unusable_numbers(document)
    for repair in range(_MAXIMUM_REPAIRS):
        try:
            run = _parsed(repaired)
        except ValidationError as error:
            found = error.errors(include_url=False)
            if repair == 0:
                problems += _schema_problems(found, reported)
            harmed.update(without_indices(_repair(repaired, details)) for details in found)
        else:
            return problems + _rule_problems(run, rules, frozenset(harmed))
    return problems


def _schema_problems(errors: Sequence[ErrorDetails], reported: AbstractSet[str]) -> Iterator[Problem]:
    """What pydantic found, without what is reported already.

    A field that is missing because its name is misspelt is reported once, as unknown with the right name.
    """
    unknown = [path_of(error["loc"]) for error in errors if error["type"] == "extra_forbidden"]
    meant = {_meant_path(path) for path in unknown}
    for error in errors:
        path = path_of(error["loc"])
        if path not in reported and not (error["type"] == "missing" and path in meant):
            yield schema_problem(error, _tree())


def _meant_path(path: str) -> str:
    """The path of the known field that an unknown one is a misspelling of, else the path itself."""
    meant = suggestion(path, _tree())
    return f"{path.rpartition('.')[0]}.{meant}".lstrip(".") if meant else path


def _without_unusable_numbers(value: Any) -> Any:
    """A copy of a document in which numbers that JSON cannot hold are null."""
    if isinstance(value, dict):
        return {key: _without_unusable_numbers(child) for key, child in value.items()}
    if isinstance(value, list):
        return [_without_unusable_numbers(child) for child in value]
    return None if _is_unusable(value) else value


def _repair(document: Any, details: ErrorDetails) -> str:
    """Replace or remove the value of one error; the path that can no longer be trusted."""
    *above, last = details["loc"]
    if last == "[key]":
        *above, last = above
    path = path_of([*above, last])
    parent = document
    for part in above:
        parent = parent[part]
    if details["type"] == "extra_forbidden":
        del parent[last]
        return _meant_path(path)
    node = node_at(_tree(), without_indices(path))
    if node is None:  # inside a free-form object, where anything else will do
        parent[last] = None
    elif isinstance(parent, dict) and last in parent and _may_be_absent(above, last):
        del parent[last]
    else:
        parent[last] = copy.deepcopy(minimal_value(node))
    return path


def _may_be_absent(above: Sequence[str | int], name: str | int) -> bool:
    """Whether a field is optional."""
    parent = node_at(_tree(), without_indices(path_of(above))) or {}
    return name not in parent.get("required", [])


def _rule_problems(run: TrainingRun, rules: Iterable[Rule], harmed: frozenset[str]) -> list[Problem]:
    """What the rules say, those left out that read a harmed field."""
    return [
        problem
        for rule in rules
        if not any(_overlaps(field, path) for field in rule.fields for path in harmed)
        for problem in rule.check(run)
    ]


def _overlaps(first: str, second: str) -> bool:
    """Whether one path is the other or lies inside it."""
    shorter, longer = sorted((first, second), key=len)
    return longer == shorter or longer.startswith((f"{shorter}.", f"{shorter}["))


def _number_problems(value: object, path: str = "") -> Iterator[Problem]:
    """The numbers of a document that JSON cannot hold."""
    if isinstance(value, dict):
        for key, child in value.items():
            yield from _number_problems(child, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list):
        for index, child in enumerate(value):
            yield from _number_problems(child, f"{path}[{index}]")
    elif _is_unusable(value):
        found = str(value) if isinstance(value, float) else "a number of more than 64 bits"
        yield Problem(path, f"found {found}", "Write a finite number that fits in 64 bits")


def _is_unusable(value: object) -> bool:
    """Whether a value is a number that is not finite or does not fit in 64 bits; clusters refuse it."""
    if isinstance(value, float):
        return not math.isfinite(value)
    return isinstance(value, int) and not -_INTEGER_LIMIT <= value < _INTEGER_LIMIT


def _read_text(path: Path) -> str:
    """The text of a file.

    Raises:
        ConfigurationError: it is missing, unreadable, too large or not UTF-8.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAXIMUM_FILE_BYTES + 1)
    except OSError as error:
        reason = error.strerror or "unreadable"
        raise ConfigurationError(
            str(path), f"cannot read the file ({reason})", "Name a readable YAML file"
        ) from error
    if len(content) > MAXIMUM_FILE_BYTES:
        raise ConfigurationError(
            str(path),
            f"the file is larger than {MAXIMUM_FILE_BYTES} bytes",
            "Name the TrainingRun's file, not data",
        )
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigurationError(
            str(path), f"byte {error.start} is not UTF-8", "Save the file as UTF-8"
        ) from error
