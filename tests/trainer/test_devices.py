"""What a process computes on: never silently on the CPU of a pod that was given something better."""

import json

import pytest
import torch

from tests.support.rendered import run_with
from trainyard_api.errors import ConfigurationError, TransientError
from trainyard_api.plan import Rendezvous, plan_run
from trainyard_api.spec import Accelerator, Workers
from trainyard_trainer import single_stages
from trainyard_trainer.devices import check_build, given_devices, select_device
from trainyard_trainer.signals import StopRequest

pytestmark = pytest.mark.skipif(
    torch.accelerator.is_available(), reason="it tells what happens without a device, and here is one"
)
POD = {"TRAINYARD_POD_NAME": "speeches-t0-0-abcdef"}
TWO_GPUS = Workers(processes_per_node=2, accelerator=Accelerator(count=2))


def test_only_a_pod_was_given_devices_and_only_those_that_the_run_asks_for():
    assert given_devices(TWO_GPUS, POD) == TWO_GPUS.accelerator
    assert given_devices(TWO_GPUS, {}) is None
    assert given_devices(Workers(), POD) is None


def test_where_none_was_given_and_none_is_the_cpu_trains():
    assert select_device(0, None) == torch.device("cpu")


def test_a_node_that_does_not_show_its_devices_is_a_fault_that_another_node_may_not_have(monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    with pytest.raises(TransientError, match=r"given 2 nvidia.com/gpu, and PyTorch finds none"):
        select_device(0, TWO_GPUS.accelerator)


@pytest.mark.parametrize(
    "name", ["nvidia.com/gpu", "nvidia.com/mig-1g.10gb", "amd.com/gpu", "google.com/tpu", "habana.ai/gaudi"]
)
def test_pytorch_that_is_not_built_for_the_devices_is_refused_before_it_trains_on_the_cpu(monkeypatch, name):
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.version, "hip", None)
    with pytest.raises(ConfigurationError, match=f"cannot drive {name}") as raised:
        select_device(0, Accelerator(resource_name=name, count=1))
    assert "spec.workers.image" in raised.value.remedy


@pytest.mark.parametrize(
    ("name", "version"),
    [("nvidia.com/gpu", "cuda"), ("nvidia.com/gpu.shared", "cuda"), ("amd.com/gpu", "hip")],
)
def test_pytorch_that_is_built_for_the_devices_passes_on_a_pod_without_them(monkeypatch, name, version):
    monkeypatch.setattr(torch.version, version, "7.0")
    check_build(Accelerator(resource_name=name, count=1))


def test_preparation_already_refuses_the_wrong_image_when_no_device_is_held_yet(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(single_stages, "die_with_runner", lambda: None)
    monkeypatch.setattr(StopRequest, "install", lambda self: None)
    monkeypatch.setenv("TRAINYARD_POD_NAME", POD["TRAINYARD_POD_NAME"])
    monkeypatch.setenv("TRAINYARD_TERMINATION_LOG", str(tmp_path / "termination-log"))
    run = run_with(workers={"accelerator": {"resourceName": "amd.com/gpu", "count": 1}})
    plan = plan_run(run, storage_root=str(tmp_path), rendezvous=Rendezvous(address="127.0.0.1"))
    plan_file = tmp_path / "plan.json"
    plan_file.write_text(plan.model_dump_json(by_alias=True, exclude_none=True))
    with pytest.raises(ConfigurationError, match=r"cannot drive amd\.com/gpu"):
        single_stages.run_prepare(plan_file, cores=1)
    assert json.loads((tmp_path / "termination-log").read_text())["exitCode"] == 64
