"""One plan, two back ends: what the local runner starts is what the pods of the operator start.

The local runner starts every stage of every sample for real, with a script in the interpreter's place that
writes down its command line and variables. The rendered pods have to agree, but for what is named here.
"""

import json
import os
import sys
import time
from pathlib import Path

import pytest

from tests.support.rendered import (
    DEFAULTS,
    SAMPLES,
    cached,
    gang_of,
    job_of,
    objects_of,
    owner_of,
    run_with,
    sharded,
    trainer_of,
)
from trainyard_api.names import Environment, PodEnvironment, Stage
from trainyard_api.plan import RunPlan
from trainyard_api.validation import load_run_file
from trainyard_operator.resources import plan_for_cluster
from trainyard_trainer.local import LocalOptions, LocalRunner
from trainyard_trainer.run_folder import RunFolder
from trainyard_trainer.stage_run import StopControl, run_stage

ATTEMPT = 2
ADDRESSES = {Environment.MASTER_ADDRESS, Environment.MASTER_PORT}
"""Where rank 0 is: a port of loopback, or the host name of a pod."""
ONLY_IN_PODS = {
    *PodEnvironment,
    "HOME",
    "USER",
    "PYTHONUNBUFFERED",
    "NVIDIA_VISIBLE_DEVICES",
} - {PodEnvironment.TERMINATION_LOG}
"""Who the pod is, where it reports, and what an image without a user, a terminal and a device lacks."""
OF_THE_SHELL = {"PWD", "OLDPWD", "SHLVL", "_"}
"""What the recording script's own shell adds."""

RECORDER = """#!/bin/sh
{ for word in "$@"; do printf '%s\\0' "$word"; done; printf '\\0'; env -0; } > "$RECORDS/$$.tmp"
mv "$RECORDS/$$.tmp" "$RECORDS/$$.record"
"""


@pytest.fixture
def records(tmp_path, monkeypatch):
    """The folder in which the interpreter that the runner starts writes down what it got."""
    folder = tmp_path / "records"
    folder.mkdir()
    recorder = tmp_path / "python"
    recorder.write_text(RECORDER)
    recorder.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(recorder))
    monkeypatch.setenv("RECORDS", str(folder))
    return folder


def local_plan(run, tmp_path):
    """The plan that the local runner stores for an attempt."""
    options = LocalOptions(output=tmp_path / "runs", mounts={}, cores=2, metrics_port=0)
    with RunFolder(options.output / run.metadata.name) as folder:
        folder.claim(run)
        runner = LocalRunner(run, folder, options, None, None, None, time.time)
        return runner.plan(ATTEMPT)


def started_locally(plan, stage, records):
    """Arguments and variables of the processes that the local runner starts for a stage, without its own."""
    for old in records.iterdir():
        old.unlink()
    outcome = run_stage(
        plan, stage, StopControl(), lambda: None, clock=time.time, grace_seconds=5.0, at_once=2
    )
    assert outcome.exit_code == 0
    started = []
    for record in records.glob("*.record"):
        argv, _, environment = record.read_bytes().partition(b"\0\0")
        variables = dict(entry.split("=", 1) for entry in environment.decode().split("\0") if entry)
        own = {
            name: value
            for name, value in variables.items()
            if os.environ.get(name) != value and name not in OF_THE_SHELL
        }
        started.append((argv.decode().split("\0"), own))
    return sorted(started, key=lambda each: each[1].get(Environment.NODE_RANK, ""))


def started_by_the_job(job):
    """The same for each index of a Job, whose controller adds the number of the index."""
    ((argv, variables),) = started_in_containers([trainer_of(job["spec"]["template"])])
    return [
        (argv, {**variables, Environment.SHARD_INDEX: str(index)})
        for index in range(job["spec"]["completions"])
    ]


def started_in_pods(objects, stage):
    """Arguments and variables of the containers that the operator makes for a stage."""
    return started_in_containers([trainer_of(pod) for pod in objects[stage.lower()]])


def started_in_containers(containers):
    """Arguments and variables of containers."""
    return [
        (
            [*container["command"][1:], *container.get("args", [])],
            {each["name"]: each.get("value") for each in container["env"]},
        )
        for container in containers
    ]


def without_plan_path(argv):
    assert argv.count("--plan") == 1
    place = argv.index("--plan") + 1
    assert argv[place].endswith("/plan.json")
    return [*argv[:place], *argv[place + 1 :]]


