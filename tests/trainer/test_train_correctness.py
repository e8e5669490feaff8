"""What training must not depend on: how a batch is divided, the ZeRO stage, the number of processes."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.support.gang import run_gang
from tests.support.runs import prepared_plan, run_of, write_plan
from trainyard_api.names import ExitCode


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("storage")


@pytest.mark.slow
def test_gradients_are_equal_for_8x1_and_4x2_micro_batches_and_for_2_ranks(
    sotu_paragraphs: Path, storage: Path, tmp_path: Path
) -> None:
    """Rows are not packed here, so that they have unequal lengths and unequal numbers of predictions."""

    def plan(name: str, micro: int, world_size: int) -> str:
        run = run_of(
            sotu_paragraphs,
            name,
            training__microBatchSize=micro,
            deepspeed__zeroStage=0,
            data__packing={"enabled": False},
        )
        return str(write_plan(prepared_plan(run, storage, world_size), tmp_path / f"{name}.json"))

    one, two = tmp_path / "one.safetensors", tmp_path / "two.safetensors"
    run_gang("gradients.py", 1, str(one), plan("whole", 8, 1), plan("single", 1, 1), plan("pairs", 2, 1))
    run_gang("gradients.py", 2, str(two), plan("ranks", 2, 2))
    of_one, of_two = load_file(one), load_file(two)
    names = [key.removeprefix("0/") for key in of_two]
    assert len(names) > 30
    for name in names:
        reference = of_one[f"0/{name}"]
        assert reference.abs().max() > 0, name
        for other in (of_one[f"1/{name}"], of_one[f"2/{name}"], of_two[f"0/{name}"]):
            assert (reference - other).abs().max() < 1e-6, name


@pytest.mark.slow
def test_zero_stages_0_to_3_give_the_same_loss_curve(
    sotu_addresses: Path, storage: Path, tmp_path: Path
) -> None:
    plans = [
        str(
            write_plan(
                prepared_plan(
                    run_of(sotu_addresses, f"zero-{stage}", deepspeed__zeroStage=stage), storage, 2
                ),
                tmp_path / f"{stage}.json",
            )
        )
        for stage in range(4)
    ]
    run_gang("losses.py", 2, str(tmp_path / "losses.json"), "0", *plans)
    curves = json.loads((tmp_path / "losses.json").read_text())
    assert [len(curve) for curve in curves] == [6] * 4
    assert curves[0][-1] < curves[0][0]
    for curve in curves[1:]:
        assert curve == pytest.approx(curves[0], abs=1e-4)


@pytest.mark.slow
def test_a_stopped_run_resumes_bit_for_bit_and_on_another_division(
    sotu_addresses: Path, storage: Path, tmp_path: Path
) -> None:
    """Stopped after 3 of 6 steps under ZeRO 1 with 2 ranks; dropout is on, so it must come back too."""
    overrides = {"model__architecture": {"preset": "bert-tiny", "overrides": {"hidden_dropout_prob": 0.1}}}

    def plan(name: str, world_size: int, stage: int) -> str:
        run = run_of(sotu_addresses, name, deepspeed__zeroStage=stage, **overrides)
        return str(write_plan(prepared_plan(run, storage, world_size), tmp_path / f"{name}-{stage}.json"))

    def curves(world_size: int, num_steps: int, *plans: str) -> list[list[float]]:
        output = tmp_path / "losses.json"
        run_gang("losses.py", world_size, str(output), str(num_steps), *plans)
        result: list[list[float]] = json.loads(output.read_text())
        return result

    (uninterrupted,) = curves(2, 0, plan("whole", 2, 1))
    stopped = curves(2, 3, plan("same", 2, 1), plan("other-stage", 2, 1))
    assert stopped == [uninterrupted[:3]] * 2
    same, other_stage = curves(2, 0, plan("same", 2, 1), plan("other-stage", 2, 3))
    assert same == uninterrupted
    assert other_stage == pytest.approx(uninterrupted, abs=1e-5)


@pytest.mark.slow
def test_a_run_resumes_on_another_number_of_processes(
    sotu_addresses: Path, storage: Path, tmp_path: Path
) -> None:
    def plan(name: str, world_size: int, stage: int) -> str:
        run = run_of(sotu_addresses, name, deepspeed__zeroStage=stage)
        return str(write_plan(prepared_plan(run, storage, world_size), tmp_path / f"{name}-{stage}.json"))

    run_gang("losses.py", 2, str(tmp_path / "a.json"), "0", plan("elastic-whole", 2, 2))
    run_gang("losses.py", 2, str(tmp_path / "b.json"), "3", plan("elastic", 2, 2))
    run_gang("losses.py", 1, str(tmp_path / "c.json"), "0", plan("elastic", 1, 1))
    (uninterrupted,) = json.loads((tmp_path / "a.json").read_text())
    (elastic,) = json.loads((tmp_path / "c.json").read_text())
    assert elastic == pytest.approx(uninterrupted, abs=1e-5)


@pytest.mark.slow
def test_a_stop_during_the_last_evaluation_saves_the_weights_and_the_next_start_evaluates_them(
    sotu_addresses: Path, storage: Path, tmp_path: Path
) -> None:
    plan = prepared_plan(run_of(sotu_addresses, "evaluated-later"), storage, 2)
    output = tmp_path / "starts.json"
    run_gang("stop_in_evaluation.py", 2, str(output), str(write_plan(plan, tmp_path / "plan.json")))
    stopped, resumed = json.loads(output.read_text())
    assert (stopped["code"], stopped["step"], stopped["evaluation_loss"]) == (ExitCode.PREEMPTED, 6, None)
    assert (resumed["code"], resumed["step"], resumed["evaluation_step"]) == (ExitCode.SUCCEEDED, 6, 6)
    assert 0 < resumed["evaluation_loss"] < 10
