"""The teacher of a run, which is read and never changed, and the student that is cut from it."""

from transformers import PreTrainedModel

from trainyard_api.errors import DataError
from trainyard_api.plan import RunPlan
from trainyard_trainer.data.model_place import teacher_place
from trainyard_trainer.models.build import ModelKind
from trainyard_trainer.models.pretrained import ModelData, load_stored_model, stored_config
from trainyard_trainer.models.student import student_of


def load_teacher(plan: RunPlan, data: ModelData, kind: ModelKind) -> PreTrainedModel | None:
    """The teacher in fp32 on the CPU, frozen and without dropout; None where a run has none.

    Args:
        plan: the run.
        data: the prepared data, which describe it.
        kind: what the student computes behind its body, and so the teacher.

    Raises:
        DataError: its files changed since they were checked, or it was never trained for the run's task.
    """
    place, manifest = teacher_place(plan), data.manifest.teacher
    if place is None or manifest is None:
        return None
    config = stored_config(data.prepared, manifest, place.where)
    loaded = load_stored_model(place, data.prepared, manifest, config, kind, seed=plan.spec.training.seed)
    if loaded.initialised:
        raise DataError(
            place.where,
            f"the teacher was not trained for this task: it lacks {', '.join(loaded.initialised[:3])}",
            "Fine-tune it for the task first, and name that run",
        )
    loaded.model.requires_grad_(requires_grad=False)
    loaded.model.train(mode=False)
    return loaded.model


def copied_student(plan: RunPlan, data: ModelData, kind: ModelKind) -> PreTrainedModel | None:
    """The student that a run cuts from its teacher, with its first weights; None where it cuts none.

    Raises:
        DataError: see `load_teacher`.
        ConfigurationError: the teacher lacks the layers, or the width.
    """
    wanted = plan.spec.model.from_teacher
    teacher = load_teacher(plan, data, kind) if wanted is not None else None
    if wanted is None or teacher is None:
        return None
    student = student_of(teacher, wanted).model
    return student.requires_grad_(requires_grad=True)