@pytest.mark.parametrize("stage", [Stage.PREPARE, Stage.TRAIN, Stage.EXPORT])
@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_every_rank_gets_the_same_command_line_and_variables_on_a_laptop_and_in_pods(
    path, stage, records, tmp_path
):
    run = load_run_file(path)
    locally = started_locally(local_plan(run, tmp_path), stage, records)
    in_pods = started_in_pods(objects_of(run, ATTEMPT), stage)
    assert len(locally) == len(in_pods) == (run.spec.workers.nodes if stage is Stage.TRAIN else 1)
    for (local_argv, local_variables), (pod_argv, pod_variables) in zip(locally, in_pods, strict=True):
        assert without_plan_path(pod_argv) == without_plan_path(local_argv)
        assert pod_variables.keys() - local_variables.keys() == ONLY_IN_PODS
        assert local_variables.keys() <= pod_variables.keys()
        for name in local_variables.keys() - ADDRESSES:
            assert pod_variables[name] == local_variables[name], name
        assert (local_variables.keys() >= ADDRESSES) == (stage is Stage.TRAIN)


def test_every_rank_that_asks_a_teacher_gets_the_same_on_a_laptop_and_in_pods(records, tmp_path):
    run = cached(run_with(workers={"nodes": 2, "processesPerNode": 1}))
    locally = started_locally(local_plan(run, tmp_path), Stage.CACHE, records)
    in_pods = started_in_containers([trainer_of(pod) for pod in gang_of(run, Stage.CACHE, ATTEMPT)])
    assert len(locally) == len(in_pods) == 2
    for (local_argv, local_variables), (pod_argv, pod_variables) in zip(locally, in_pods, strict=True):
        assert without_plan_path(pod_argv) == without_plan_path(local_argv)
        assert local_argv[-2:] == ["--stage", "Cache"]
        assert pod_variables.keys() - local_variables.keys() == ONLY_IN_PODS
        for name in local_variables.keys() - ADDRESSES:
            assert pod_variables[name] == local_variables[name], name
        assert pod_variables[Environment.MASTER_ADDRESS].startswith(f"cache-{ATTEMPT}-0.")


def test_every_shard_gets_the_same_command_line_and_variables_on_a_laptop_and_in_pods(records, tmp_path):
    run = sharded(run_with(), 3)
    # On 2 cores the third process starts when the first two have ended.
    plan = local_plan(run, tmp_path)
    assert (plan.preparation_processes, plan.shard_processes) == (2, 1)
    locally = started_locally(plan, Stage.READ, records)
    in_pods = started_by_the_job(job_of(run))
    assert len(locally) == len(in_pods) == 3
    for index, (local_argv, local_variables) in enumerate(
        sorted(locally, key=lambda each: each[1][Environment.SHARD_INDEX])
    ):
        pod_argv, pod_variables = in_pods[index]
        assert without_plan_path(pod_argv) == without_plan_path(local_argv)
        assert pod_variables.keys() - local_variables.keys() == ONLY_IN_PODS
        assert {name: pod_variables[name] for name in local_variables} == local_variables


def comparable(plan):
    """A plan without what the two back ends decide for themselves."""
    content = json.loads(plan.model_dump_json())
    for own in ("paths", "mounts", "threads_per_process", "preparation_processes", "shard_processes"):
        content.pop(own)
    for stage in content["stages"]:
        for node in stage["nodes"]:
            node["argv"] = without_plan_path(node["argv"])[1:]
            for name in ADDRESSES:
                node["env"].pop(name, None)
    return content


@pytest.mark.parametrize("num_shards", [1, 2])
@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_the_plan_that_the_ranks_read_is_the_same_but_for_paths_threads_and_addresses(
    path, num_shards, tmp_path
):
    run = sharded(load_run_file(path), num_shards)
    local = local_plan(run, tmp_path)
    stored = RunPlan.model_validate_json(
        (tmp_path / "runs" / run.metadata.name / "plan.json").read_text(encoding="utf-8")
    )
    assert stored == local
    cluster = plan_for_cluster(run, owner_of(run), ATTEMPT, DEFAULTS)
    assert comparable(local) == comparable(cluster)
    local_root, cluster_root = Path(local.paths.run_folder).parent, Path(cluster.paths.run_folder).parent
    assert bool(local.paths.base_model) == bool(cluster.paths.base_model)
    for name, place in local.paths.model_dump(exclude_defaults=True).items():
        # A model that lies elsewhere has the same address everywhere.
        expected = place if "://" in place else str(cluster_root / Path(place).relative_to(local_root))
        assert getattr(cluster.paths, name) == expected
