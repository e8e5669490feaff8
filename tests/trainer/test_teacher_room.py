"""A teacher that is larger than the memory of a process is refused before training, with figures."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from trainyard_api.errors import ConfigurationError
from trainyard_api.names import PodEnvironment
from trainyard_api.plan import Rendezvous, RunPlan, plan_run
from trainyard_api.spec import TrainingRun
from trainyard_trainer.data.stored_size import StoredSize, stored_size
from trainyard_trainer.memory_limit import host_memory, num_sharing
from trainyard_trainer.models.size import estimate, teacher_bytes
from trainyard_trainer.models.teacher_room import Room, check_loading, check_room, declared_room
from trainyard_trainer.plan_text import plan_lines

GIB = 2**30
TEACHER = StoredSize(parameters=1_100_000_000, in_layers=1_000_000_000)


def plan_of(teacher: str = "file:///teacher", cache: dict[str, Any] | None = None, **changes: Any) -> RunPlan:
    distillation: dict[str, Any] = {"teacher": {"pretrained": {"uri": teacher}}, "losses": {"logits": {}}}
    spec: dict[str, Any] = {
        "pretraining": {"objective": "MaskedLM"},
        "distillation": {**distillation, **({} if cache is None else {"teacherCache": cache})},
        "model": {"architecture": {"preset": "bert-mini"}},
        "data": {"sources": [{"name": "texts", "uri": "file:///texts.txt", "format": "Text"}]},
        "training": {
            "budget": {"steps": 1},
            "globalBatchSize": 64,
            "microBatchSize": 16,
            "optimizer": {"learningRate": 0.001},
            "precision": "BF16",
        },
        **changes,
    }
    run = TrainingRun.model_validate({"metadata": {"name": "run"}, "spec": spec})
    return plan_run(run, storage_root="/runs", rendezvous=Rendezvous(address="x"))


SHARED: dict[str, Any] = {"deepspeed": {"zeroStage": 3}, "workers": {"processesPerNode": 4}}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, 2 * 1_100_000_000),
        ({"training__precision": "FP32"}, 4 * 1_100_000_000),
        (SHARED, 2 * (100_000_000 + 250_000_000)),
        ({**SHARED, "deepspeed": {"zeroStage": 2}}, 2 * 1_100_000_000),
    ],
)
def test_processes_share_the_layers_of_a_teacher_under_zero_3(changes: dict[str, Any], expected: int) -> None:
    plan = plan_of(**{name: value for name, value in changes.items() if "__" not in name})
    if "training__precision" in changes:
        training = plan.spec.training.model_copy(update={"precision": changes["training__precision"]})
        plan = plan.model_copy(update={"spec": plan.spec.model_copy(update={"training": training})})
    assert teacher_bytes(plan, TEACHER) == expected


def refusal(plan: RunPlan, room: Room | None, *, trains: bool = True) -> str:
    try:
        check_room(plan, TEACHER, room, 32_000, trains=trains)
    except ConfigurationError as error:
        return str(error)
    return ""


def test_a_teacher_that_does_not_fit_is_refused_with_figures_and_what_helps() -> None:
    text = refusal(plan_of(), Room(2 * GIB, "free on its device"))
    assert text.startswith(
        "spec.distillation.teacher: its 1,100,000,000 parameters take 2.05 GiB in each process"
    )
    assert "of the student, and a process has 2.00 GiB (free on its device)" in text
    for remedy in ("zeroStage to 3", "a smaller teacher", "more memory", "teacherCache"):
        assert remedy in text


@pytest.mark.parametrize(
    ("plan", "room", "trains", "is_refused"),
    [
        (plan_of(), Room(3 * GIB, ""), True, False),
        (plan_of(), None, True, False),
        (plan_of(**SHARED), Room(GIB, ""), True, False),
        (plan_of(**SHARED), Room(GIB // 2, ""), True, True),
        (plan_of(cache={}), Room(int(2.06 * GIB), ""), False, False),
        (plan_of(), Room(int(2.06 * GIB), ""), True, True),
    ],
)
def test_the_student_counts_where_it_trains_beside_its_teacher(
    plan: RunPlan, room: Room | None, trains: bool, is_refused: bool
) -> None:
    assert bool(refusal(plan, room, trains=trains)) is is_refused


def test_what_shares_its_teacher_and_has_a_cache_already_is_not_told_to() -> None:
    text = refusal(plan_of(cache={}, **SHARED), Room(GIB // 2, "free on its device"), trains=False)
    assert text.endswith("Name a smaller teacher, or give the workers more memory")


def test_a_teacher_that_cannot_be_read_is_refused() -> None:
    check_loading(TEACHER, Room(5 * GIB, "this machine's"))
    with pytest.raises(ConfigurationError, match=r"take 4\.10 GiB in each process while they are read"):
        check_loading(TEACHER, Room(4 * GIB, "this machine's"))


LIMITED = {"processesPerNode": 2, "resources": {"limits": {"memory": "8Gi"}}}


@pytest.mark.parametrize(
    ("workers", "host_bytes", "expected"),
    [
        (LIMITED, None, 4 * GIB),
        ({"processesPerNode": 2}, None, None),
        ({"nodes": 2, "processesPerNode": 2}, 16 * GIB, 4 * GIB),
        ({**LIMITED, "accelerator": {"count": 2}}, None, None),
    ],
)
def test_the_memory_of_a_process_is_known_before_it_where_it_is_declared(
    workers: dict[str, Any], host_bytes: int | None, expected: int | None
) -> None:
    room = declared_room(plan_of(workers=workers), host_bytes)
    assert (None if room is None else room.num_bytes) == expected


def test_the_processes_of_a_pod_share_its_memory_and_on_a_laptop_all_do() -> None:
    plan = plan_of(workers={"nodes": 2, "processesPerNode": 2})
    pod = {PodEnvironment.POD_NAME.value: "run-t0-0"}
    assert (num_sharing(plan, pod), num_sharing(plan, {})) == (2, 4)
    alone = plan.model_copy(update={"batch": plan.batch.model_copy(update={"world_size": 1})})
    assert (num_sharing(alone, pod), num_sharing(alone, {})) == (1, 1)


def test_the_size_of_a_stored_model_is_read_from_headers(tmp_path: Path) -> None:
    assert stored_size(tmp_path) is None
    tensors = {"embeddings.weight": torch.zeros(10, 4), "encoder.layer.0.dense.weight": torch.zeros(4, 4)}
    save_file(tensors, tmp_path / "model-00001-of-00002.safetensors")
    save_file({"encoder.layer.11.bias": torch.zeros(4)}, tmp_path / "model-00002-of-00002.safetensors")
    assert stored_size(tmp_path) == StoredSize(parameters=60, in_layers=20)
    (tmp_path / "model-00002-of-00002.safetensors").write_bytes(b"cut off")
    assert stored_size(tmp_path) is None


def test_a_plan_counts_the_teacher_and_the_logits_of_both(tmp_path: Path) -> None:
    save_file({"encoder.layer.0.dense.weight": torch.zeros(2**10, 2**12)}, tmp_path / "model.safetensors")
    plan = plan_of(tmp_path.as_uri())
    lines = "\n".join(plan_lines(plan))
    assert "(4,194,304 parameters), in the memory of each process, whole, 8 MiB" in lines
    assert "\n  teacher 8.0 MiB" in lines
    alone, beside = estimate(plan), estimate(plan, teacher=stored_size(tmp_path))
    assert beside.memory.total == alone.memory.total + 8 * 2**20
    cached = plan_of(tmp_path.as_uri(), cache={})
    assert estimate(cached, teacher=stored_size(tmp_path)).memory.teacher == 0
    assert "in the memory of the processes of stage Cache only, whole, 8 MiB" in "\n".join(plan_lines(cached))
    assert estimate(cached).memory.logits < estimate(plan).memory.logits


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({"proc/self/cgroup": "0::/pod\n", "sys/fs/cgroup/memory.max": "4096\n"}, 4096),
        ({"proc/self/cgroup": "4:memory:/pod\n", "sys/fs/cgroup/memory/memory.limit_in_bytes": "8192"}, 8192),
        ({"proc/self/cgroup": "0::/pod\n", "sys/fs/cgroup/memory.max": "max\n"}, None),
        ({}, None),
    ],
)
def test_a_container_has_no_more_memory_than_its_group(
    files: dict[str, str], limit: int | None, tmp_path: Path
) -> None:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    assert (host_memory(tmp_path) == limit) if limit else host_memory(tmp_path) > 2**20
