"""One YAML document from text, read safely: no objects, duplicate keys or alias bombs; errors have lines."""

import re
from typing import Any

import yaml

from trainyard_api.problems import Problem

MAXIMUM_NODES = 100_000
"""Values of a document with its aliases expanded; a TrainingRun has a few hundred."""

_FLOAT = re.compile(
    r"^[-+]?(?:[0-9]+[eE][-+]?[0-9]+"
    r"|(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?"
    r"|\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
)


class YamlProblemError(Exception):
    """Text that is not one plain YAML document."""

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(problem)
        self.found = Problem("", problem, remedy)


class _Loader(yaml.SafeLoader):
    """SafeLoader that reads 5e-4 as a number, as YAML 1.2, JSON and kubectl do."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:float"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))


def parse_yaml_document(text: str) -> Any:
    """The value of a text that holds exactly one YAML document.

    Raises:
        YamlProblemError: the text is empty, no YAML, holds several documents, repeats a key, names a Python
            type, is nested too deeply or grows too large by its aliases.
    """
    loader = None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            raise YamlProblemError("the file is empty", "Write a TrainingRun into it")
        _check_nodes(node)
        return loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        raise _translated(error) from error
    except yaml.reader.ReaderError as error:
        problem = f"character {error.position} is no YAML text ({error.reason})"
        raise YamlProblemError(problem, "Save the file as plain UTF-8 text") from error
    except RecursionError as error:
        raise YamlProblemError("it is nested too deeply", "A TrainingRun needs about 8 levels") from error
    except ValueError as error:
        raise YamlProblemError(f"a value cannot be read: {error}", "Put the value in quotes") from error
    finally:
        if loader is not None:
            loader.dispose()


def _translated(error: yaml.MarkedYAMLError) -> YamlProblemError:
    """A YAML error in plain words."""
    place = _place(error.problem_mark) if error.problem_mark else "somewhere"
    problem = error.problem or str(error)
    if "expected a single document" in (error.context or ""):
        return YamlProblemError(
            f"{place}: a second document begins", "Keep one TrainingRun per file; remove what follows ---"
        )
    if "could not determine a constructor" in problem:
        return YamlProblemError(f"{place}: a tag (!...) names a type", "Write plain values without tags")
    if "found character '\\t'" in problem:
        return YamlProblemError(f"{place}: a tab indents the line", "Indent with spaces")
    return YamlProblemError(f"{place}: {problem}", "Correct the YAML there, or just above it")


def _place(mark: yaml.Mark) -> str:
    """Line and column, counted from 1."""
    return f"line {mark.line + 1}, column {mark.column + 1}"


def _check_nodes(root: yaml.Node) -> None:
    """Refuse repeated keys, and documents that are large once their aliases are expanded.

    Each node is visited once, so the check itself is linear however the aliases multiply.
    """
    sizes: dict[int, int] = {}
    open_nodes: set[int] = set()

    def size_of(node: yaml.Node) -> int:
        if id(node) in sizes:
            return sizes[id(node)]
        if id(node) in open_nodes:
            problem = f"{_place(node.start_mark)}: a value contains itself"
            raise YamlProblemError(problem, "Remove the alias (*name) inside its own anchor (&name)")
        open_nodes.add(id(node))
        if isinstance(node, yaml.MappingNode):
            _check_keys(node)
            size = 1 + sum(size_of(key) + size_of(value) for key, value in node.value)
        elif isinstance(node, yaml.SequenceNode):
            size = 1 + sum(size_of(item) for item in node.value)
        else:
            size = 1
        if size > MAXIMUM_NODES:
            problem = f"{_place(node.start_mark)}: more than {MAXIMUM_NODES} values, aliases expanded"
            raise YamlProblemError(problem, "Write the values out without aliases")
        open_nodes.discard(id(node))
        sizes[id(node)] = size
        return size

    size_of(root)


def _check_keys(node: yaml.MappingNode) -> None:
    """Refuse a key that occurs twice: YAML readers keep one of the values without a word."""
    lines: dict[tuple[str, str], int] = {}
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode):
            continue
        identity = (key.tag, key.value)
        if identity in lines:
            raise YamlProblemError(
                f"{_place(key.start_mark)}: the key {key.value!r} is already on line {lines[identity]}",
                "Keep one of them",
            )
        lines[identity] = key.start_mark.line + 1
