"""Two ranks that see different folders act as one: rank 0 decides, and a failure of one is one of all."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.gang import run_gang
from tests.support.local_runs import checkpoints_of
from tests.support.runs import prepared_plan, run_of, write_plan
from trainyard_trainer.progress import read_history

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("agreement")


@pytest.fixture(scope="module")
def told(sotu_addresses: Path, storage: Path) -> list[dict[str, Any]]:
    """What both ranks came to, and the run folder `lagging` with a checkpoint of every step."""
    files = []
    for name in ("blocked", "lagging"):
        run = run_of(
            sotu_addresses,
            name,
            training__budget={"tokens": 2500},
            training__evaluation={"everySteps": 1, "maximumSequences": 4},
            checkpoint={"everySteps": 1, "keep": 100},
        )
        files.append(str(write_plan(prepared_plan(run, storage, 2), storage / f"{name}.json")))
    run_gang("checkpoint_agreement.py", 2, str(storage), *files)
    return [json.loads((storage / f"rank-{rank}.json").read_text()) for rank in range(2)]


def test_a_folder_that_cannot_be_made_is_a_failure_of_all_ranks(told: list[dict[str, Any]]) -> None:
    for rank in told:
        assert rank["blocked"].startswith("TransientError: ")
        assert "a rank could not write its checkpoint" in rank["blocked"]
    assert "File exists" in told[0]["blocked"] or "Not a directory" in told[0]["blocked"]


def test_a_rank_that_sees_no_checkpoint_resumes_from_the_one_that_rank_0_sees(
    told: list[dict[str, Any]],
) -> None:
    assert [rank["resumed_at"] for rank in told] == [3, 3]


def test_the_ranks_verify_a_checkpoint_together(told: list[dict[str, Any]]) -> None:
    assert [rank["read"] for rank in told] == [["rank-00000.safetensors"], ["rank-00001.safetensors"]]


def test_damage_that_only_another_rank_read_is_passed_over_by_all(told: list[dict[str, Any]]) -> None:
    assert [rank["steps_back"] for rank in told] == [-1, -1]


def test_a_file_that_only_one_rank_lacks_costs_a_retry_and_not_the_checkpoint(
    told: list[dict[str, Any]],
) -> None:
    for rank in told:
        assert rank["unseen"].startswith("TransientError: ")
        assert "rank 1 sees another state of it than rank 0 does" in rank["unseen"]
        assert "rank-00001.safetensors is missing" in rank["unseen"]


@pytest.mark.usefixtures("told")
def test_no_save_or_evaluation_is_missed_where_the_token_budget_outlasts_its_estimate(storage: Path) -> None:
    """The estimate says 2 steps. A stop comes at step 3: it is served first, and the next start evaluates."""
    history = read_history(storage / "lagging")
    steps = [record.step for record in history if record.loss is not None]
    assert steps == list(range(1, len(steps) + 1))
    assert len(steps) > 3
    assert checkpoints_of(storage / "lagging") == steps
    evaluated = [record.step for record in history if record.evaluation_loss is not None]
    assert evaluated == steps
