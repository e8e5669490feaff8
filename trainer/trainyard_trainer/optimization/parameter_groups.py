"""Which parameters train, how fast, and with which weight decay: pure functions of names and rules."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch

from trainyard_api.errors import ConfigurationError
from trainyard_api.spec import Optimizer, ParameterGroup

FACTOR = "learning_rate_factor"
"""Key of an optimizer's group: factor of the learning rate."""

FIRST_STEP = "first_step"
"""Key of an optimizer's group: number of the optimizer step, counted from 0, from which it moves."""

_WHERE = "spec.training.optimizer.parameterGroups"


@dataclass(frozen=True)
class Pace:
    """How fast a parameter trains.

    Attributes:
        factor: factor of the learning rate.
        first_step: number of the optimizer step, counted from 0, from which it moves.
    """

    factor: float = 1.0
    first_step: int = 0


@dataclass(frozen=True)
class GroupSettings:
    """What all parameters of a group share."""

    first_step: int
    factor: float
    is_vector: bool
    weight_decay: float

    @property
    def order(self) -> tuple[int, float, bool, float]:
        """The place among an optimizer's groups: early before late, fast before slow, matrices first."""
        return self.first_step, -self.factor, self.is_vector, self.weight_decay


def rule_of(name: str, rules: Sequence[ParameterGroup]) -> ParameterGroup | None:
    """The first rule whose pattern fits a parameter's name, in which * stands for anything."""
    return next((rule for rule in rules if fits(name, rule.parameters)), None)


def fits(name: str, pattern: str) -> bool:
    """Whether a pattern fits a name; only * is special in it."""
    return fnmatchcase(name, pattern.replace("[", "[[]").replace("?", "[?]"))


def check_rules(names: Iterable[str], rules: Sequence[ParameterGroup]) -> None:
    """Refuse rules that say nothing: of a misspelt name nobody would notice.

    Args:
        names: every parameter of the model.
        rules: the rules, in their order.

    Raises:
        ConfigurationError: a pattern fits no name, or only names that earlier rules took.
    """
    known = list(names)
    for index, rule in enumerate(rules):
        fitting = [name for name in known if fits(name, rule.parameters)]
        if not fitting:
            shown = ", ".join([*known[:2], *known[-2:]])
            raise ConfigurationError(
                f"{_WHERE}[{index}].parameters",
                f"no parameter of the model fits {rule.parameters!r}",
                f"Write a pattern of names such as {shown}",
            )
        if all(rule_of(name, rules[:index]) is not None for name in fitting):
            raise ConfigurationError(
                f"{_WHERE}[{index}].parameters",
                f"earlier rules fit everything that {rule.parameters!r} fits",
                "Move it before them, or remove it",
            )


def settings_of(
    name: str, *, is_vector: bool, optimizer: Optimizer, pace: Pace = Pace()
) -> GroupSettings | None:
    """The settings of a parameter, or None where it keeps its values.

    Args:
        name: its name in the Transformers model.
        is_vector: whether it has one dimension or none, as biases and norms have; such do not decay.
        optimizer: constants and rules.
        pace: how fast it trains without the rules.
    """
    rule = rule_of(name, optimizer.parameter_groups)
    factor = pace.factor * (1.0 if rule is None else rule.learning_rate_factor)
    if factor == 0.0:
        return None
    decay = 0.0 if is_vector else optimizer.weight_decay
    if rule is not None and rule.weight_decay is not None:
        decay = rule.weight_decay
    return GroupSettings(pace.first_step, factor, is_vector, decay)


def parameter_groups(
    named_parameters: Iterable[tuple[str, torch.nn.Parameter]],
    optimizer: Optimizer,
    paces: Mapping[str, Pace] | None = None,
) -> list[dict[str, object]]:
    """The groups of an optimizer, in an order that depends on the settings alone.

    Args:
        named_parameters: by their names in the Transformers model; those that need no gradient are left out.
        optimizer: constants and rules.
        paces: how fast parameters train; at the full rate from the first step where one has no entry.
    """
    groups: dict[GroupSettings, list[torch.nn.Parameter]] = {}
    for name, parameter in named_parameters:
        # A ZeRO-3 parameter that is already divided shows its whole shape only as ds_shape.
        is_vector = len(getattr(parameter, "ds_shape", parameter.shape)) <= 1
        pace = (paces or {}).get(name, Pace())
        settings = settings_of(name, is_vector=is_vector, optimizer=optimizer, pace=pace)
        if settings is not None and parameter.requires_grad:
            groups.setdefault(settings, []).append(parameter)
    return [
        {
            "params": groups[settings],
            "weight_decay": settings.weight_decay,
            FACTOR: settings.factor,
            FIRST_STEP: settings.first_step,
        }
        for settings in sorted(groups, key=lambda settings: settings.order)
    ]


def group_learning_rate(group: Mapping[str, object], learning_rate: float, step: int) -> float:
    """The rate of a group at an optimizer step, counted from 0."""
    if step < int(str(group.get(FIRST_STEP, 0))):
        return 0.0
    return learning_rate * float(str(group.get(FACTOR, 1.0)))
