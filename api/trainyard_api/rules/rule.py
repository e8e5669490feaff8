"""The shape of a rule, and the builders of the common kinds."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from trainyard_api.problems import Problem
from trainyard_api.spec import TrainingRun, TrainingRunSpec

Check = Callable[[TrainingRun], Iterable[Problem]]


@dataclass(frozen=True, slots=True)
class Rule:
    """Something that fields must fulfil together."""

    fields: tuple[str, ...]
    """Paths that it reads, such as spec.data.sources[].name; while one is broken, the rule is not checked."""
    problem: str
    """What is wrong when it is violated."""
    remedy: str
    """What to write instead."""
    check: Check
    """The problems of a run, none when it fulfils the rule."""
    node: str = ""
    """Path of the schema node that carries the CEL rule, and that `self` means there."""
    cel: str | None = None
    """The rule in CEL, over defaulted objects; None where CEL cannot say it or a cluster must not."""
    field: str = ""
    """Path of the field that the API server names, where it lies below the node."""

    @property
    def message(self) -> str:
        """Problem and remedy in one line, as the API server shows them."""
        return f"{self.problem}. {self.remedy}"


def predicate_rule(  # noqa: PLR0913 - a rule has that many parts
    *,
    path: str,
    fields: tuple[str, ...],
    holds: Callable[[TrainingRunSpec], bool],
    problem: str,
    remedy: str,
    node: str = "",
    cel: str | None = None,
) -> Rule:
    """A rule with one predicate, reported at one path with a fixed text."""

    def check(run: TrainingRun) -> Iterable[Problem]:
        return () if holds(run.spec) else (Problem(path, problem, remedy),)

    field = path if node and path.startswith(f"{node}.") else ""
    return Rule(fields=fields, problem=problem, remedy=remedy, check=check, node=node, cel=cel, field=field)


def union_rule(path: str, members: tuple[str, ...], value_of: Callable[[TrainingRunSpec], object]) -> Rule:
    """Exactly one of the members of an object is set.

    Args:
        path: the object.
        members: its members, in camelCase.
        value_of: the object in a spec, or None where the object itself is absent.
    """
    names = _listed(members)
    attributes = {member: _snake_case(member) for member in members}

    def check(run: TrainingRun) -> Iterable[Problem]:
        value = value_of(run.spec)
        if value is None:
            return
        found = [member for member in members if getattr(value, attributes[member]) is not None]
        if len(found) > 1:
            remedy = f"Keep {_listed(tuple(found))}, not both" if len(found) == 2 else "Keep one of them"
            yield Problem(path, f"{_listed(tuple(found), 'and')} are set, but only one may be", remedy)
        elif not found:
            yield Problem(path, f"none of {names} is set", f"Set exactly one of {names}")

    return Rule(
        fields=tuple(f"{path}.{member}" for member in members),
        problem=f"exactly one of {names} must be set",
        remedy="Set one and remove the others",
        check=check,
        node=path,
        cel=f"[{', '.join(f'has(self.{member})' for member in members)}].filter(x, x).size() == 1",
    )


def _listed(names: tuple[str, ...], conjunction: str = "or") -> str:
    """Names in a sentence: a, b or c."""
    return f" {conjunction} ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def _snake_case(name: str) -> str:
    """The attribute of a camelCase key."""
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name)
