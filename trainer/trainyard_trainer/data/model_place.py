"""The stored models that a run reads, as its plan names them: its own first weights, and its teacher."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from trainyard_api.plan import RunPlan
from trainyard_api.spec import TrainingRunSpec
from trainyard_api.spec_distillation import Teacher
from trainyard_api.spec_model import Model
from trainyard_trainer.data.locations import is_local
from trainyard_trainer.data.sources import resolve_mounts


@dataclass(frozen=True, slots=True)
class ModelPlace:
    """Where a stored model lies.

    Attributes:
        role: what the run does with it, as an error calls it.
        reference: folder of a run in the same storage, or URI.
        where: the field of the spec that names it.
        run: name of the run that made it, where the spec names one.
        local: its folder, where it lies in a file system of this machine.
    """

    role: Literal["the model to start from", "the teacher"]
    reference: str
    where: str
    run: str | None
    local: Path | None


def base_place(plan: RunPlan) -> ModelPlace | None:
    """The model that a run starts from; None where its first weights are not stored by themselves."""
    if not plan.paths.base_model:
        return None
    where = base_field(plan.spec)
    return _place(plan, "the model to start from", plan.paths.base_model, where, plan.spec.model)


def teacher_place(plan: RunPlan) -> ModelPlace | None:
    """The model that a run listens to."""
    distillation = plan.spec.distillation
    if distillation is None:
        return None
    where = f"spec.distillation.teacher.{_member(distillation.teacher)}"
    return _place(plan, "the teacher", plan.paths.teacher, where, distillation.teacher)


def base_field(spec: TrainingRunSpec) -> str:
    """The field of the spec that names the model to start from."""
    return f"spec.model.{_member(spec.model)}"


def _member(model: Model | Teacher) -> str:
    return "fromRun.name" if model.from_run is not None else "pretrained.uri"


def _place(
    plan: RunPlan,
    role: Literal["the model to start from", "the teacher"],
    reference: str,
    where: str,
    model: Model | Teacher,
) -> ModelPlace:
    run = model.from_run.name if model.from_run is not None else None
    return ModelPlace(role, reference, where, run, _local_folder(plan, reference))


def _local_folder(plan: RunPlan, reference: str) -> Path | None:
    if "://" not in reference:
        return Path(reference)
    resolved = resolve_mounts(reference, plan.mounts)
    return Path(resolved.partition("://")[2]) if is_local(resolved) else None
