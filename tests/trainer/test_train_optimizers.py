"""Number formats and optimizers: each learns, and a stopped run comes back as if it had not stopped."""

import json
from pathlib import Path

import pytest

from tests.support.gang import run_gang
from tests.support.runs import prepared_plan, run_of, write_plan

pytestmark = pytest.mark.slow

NUM_STEPS = 4
STOP_AFTER = 2

SETTINGS = {
    "bf16": {"training__precision": "BF16"},
    "sgd": {"training__optimizer": {"name": "SGD", "learningRate": 0.5}},
    "lion": {"training__optimizer": {"name": "Lion", "learningRate": 3e-4}},
    "adafactor": {"training__optimizer": {"name": "Adafactor", "learningRate": 1e-2}},
}
RUNS = [(name, stage) for name in ("bf16", "sgd", "lion") for stage in range(4)] + [("adafactor", 0)]
"""Adafactor needs whole matrices: the rules refuse it under ZeRO and in 16 bits before anything starts."""


@pytest.fixture(scope="module")
def curves(
    sotu_addresses: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[str, list[float]]]:
    """The losses of 2 ranks by run: `whole` in one go, `stopped` half-way, `resumed` from there."""
    place = tmp_path_factory.mktemp("optimizers")
    plans = [
        prepared_plan(
            run_of(
                sotu_addresses,
                f"{name}-{stage}",
                deepspeed__zeroStage=stage,
                training__budget={"steps": NUM_STEPS},
                training__evaluation={"maximumSequences": 4},
                **SETTINGS[name],
            ),
            place,
            2,
        )
        for name, stage in RUNS
    ]
    files = [str(write_plan(plan, place / f"{plan.name}.json")) for plan in plans]
    run_gang("optimizers.py", 2, str(place / "curves.json"), str(STOP_AFTER), *files)
    told: dict[str, dict[str, list[float]]] = json.loads((place / "curves.json").read_text())
    return told


@pytest.mark.parametrize(("name", "stage"), RUNS)
def test_the_loss_falls_and_a_resumed_run_repeats_an_uninterrupted_one_bit_for_bit(
    name: str, stage: int, curves: dict[str, dict[str, list[float]]]
) -> None:
    told = curves[f"{name}-{stage}"]
    assert len(told["whole"]) == NUM_STEPS
    assert told["whole"][-1] < told["whole"][0]
    assert told["stopped"] == told["whole"][:STOP_AFTER]
    assert told["resumed"] == told["whole"]


@pytest.mark.parametrize(("name", "tolerance"), [("bf16", 2e-2), ("sgd", 1e-4), ("lion", 1e-4)])
def test_the_zero_stage_does_not_change_what_is_learnt(
    name: str, tolerance: float, curves: dict[str, dict[str, list[float]]]
) -> None:
    """Stages 1 to 3 keep bf16 weights where stage 0 rounds fp32 ones by autocast, hence BF16's tolerance."""
    for stage in range(1, 4):
        assert curves[f"{name}-{stage}"]["whole"] == pytest.approx(
            curves[f"{name}-0"]["whole"], abs=tolerance
        )
