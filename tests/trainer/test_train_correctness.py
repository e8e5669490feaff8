"""What training must not depend on: how a batch is divided, the ZeRO stage, the number of processes."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.support.gang import run_gang
from tests.support.runs import prepared_plan, run_of, write_plan


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
    run_gang("losses.py", 2, str(tmp_path / "losses.json"), *plans)
    curves = json.loads((tmp_path / "losses.json").read_text())
    assert [len(curve) for curve in curves] == [6] * 4
    assert curves[0][-1] < curves[0][0]
    for curve in curves[1:]:
        assert curve == pytest.approx(curves[0], abs=1e-4)
