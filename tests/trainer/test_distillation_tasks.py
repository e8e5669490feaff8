"""Students of a task: what one optimizer step computes, without an engine."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.support.base_models import store_model
from tests.support.labelled import prepare_labelled, task_plan
from tests.trainer.test_fine_tuning_tasks import TASKS, TAUGHT, student_changes, teacher_of
from trainyard_api.errors import DataError
from trainyard_api.plan import RunPlan
from trainyard_trainer.distributed import Ranks
from trainyard_trainer.imitation import with_teacher
from trainyard_trainer.methods.loss_terms import term_factors, term_means
from trainyard_trainer.models.teacher import load_teacher
from trainyard_trainer.network import build_network
from trainyard_trainer.workload import open_workload

CPU = torch.device("cpu")
ALONE = Ranks(rank=0, local_rank=0, world_size=1, device=CPU)


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
