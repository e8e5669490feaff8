"""A run that starts from another run's model is refused on this machine until that run has succeeded."""

import pytest
import yaml

from tests.support.runs import document
from trainyard_api.errors import ConfigurationError
from trainyard_api.names import ConditionType, Reason
from trainyard_api.spec import TrainingRun
from trainyard_api.status import ModelStatus, TrainingRunStatus
from trainyard_trainer.local_status import StatusKeeper
from trainyard_trainer.progress import write_json_atomically
from trainyard_trainer.upstream import check_upstream


@pytest.fixture
def store(tmp_path):
    """Writes the folder of a run, with the conditions that a runner would have left."""

    def write(name, upstream=None, condition=None, message=""):
        folder = tmp_path / name
        folder.mkdir()
        model = {"fromRun": {"name": upstream}} if upstream else {"architecture": {"preset": "bert-tiny"}}
        changes = {"model": model, **({"tokenizer": None} if upstream else {})}
        (folder / "run.yaml").write_text(yaml.safe_dump(document(tmp_path / "a.jsonl", name, **changes)))
        keeper = StatusKeeper(
            TrainingRunStatus(),
            lambda status: write_json_atomically(folder / "status.json", status),
            lambda: 0.0,
        )
        keeper.condition(ConditionType.RUNNING, "True", Reason.STAGE_STARTED)
        if condition is ConditionType.COMPLETE:
            keeper.model(ModelStatus(uri=(folder / "model").as_uri(), parameters=1))
        if condition is not None:
            keeper.condition(condition, "True", Reason.RUN_SUCCEEDED, message)

    return write


def check(tmp_path, upstream, name="later"):
    model = {"fromRun": {"name": upstream}}
    changes = {"model": model, "tokenizer": None}
    check_upstream(TrainingRun.model_validate(document(tmp_path / "a.jsonl", name, **changes)), tmp_path)


def refusal(tmp_path, upstream, name="later"):
    with pytest.raises(ConfigurationError) as raised:
        check(tmp_path, upstream, name)
    assert raised.value.where == "spec.model.fromRun.name"
    return raised.value


def test_a_run_that_succeeded_is_no_obstacle(store, tmp_path):
    store("first", condition=ConditionType.COMPLETE)
    check(tmp_path, "first")


def test_a_run_from_an_architecture_needs_no_other(tmp_path):
    check_upstream(TrainingRun.model_validate(document(tmp_path / "a.jsonl")), tmp_path)


def test_a_missing_run_is_told_with_the_command_to_run_first(tmp_path):
    error = refusal(tmp_path, "first")
    assert error.problem == f"there is no run first in {tmp_path}"
    assert error.remedy == f"Run it first: trainyard run first.yaml --output {tmp_path}"


def test_an_unfinished_run_is_told(store, tmp_path):
    store("first")
    error = refusal(tmp_path, "first")
    assert error.problem == "the run first has not finished"
    assert "Let it finish first: trainyard run first.yaml" in error.remedy


def test_a_failed_run_is_told_with_its_cause(store, tmp_path):
    store("first", condition=ConditionType.FAILED, message="rank 0: the loss of step 3 is nan.")
    error = refusal(tmp_path, "first")
    assert error.problem == "the run first has failed (rank 0: the loss of step 3 is nan)"
    assert "Correct it and run it again" in error.remedy


@pytest.mark.parametrize("chain", [("later",), ("first", "later"), ("first", "second", "later")])
def test_runs_that_wait_for_each_other_are_told_the_cycle(chain, store, tmp_path):
    for name, upstream in zip(("later", *chain), chain, strict=False):
        store(name, upstream)
    error = refusal(tmp_path, chain[0])
    assert error.problem == f"the runs wait for each other: {' -> '.join(('later', *chain))}"


def test_a_teacher_that_another_run_has_yet_to_make_is_waited_for_too(store, tmp_path):
    teacher = {"teacher": {"fromRun": {"name": "large"}}}
    student = TrainingRun.model_validate(
        document(tmp_path / "a.jsonl", "small", tokenizer=None, distillation=teacher)
    )
    with pytest.raises(ConfigurationError, match=r"spec\.distillation\.teacher\.fromRun\.name"):
        check_upstream(student, tmp_path)
    store("large", condition=ConditionType.COMPLETE)
    check_upstream(student, tmp_path)
