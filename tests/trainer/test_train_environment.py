"""What a training process needs of the machine it starts on."""

from pathlib import Path

import pytest

from tests.support.gang import run_gang
from tests.support.runs import prepared_plan, run_of, write_plan


@pytest.mark.slow
def test_training_needs_no_compiler_and_no_cache_of_compiled_kernels(
    sotu_addresses: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = prepared_plan(run_of(sotu_addresses, training__budget={"steps": 1}), tmp_path, 2)
    file = write_plan(plan, tmp_path / "plan.json")
    kernels = tmp_path / "kernels"
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(kernels))
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setenv("CXX", "/nowhere/c++")
    run_gang("losses.py", 2, str(tmp_path / "losses.json"), "0", str(file))
    assert not kernels.exists()
