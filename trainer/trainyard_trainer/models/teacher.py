"""The teacher of a run: a stored model that is read and never changed."""

from transformers import PreTrainedModel

from trainyard_api.errors import DataError
from trainyard_api.plan import RunPlan
from trainyard_trainer.data.model_place import teacher_place
from trainyard_trainer.models.build import model_kind
from trainyard_trainer.models.pretrained import ModelData, load_stored_model, stored_config


def load_teacher(plan: RunPlan, data: ModelData) -> PreTrainedModel | None:
    """The teacher in fp32 on the CPU, frozen and without dropout; None where a run has none.

    Behind its body it computes what its student does.

    Args:
        plan: the run.
        data: the prepared data, which describe it.

    Raises:
        DataError: its files changed since they were checked, or it was never trained for the run's task.
    """
    place, manifest = teacher_place(plan), data.manifest.teacher
    if place is None or manifest is None:
        return None
    config = stored_config(data.prepared, manifest, place.where)
    kind, seed = model_kind(plan.spec), plan.spec.training.seed
    loaded = load_stored_model(place, data.prepared, manifest, config, kind, seed=seed)
    if loaded.initialised:
        raise DataError(
            place.where,
            f"the teacher was not trained for this task: it lacks {', '.join(loaded.initialised[:3])}",
            "Fine-tune it for the task first, and name that run",
        )
    loaded.model.requires_grad_(requires_grad=False)
    loaded.model.train(mode=False)
    return loaded.model
