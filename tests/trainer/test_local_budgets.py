"""A budget in steps, epochs, tokens or seconds of training ends the run when it is spent, not later."""

from pathlib import Path

import pytest

from tests.support.gang import run_gang
from tests.support.local_runs import checkpoints_of, write_excerpt
from tests.support.runs import prepared_plan, run_of, write_plan
from trainyard_trainer.data.dataset import open_prepared
from trainyard_trainer.progress import read_history

pytestmark = pytest.mark.slow

BUDGETS = {
    "steps": {"steps": 3},
    "epochs": {"epochs": 0.5},
    "tokens": {"tokens": 4000},
    "seconds": {"wallClockSeconds": 2},
}


@pytest.fixture(scope="module")
def folders(sotu_paragraphs, tmp_path_factory):
    """The folders of four runs, one after the other in one process."""
    place = tmp_path_factory.mktemp("budgets")
    source = write_excerpt(sotu_paragraphs, place / "paragraphs.jsonl", 200)
    settings = {
        "tokenizer__train": {"algorithm": "WordPiece", "vocabularySize": 512},
        "training__evaluation": {"maximumSequences": 4},
    }
    plans = {
        name: prepared_plan(run_of(source, f"in-{name}", training__budget=budget, **settings), place / "out")
        for name, budget in BUDGETS.items()
    }
    files = [str(write_plan(plan, place / f"{name}.json")) for name, plan in plans.items()]
    run_gang("losses.py", 1, str(place / "losses.json"), "0", *files)
    return {name: Path(plan.paths.run_folder) for name, plan in plans.items()}


def steps(folder):
    return [record for record in read_history(folder) if record.loss is not None]


def test_a_budget_in_steps_ends_after_them(folders):
    assert [record.step for record in steps(folders["steps"])] == [1, 2, 3]


def test_a_budget_in_epochs_ends_after_the_step_that_completes_it(folders):
    num_rows = len(open_prepared(folders["epochs"]).train)
    num_steps = len(steps(folders["epochs"]))
    assert (num_steps - 1) * 8 < 0.5 * num_rows <= num_steps * 8
    assert num_steps > 3


def test_a_budget_in_tokens_ends_with_the_step_that_spends_it(folders):
    tokens = [record.tokens for record in steps(folders["tokens"])]
    assert sum(tokens[:-1]) < 4000 <= sum(tokens)
    assert len(tokens) > 3


def test_a_budget_in_seconds_ends_with_the_step_that_spends_it(folders):
    seconds = [record.step_seconds for record in steps(folders["seconds"])]
    assert sum(seconds[:-1]) < 2.0 <= sum(seconds) + 1e-3
    assert len(seconds) > 3


@pytest.mark.parametrize("name", BUDGETS)
def test_however_the_budget_is_given_the_last_step_has_a_checkpoint_and_an_evaluation(name, folders):
    last = steps(folders[name])[-1].step
    assert checkpoints_of(folders[name])[-1] == last
    [evaluation] = [record for record in read_history(folders[name]) if record.evaluation_loss is not None]
    assert evaluation.step == last
