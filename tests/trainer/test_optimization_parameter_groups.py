"""Rules of parameter groups: which parameters train, how fast, and with which weight decay."""

import pytest
import torch

from trainyard_api.errors import ConfigurationError
from trainyard_api.spec import Optimizer, ParameterGroup
from trainyard_trainer.optimization.optimizers import build_optimizer
from trainyard_trainer.optimization.parameter_groups import (
    Pace,
    check_rules,
    fits,
    group_learning_rate,
    parameter_groups,
    settings_of,
)


def optimizer(*rules: ParameterGroup) -> Optimizer:
    return Optimizer(learning_rate=0.1, weight_decay=0.02, parameter_groups=list(rules))


@pytest.mark.parametrize(
    ("name", "pattern", "expected"),
    [
        ("bert.layer.1.bias", "*.bias", True),
        ("bert.layer.1.weight", "*.bias", False),
        ("bert.layer.1.bias", "layer.1", False),
        ("bert.layer.1.bias", "*layer.1*", True),
        ("bert.layer.1.bias", "*layer.?.bias", False),
        ("bert.layer.1.bias", "*layer.[1].bias", False),
    ],
)
def test_only_a_star_is_special_in_a_pattern(name: str, pattern: str, expected: bool) -> None:
    assert fits(name, pattern) is expected


@pytest.mark.parametrize(
    ("rules", "is_vector", "factor", "decay"),
    [
        ([], False, 1.0, 0.02),
        ([], True, 1.0, 0.0),
        ([ParameterGroup(parameters="*.bias", weight_decay=0.5)], True, 1.0, 0.5),
        ([ParameterGroup(parameters="*.bias", learning_rate_factor=0.25)], True, 0.25, 0.0),
        ([ParameterGroup(parameters="*other*", weight_decay=0.5)], False, 1.0, 0.02),
        (
            [
                ParameterGroup(parameters="*.bias", learning_rate_factor=2.0),
                ParameterGroup(parameters="*", learning_rate_factor=3.0),
            ],
            True,
            2.0,
            0.0,
        ),
    ],
)
def test_the_first_rule_that_fits_decides(
    rules: list[ParameterGroup], is_vector: bool, factor: float, decay: float
) -> None:
    settings = settings_of("head.bias", is_vector=is_vector, optimizer=optimizer(*rules))
    assert settings is not None
    assert (settings.factor, settings.weight_decay) == (factor, decay)


def test_a_factor_of_0_keeps_a_parameter() -> None:
    rule = ParameterGroup(parameters="head*", learning_rate_factor=0.0)
    assert settings_of("head.bias", is_vector=True, optimizer=optimizer(rule)) is None


def test_rule_and_pace_multiply_and_groups_are_ordered_by_their_settings() -> None:
    module = torch.nn.ModuleDict({"low": torch.nn.Linear(2, 2), "head": torch.nn.Linear(2, 2)})
    rule = ParameterGroup(parameters="low.weight", learning_rate_factor=0.5)
    paces = {name: Pace(0.5, 3) for name in ("low.weight", "low.bias")}
    groups = parameter_groups(module.named_parameters(), optimizer(rule), paces)
    assert [(group["first_step"], group["learning_rate_factor"]) for group in groups] == [
        (0, 1.0),
        (0, 1.0),
        (3, 0.5),
        (3, 0.25),
    ]
    assert [group["weight_decay"] for group in groups] == [0.02, 0.0, 0.0, 0.02]


def test_frozen_parameters_are_in_no_group() -> None:
    module = torch.nn.Linear(2, 2)
    module.bias.requires_grad_(requires_grad=False)
    (group,) = parameter_groups(module.named_parameters(), optimizer())
    assert [id(parameter) for parameter in group["params"]] == [id(module.weight)]  # type: ignore[attr-defined]


@pytest.mark.parametrize(("step", "expected"), [(0, 0.0), (2, 0.0), (3, 0.05), (9, 0.05)])
def test_a_group_moves_from_its_first_step_on(step: int, expected: float) -> None:
    group = {"first_step": 3, "learning_rate_factor": 0.5}
    assert group_learning_rate(group, 0.1, step) == expected


@pytest.mark.parametrize("name", ["AdamW", "SGD", "Adafactor", "Lion"])
def test_every_optimizer_takes_the_groups_and_leaves_a_rate_of_0_in_place(name: str) -> None:
    module = torch.nn.ModuleDict({"low": torch.nn.Linear(2, 2), "head": torch.nn.Linear(2, 2)})
    settings = Optimizer(name=name, learning_rate=0.1, weight_decay=0.02)  # type: ignore[arg-type]
    built = build_optimizer(module.named_parameters(), settings, {"low.weight": Pace(1.0, 5)})
    before = {name: parameter.detach().clone() for name, parameter in module.named_parameters()}
    module["head"](module["low"](torch.ones(1, 2))).sum().backward()
    for group in built.param_groups:
        group["lr"] = group_learning_rate(group, 0.1, 0)
    built.step()
    changed = {name for name, value in module.named_parameters() if not torch.equal(value, before[name])}
    assert changed == {"low.bias", "head.weight", "head.bias"}


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_follows_its_formula_with_momentum_and_nesterov(nesterov: bool) -> None:
    """Sutskever et al. 2013: Nesterov's step looks ahead along the velocity."""
    weight = torch.nn.Parameter(torch.tensor([[1.0]]))
    settings = Optimizer(name="SGD", learning_rate=0.1, momentum=0.5, nesterov=nesterov, weight_decay=0.2)
    built = build_optimizer([("weight", weight)], settings)
    value, velocity = 1.0, 0.0
    for slope in (2.0, -1.0, 3.0):
        weight.grad = torch.tensor([[slope]])
        built.step()
        gradient = slope + 0.2 * value
        velocity = 0.5 * velocity + gradient
        value -= 0.1 * (gradient + 0.5 * velocity if nesterov else velocity)
        assert weight.item() == pytest.approx(value)


@pytest.mark.parametrize(
    ("patterns", "field", "problem"),
    [
        (["*.biass"], "[0].parameters", "no parameter of the model fits '*.biass'"),
        (["*", "*.bias"], "[1].parameters", "earlier rules fit everything that '*.bias' fits"),
    ],
)
def test_a_rule_that_says_nothing_is_refused(patterns: list[str], field: str, problem: str) -> None:
    rules = [ParameterGroup(parameters=pattern) for pattern in patterns]
    with pytest.raises(ConfigurationError) as caught:
        check_rules(["a.weight", "a.bias"], rules)
    assert caught.value.where == f"spec.training.optimizer.parameterGroups{field}"
    assert caught.value.problem == problem
