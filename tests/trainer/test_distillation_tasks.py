"""Students of a task: what one optimizer step computes, without an engine, and how they are judged."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.support.base_models import store_model
from tests.support.labelled import prepare_labelled, task_plan
from tests.trainer.test_export_model import write_checkpoint
from tests.trainer.test_fine_tuning_tasks import TASKS, TAUGHT, student_changes, teacher_of
from trainyard_api.errors import DataError
from trainyard_api.plan import RunPlan
from trainyard_api.status import ModelStatus
from trainyard_trainer.comparison import Limits, compare_with_teacher
from trainyard_trainer.distributed import Ranks
from trainyard_trainer.evaluation.speed import Timing
from trainyard_trainer.export import export
from trainyard_trainer.imitation import with_teacher
from trainyard_trainer.methods.loss_terms import term_factors, term_means
from trainyard_trainer.models.teacher import load_teacher
from trainyard_trainer.network import build_network
from trainyard_trainer.training_record import read_training_record
from trainyard_trainer.workload import open_workload

CPU = torch.device("cpu")
ALONE = Ranks(rank=0, local_rank=0, world_size=1, device=CPU)
SPEED = {
    "size_bytes": 0,
    "latency_p50_seconds": 0.0,
    "latency_p95_seconds": 0.0,
    "tokens_per_second": 0.0,
}
"""What of a measured model depends on the machine and on where it is stored."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Teachers of all tasks in `teachers`."""
    made = tmp_path_factory.mktemp("students")
    encoder = store_model(made / "encoder" / "model")
    decoder = store_model(made / "decoder" / "model", "llama-tiny")
    for kind in TAUGHT:
        teacher_of(kind, decoder if kind == "chat" else encoder, made / "teachers" / kind)
    return made


def student_plan(folder: Path, kind: str, micro: int, world_size: int, **changes: Any) -> RunPlan:
    records, task = TASKS[kind]
    teacher = folder / "teachers" / kind
    return task_plan(
        teacher,
        folder / kind,
        records,
        task,
        data__validationFraction=0.2,
        training__globalBatchSize=8,
        training__microBatchSize=micro,
        training__precision="FP32",
        workers={"processesPerNode": world_size},
        **{**student_changes(kind, teacher), **changes},
    )


def one_step(plan: RunPlan) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
    """The mean of each term over the first optimizer step of all ranks, and the gradients."""
    workload = open_workload(plan)
    teacher = load_teacher(plan, workload.data)
    network = build_network(plan, workload.data, None, teacher=teacher)
    model, terms = with_teacher(plan, workload, network, teacher, ALONE)
    batches = [
        batch for rank in range(plan.batch.world_size) for batch in workload.supply(rank).step_batches(0)
    ]
    assert len(batches) == plan.batch.world_size * plan.batch.accumulation_steps
    counted = ("loss_weight", "num_labels", "num_tokens", "num_compared")
    counts = SimpleNamespace(**{name: sum(getattr(batch, name) for batch in batches) for name in counted})
    factors = term_factors(terms, counts)
    sums = torch.zeros(len(terms))
    for batch in batches:
        found = model.train()(*batch.model_arguments(CPU)).reshape(-1)
        (found * torch.tensor(factors)).sum().backward()
        sums += found.detach()
    gradients = {
        name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None
    }
    return term_means(terms, factors, sums.tolist()), gradients


@pytest.mark.parametrize("kind", TAUGHT)
def test_a_step_of_a_student_does_not_depend_on_accumulation_and_ranks(folder: Path, kind: str) -> None:
    whole_plan, divided_plan = student_plan(folder, kind, 8, 1), student_plan(folder, kind, 2, 2)
    prepare_labelled(whole_plan)
    prepare_labelled(divided_plan)
    means, gradients = one_step(whole_plan)
    divided_means, divided_gradients = one_step(divided_plan)
    assert means == pytest.approx(divided_means, rel=2e-4)
    assert means["logits"] > 0
    assert gradients.keys() == divided_gradients.keys()
    scale = max(float(gradient.abs().max()) for gradient in gradients.values())
    for name, gradient in gradients.items():
        assert (gradient - divided_gradients[name]).abs().max() < 1e-5 * scale, name


def test_a_teacher_that_numbers_the_classes_otherwise_is_refused_before_training(folder: Path) -> None:
    plan = student_plan(folder, "single", 8, 1, fineTuning__labels=["spam", "ham"])
    with pytest.raises(DataError, match=r"classes are ham, spam, and the data's spam, ham"):
        prepare_labelled(plan)


def exported_student(folder: Path, kind: str) -> tuple[RunPlan, int, ModelStatus]:
    """A student with its first weights, exported; the plan, its held-out examples, and the status."""
    plan = student_plan(folder, kind, 8, 1)
    data = prepare_labelled(plan)
    network = build_network(plan, data, None, teacher=load_teacher(plan, data))
    write_checkpoint(Path(plan.paths.checkpoints), network.model, 1)
    return plan, len(data.validation), export(plan, clock=lambda: 1.8e9)


@pytest.mark.parametrize(("kind", "metric"), [("words", "SeqevalF1"), ("chat", "Loss")])
def test_an_exported_student_stands_beside_its_teacher(folder: Path, kind: str, metric: str) -> None:
    plan, num_held_out, status = exported_student(folder, kind)
    found, record = status.comparison, read_training_record(Path(plan.paths.model))
    assert found is not None
    assert record is not None
    assert record.comparison == found
    assert found.student.parameters == status.parameters < found.teacher.parameters
    assert found.student.size_bytes == record.files["model.safetensors"].size_bytes
    assert found.teacher.size_bytes == (folder / "teachers" / kind / "model.safetensors").stat().st_size
    assert (found.metric, found.examples, found.row_tokens) == (metric, num_held_out, 64)
    assert found.teacher.quality is not None
    assert 0 < found.student.latency_p50_seconds <= found.student.latency_p95_seconds


def test_a_teacher_beside_itself_keeps_all_of_its_quality(folder: Path) -> None:
    plan = student_plan(folder, "number", 8, 1)
    teacher = load_teacher(plan, prepare_labelled(plan))
    assert teacher is not None
    limits = Limits(latency=Timing(0.0, most=2), throughput=Timing(0.0, most=2))
    found = compare_with_teacher(plan, teacher, 1000, limits=limits)
    assert found is not None
    assert found.retention_percent == 100.0
    assert found.student.model_copy(update=SPEED) == found.teacher.model_copy(update=SPEED)
    assert (found.student.size_bytes, found.repeats) == (1000, 2)


def test_a_teacher_that_is_gone_does_not_keep_its_student_from_being_exported(
    folder: Path, tmp_path: Path
) -> None:
    plan, _, status = exported_student(folder, "single")
    assert status.comparison is not None
    gone = {"model": str(tmp_path / "model"), "teacher": (tmp_path / "gone").as_uri()}
    paths = plan.paths.model_copy(update=gone)
    status = export(plan.model_copy(update={"paths": paths}), clock=lambda: 1.8e9)
    assert status.comparison is None
    assert "It was not compared with it: `spec.distillation" in (tmp_path / "model" / "README.md").read_text()
