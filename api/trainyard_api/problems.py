"""What is wrong with a TrainingRun: every problem at once, each with its place and its remedy."""

from collections.abc import Sequence
from dataclasses import dataclass

from trainyard_api.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong."""

    path: str
    """Field, such as spec.data.sources[0].uri; empty for the document as a whole."""
    problem: str
    """What is wrong, with the value found."""
    remedy: str
    """What to write instead."""

    def __str__(self) -> str:
        """Two lines: place and problem, then the remedy."""
        return f"{self.path or 'the document'}: {self.problem}\n    {self.remedy}"


@dataclass(frozen=True, slots=True)
class Findings:
    """What a check outside this package says about a run that is valid by the schema."""

    problems: tuple[Problem, ...] = ()
    """Why it cannot work."""
    warnings: tuple[Problem, ...] = ()
    """What may be meant, and may be refused elsewhere."""


class InvalidRunError(ConfigurationError):
    """A TrainingRun that cannot work as written, with all its problems.

    Args:
        problems: at least one.
        source: file it was read from, if any.
    """

    def __init__(self, problems: Sequence[Problem], source: str = "") -> None:
        first = problems[0]
        count = f"{len(problems)} problems, the first: " if len(problems) > 1 else ""
        super().__init__(first.path or source or "the document", f"{count}{first.problem}", first.remedy)
        self.problems = tuple(problems)
        self.source = source

    def __str__(self) -> str:
        """All problems, one block of lines each."""
        number = len(self.problems)
        head = f"{self.source or 'TrainingRun'}: {number} problem{'s' if number > 1 else ''}"
        return "\n".join([head, *(f"- {problem}" for problem in self.problems)])

    def __reduce__(self) -> tuple[type["InvalidRunError"], tuple[tuple[Problem, ...], str]]:  # type: ignore[override]
        """Rebuild from the problems, so that the error survives a process pool."""
        return type(self), (self.problems, self.source)
