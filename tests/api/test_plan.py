from pathlib import Path

import pytest

from trainyard_api.errors import ConfigurationError
from trainyard_api.names import Environment, Stage
from trainyard_api.plan import Rendezvous, RunPlan, plan_batch, plan_paths, plan_run
from trainyard_api.spec import Budget, Optimizer, Training, Workers
from trainyard_api.spec_distillation import Distillation
from trainyard_api.spec_model import Model
from trainyard_api.validation import load_run_file

SAMPLES = sorted((Path(__file__).parents[2] / "manifests" / "samples").glob("*.yaml"))


def training(global_batch_size, micro_batch_size):
    return Training(
        budget=Budget(steps=1),
        global_batch_size=global_batch_size,
        micro_batch_size=micro_batch_size,
        optimizer=Optimizer(learning_rate=1e-3),
    )


@pytest.mark.parametrize(
    ("global_size", "micro_size", "nodes", "processes", "accumulation"),
    [(8, 8, 1, 1, 1), (8, 2, 1, 1, 4), (8, 2, 2, 1, 2), (8, 1, 2, 4, 1), (96, 16, 3, 2, 1)],
)
def test_the_global_batch_is_micro_times_accumulation_times_world(
    global_size, micro_size, nodes, processes, accumulation
):
    batch = plan_batch(training(global_size, micro_size), Workers(nodes=nodes, processes_per_node=processes))
    assert (batch.accumulation_steps, batch.world_size) == (accumulation, nodes * processes)
    assert batch.micro_batch_size * batch.accumulation_steps * batch.world_size == global_size


@pytest.mark.parametrize(
    ("global_size", "micro_size", "nodes", "fitting"),
    [(8, 3, 1, 9), (8, 16, 1, 16), (7, 2, 2, 8), (1, 1, 2, 2)],
)
def test_a_batch_that_does_not_divide_is_refused_with_one_that_does(global_size, micro_size, nodes, fitting):
    with pytest.raises(ConfigurationError) as raised:
        plan_batch(training(global_size, micro_size), Workers(nodes=nodes))
    assert raised.value.remedy.startswith(f"Set it to {fitting}, ")
    plan_batch(training(fitting, micro_size), Workers(nodes=nodes))


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_a_plan_of_a_sample_has_a_process_per_node_and_survives_its_file(path):
    run = load_run_file(path)
    plan = plan_run(run, storage_root="/runs", rendezvous=Rendezvous(address="node-0", port=1234), attempt=2)
    assert RunPlan.model_validate_json(plan.model_dump_json(by_alias=True)) == plan
    assert [stage.stage for stage in plan.stages] == [Stage.PREPARE, Stage.TRAIN, Stage.EXPORT]
    gang = plan.stage(Stage.TRAIN).nodes
    assert [node.env[Environment.NODE_RANK] for node in gang] == [
        str(n) for n in range(run.spec.workers.nodes)
    ]
    assert {node.env[Environment.MASTER_ADDRESS] for node in gang} == {"node-0"}
    assert plan.paths.logs == f"/runs/{run.metadata.name}/logs/attempt-2"


def test_shards_are_processes_that_differ_in_their_number_alone_and_come_before_the_preparation():
    run = load_run_file(SAMPLES[0])
    preparation = run.spec.data.preparation.model_copy(update={"shards": 3})
    data = run.spec.data.model_copy(update={"preparation": preparation})
    sharded = run.model_copy(update={"spec": run.spec.model_copy(update={"data": data})})
    plan = plan_run(sharded, storage_root="/runs", rendezvous=Rendezvous(address="node-0"))
    assert [stage.stage for stage in plan.stages] == [Stage.READ, Stage.PREPARE, Stage.TRAIN, Stage.EXPORT]
    nodes = plan.stage(Stage.READ).nodes
    assert [node.env for node in nodes] == [{"JOB_COMPLETION_INDEX": str(index)} for index in range(3)]
    assert {node.argv[3:4] for node in nodes} == {("read",)}
    assert len(plan.stage(Stage.PREPARE).nodes) == 1


def test_a_teacher_with_a_cache_gets_a_gang_like_the_one_that_trains_and_before_it():
    run = load_run_file(SAMPLES[0])
    distillation = Distillation.model_validate(
        {"teacher": {"fromRun": {"name": "large"}}, "teacherCache": {}}
    )
    cached = run.model_copy(update={"spec": run.spec.model_copy(update={"distillation": distillation})})
    training, caching = Rendezvous(address="train-0"), Rendezvous(address="cache-0")
    plan = plan_run(cached, storage_root="/runs", rendezvous=training, cache_rendezvous=caching)
    assert [stage.stage for stage in plan.stages] == [Stage.PREPARE, Stage.CACHE, Stage.TRAIN, Stage.EXPORT]
    gangs = [plan.stage(stage).nodes for stage in (Stage.CACHE, Stage.TRAIN)]
    for first, second in zip(*gangs, strict=True):
        assert first.argv == (*second.argv, "--stage", "Cache")
        assert first.env == {**second.env, Environment.MASTER_ADDRESS: "cache-0"}


@pytest.mark.parametrize(
    ("model", "place"),
    [
        ({"architecture": {"preset": "bert-mini"}}, ""),
        ({"fromRun": {"name": "first"}}, "/runs/first/model"),
        ({"pretrained": {"uri": "file:///models/minilm"}}, "file:///models/minilm"),
        ({"pretrained": {"uri": "s3://models/minilm"}}, "s3://models/minilm"),
    ],
)
def test_the_model_to_start_from_lies_beside_the_run_or_where_the_spec_says(model, place):
    assert plan_paths("second", "/runs", 0, Model.model_validate(model)).base_model == place
