"""The scenarios that are played at the same time, each in a namespace of its own, under one operator."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from tests.cluster.scene import Scene

RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}


@dataclass(frozen=True, slots=True)
class Scenario:
    """What happens, and the place for it."""

    play: Callable[[Scene], None]
    claim: bool = True
    """Whether the namespace has the claim that runs use when they name none."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """Labels of the namespace."""


SCENARIOS: dict[str, Scenario] = {}
"""By what they show, in words with underscores."""


def scenario(
    *, claim: bool = True, labels: Mapping[str, str] | None = None
) -> Callable[[Callable[[Scene], None]], Callable[[Scene], None]]:
    """Register a function as a scenario."""

    def register(play: Callable[[Scene], None]) -> Callable[[Scene], None]:
        SCENARIOS[play.__name__] = Scenario(play, claim, labels or {})
        return play

    return register
