"""The DeepSpeed configuration that follows from a run."""

from pathlib import Path

import pytest

from tests.support.runs import run_of
from trainyard_api.errors import ConfigurationError
from trainyard_api.plan import Rendezvous, RunPlan, plan_run
from trainyard_trainer.engine import check_deepspeed_config, engine_config
from trainyard_trainer.workload import most_places


def plan(num_processes: int, stage: int, precision: str = "FP32", **config: object) -> RunPlan:
    run = run_of(
        Path("/data/text.jsonl"),
        workers__processesPerNode=num_processes,
        training__precision=precision,
        deepspeed__zeroStage=stage,
        deepspeed__config=config,
    )
    return plan_run(run, storage_root="/storage", rendezvous=Rendezvous(address="127.0.0.1"))


@pytest.mark.parametrize(
    ("planned", "stage"),
    [
        (plan(1, 1), 0),
        (plan(1, 3), 0),
        (plan(2, 1), 1),
        (plan(2, 3), 3),
        (plan(2, 0), 0),
        (plan(1, 1, "BF16"), 1),
        (plan(1, 3, zero_optimization={"offload_optimizer": {"device": "cpu"}}), 3),
    ],
    ids=["one", "one-3", "two", "two-3", "two-0", "one-16-bit", "one-offloading"],
)
def test_zero_runs_where_it_has_something_to_divide_or_to_keep(planned, stage):
    assert planned.zero_stage == stage
    assert engine_config(planned)["zero_optimization"]["stage"] == stage


def test_only_under_zero_3_all_ranks_call_the_head_as_often_as_a_whole_micro_batch_needs():
    planned = plan(2, 3)
    assert most_places(planned) == planned.batch.micro_batch_size * planned.spec.data.sequence_length
    assert most_places(plan(2, 2)) is None
    assert most_places(plan(1, 3, "BF16")) is None  # one rank waits for nobody


def test_deepspeed_clips_except_at_stage_0_where_it_would_not_tell_the_norm():
    assert engine_config(plan(2, 1))["gradient_clipping"] == 1.0
    assert engine_config(plan(2, 0))["gradient_clipping"] == 0.0


def test_16_bit_runs_accumulate_gradients_in_32_bit():
    divided = engine_config(plan(2, 1, "BF16"))
    assert divided["bf16"] == {"enabled": True}
    assert divided["data_types"] == {"grad_accum_dtype": "fp32"}
    assert engine_config(plan(2, 0, "BF16"))["torch_autocast"] == {"enabled": True, "dtype": "bfloat16"}


def test_the_users_keys_are_laid_over_ours_object_by_object():
    config = engine_config(plan(2, 2, zero_optimization={"overlap_comm": False}))
    assert config["zero_optimization"]["overlap_comm"] is False
    assert config["zero_optimization"]["stage"] == 2


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ({"timers": {"throughput": {"enabled": "late"}}}, "does not take 'late' for enabled"),
        ({"csv_monitor": {"enabled": "perhaps"}}, r"does not take 'perhaps' for csv_monitor\.enabled"),
        ({"communication_data_type": "fp12"}, "fp12"),
    ],
)
def test_a_value_that_deepspeed_refuses_is_a_named_error_before_training(config, problem):
    with pytest.raises(ConfigurationError, match=problem) as caught:
        check_deepspeed_config(engine_config(plan(1, 1, **config)))
    assert str(caught.value).startswith("spec.deepspeed.config: DeepSpeed does not take")


def test_what_trainyard_sets_itself_passes_the_check():
    check_deepspeed_config(engine_config(plan(1, 1, "BF16", flops_profiler={"enabled": False})))
