"""The quickstart's objects as a whole; `python -m tests.support.rendered` writes the golden files anew."""

import json

import pytest
import yaml

from tests.support.rendered import (
    DEFAULTS,
    GOLDEN,
    SAMPLES,
    golden_texts,
    job_of,
    objects_of,
    owner_of,
    pod_templates_of,
    run_with,
    sharded,
    trainer_of,
)
from trainyard_api.names import PERMANENT_EXIT_CODES, Environment, Stage
from trainyard_api.plan import RunPlan, StagePlan
from trainyard_api.validation import load_run_file
from trainyard_operator.resources import build_read_job, build_stage, plan_for_cluster

QUICKSTART = next(path for path in SAMPLES if path.stem == "quickstart")


@pytest.mark.parametrize("name", ["service", "plan", "read", "prepare", "train", "export"])
def test_the_objects_of_the_quickstart_are_those_of_the_golden_files(name):
    objects = objects_of(load_run_file(QUICKSTART))
    expected = (GOLDEN / f"{name}.yaml").read_text(encoding="utf-8")
    assert list(yaml.safe_load_all(golden_texts(objects)[name])) == list(yaml.safe_load_all(expected))


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_the_config_map_brings_the_plan_to_where_the_processes_look_for_it(path):
    run = load_run_file(path)
    objects = objects_of(run)
    (config_map,) = objects["plan"]
    assert RunPlan.model_validate_json(config_map["data"]["plan.json"]) == plan_for_cluster(
        run, owner_of(run), 0, DEFAULTS
    )
    for pod in pod_templates_of(run):
        container = trainer_of(pod)
        (volume,) = (each for each in pod["spec"]["volumes"] if each["name"] == "plan")
        (mount,) = (each for each in container["volumeMounts"] if each["name"] == "plan")
        assert volume["configMap"]["name"] == config_map["metadata"]["name"]
        (item,) = volume["configMap"]["items"]
        assert f"{mount['mountPath']}/{item['path']}" == container["command"][-1]
        assert item["key"] in config_map["data"]


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_the_objects_of_a_sample_are_plain_json(path):
    objects = objects_of(load_run_file(path))
    assert json.loads(json.dumps(objects)) == objects

    def types(value):
        yield type(value)
        for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            yield from types(inner)

    assert set(types(objects)) <= {dict, list, str, int, bool}


def test_the_storage_claim_is_the_runs_or_the_operators_default():
    def claim(run):
        (volume,) = (
            each for each in objects_of(run)["train"][0]["spec"]["volumes"] if each["name"] == "data"
        )
        return volume["persistentVolumeClaim"]["claimName"]

    assert claim(run_with()) == "trainyard"
    assert claim(run_with(storage={"volumeClaim": {"claimName": "team-data"}})) == "team-data"


def test_the_image_is_the_runs_or_the_operators_default():
    assert trainer_of(objects_of(run_with())["train"][0])["image"] == "trainyard/trainer:0.1.0"
    own = run_with(workers={"nodes": 2, "image": "registry.example/team/trainer@sha256:0123"})
    assert trainer_of(objects_of(own)["train"][0])["image"] == "registry.example/team/trainer@sha256:0123"


def test_every_permanent_exit_code_fails_the_job_at_once_and_a_disruption_costs_no_retry():
    permanent, disruption = job_of(run_with())["spec"]["podFailurePolicy"]["rules"]
    assert permanent["action"] == "FailJob"
    assert permanent["onExitCodes"]["values"] == sorted(PERMANENT_EXIT_CODES)
    assert 0 not in permanent["onExitCodes"]["values"]
    assert disruption == {
        "action": "Ignore",
        "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}],
    }


def test_each_shard_is_one_index_and_the_job_controller_numbers_them():
    run = run_with()
    (job,) = build_stage(
        run,
        owner_of(run),
        plan_for_cluster(sharded(run, 7), owner_of(run), 0, DEFAULTS),
        Stage.READ,
        DEFAULTS,
    )
    spec = job["spec"]
    assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == ("Indexed", 7, 7)
    assert (spec["backoffLimitPerIndex"], spec["maxFailedIndexes"]) == (2, 0)
    assert Environment.SHARD_INDEX not in {each["name"] for each in trainer_of(spec["template"])["env"]}


@pytest.mark.parametrize("changed", [{"argv": ("python", "other")}, {"env": {"SHARDS": "4"}}])
def test_shards_that_a_job_cannot_tell_apart_are_refused(changed):
    run = run_with()
    plan = plan_for_cluster(sharded(run, 2), owner_of(run), 0, DEFAULTS)
    first, second = plan.stage(Stage.READ).nodes
    reading = StagePlan(stage=Stage.READ, nodes=(first, second.model_copy(update=changed)))
    changed_plan = plan.model_copy(update={"stages": (reading, *plan.stages[1:])})
    with pytest.raises(ValueError, match="JOB_COMPLETION_INDEX"):
        build_read_job(run, owner_of(run), changed_plan, DEFAULTS)


def test_without_a_queue_nothing_is_said_to_kueue():
    objects = objects_of(run_with())
    assert "kueue" not in json.dumps(objects)
    assert "priorityClassName" not in objects["train"][0]["spec"]


def test_kueue_admits_the_gang_as_one_group_of_its_attempt_and_the_job_by_its_queue():
    run = run_with(
        metadata={"labels": {"kueue.x-k8s.io/priority-class": "urgent"}},
        scheduling={"queueName": "team", "priorityClassName": "high"},
    )
    first, second = objects_of(run, attempt=0), objects_of(run, attempt=1)
    for pod in first["train"]:
        labels, annotations = pod["metadata"]["labels"], pod["metadata"]["annotations"]
        assert labels["kueue.x-k8s.io/queue-name"] == "team"
        assert labels["kueue.x-k8s.io/priority-class"] == "urgent"
        assert annotations == {
            "kueue.x-k8s.io/pod-group-total-count": "2",
            "kueue.x-k8s.io/retriable-in-group": "false",
        }
    groups = [
        {pod["metadata"]["labels"]["kueue.x-k8s.io/pod-group-name"] for pod in each["train"]}
        for each in (first, second)
    ]
    assert len(groups[0]) == len(groups[1]) == 1
    assert groups[0] != groups[1]
    (job,) = first["read"]
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "team"
    assert not any(key.startswith("kueue") for key in job["spec"]["template"]["metadata"]["labels"])
    for pod in (*first["prepare"], *first["export"]):
        assert pod["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "team"
        assert "annotations" not in pod["metadata"]


def test_what_kueue_and_the_scheduler_write_is_left_to_them():
    run = run_with(scheduling={"queueName": "team", "priorityClassName": "high"})
    assert "suspend" not in job_of(run)["spec"]
    for pod in pod_templates_of(run):
        assert pod["spec"]["priorityClassName"] == "high"
        assert not {"schedulingGates", "nodeSelector", "nodeName", "priority"} & pod["spec"].keys()
        assert "kueue.x-k8s.io/managed" not in pod["metadata"]["labels"]


def test_a_gang_of_many_pods_shares_its_parts_and_is_built_in_order():
    run = run_with(
        workers={"nodes": 500},
        training={
            "budget": {"steps": 1},
            "globalBatchSize": 500,
            "microBatchSize": 1,
            "optimizer": {"learningRate": 1e-3},
        },
    )
    pods = objects_of(run)["train"]
    assert [pod["metadata"]["labels"]["trainyard.dev/node-index"] for pod in pods] == [
        str(index) for index in range(500)
    ]
    assert len({id(pod["spec"]["volumes"]) for pod in pods}) == 1
