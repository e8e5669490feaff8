"""The teacher of a run: a stored model that is read and never changed."""

import os

import torch
from transformers import PreTrainedModel

from trainyard_api.errors import DataError
from trainyard_api.plan import RunPlan
from trainyard_trainer.data.base_model import weights_folder
from trainyard_trainer.data.model_place import teacher_place
from trainyard_trainer.data.stored_size import stored_size
from trainyard_trainer.memory_limit import host_memory, num_sharing
from trainyard_trainer.models.build import model_kind
from trainyard_trainer.models.pretrained import ModelData, load_stored_model, stored_config
from trainyard_trainer.models.teacher_room import Room, check_loading, check_room


def needs_teacher(plan: RunPlan, *, resumes_all: bool) -> bool:
    """Whether training has to load the teacher: to listen to it, or to copy layers of it at the first start.

    Args:
        plan: the run.
        resumes_all: whether a checkpoint holds every weight of the student.
    """
    copies = plan.spec.model.from_teacher is not None and not resumes_all
    return copies or not plan.spec.caches_teacher


def check_teacher_room(plan: RunPlan, data: ModelData, device: torch.device, *, trains: bool) -> None:
    """Refuse a teacher for which there is no room here, before it is read.

    Args:
        plan: the run.
        data: the prepared data, which describe it.
        device: where it will compute.
        trains: whether the student will be there too.

    Raises:
        ConfigurationError: it is too large, with figures and what helps.
    """
    place, manifest = teacher_place(plan), data.manifest.teacher
    if place is None or manifest is None:
        return
    size = stored_size(weights_folder(place, data.prepared, manifest))
    host = Room(host_memory() // num_sharing(plan, os.environ), "this machine's, divided by its processes")
    check_loading(size, host)
    room = host if device.type == "cpu" else Room(torch.cuda.mem_get_info(device)[0], "free on its device")
    check_room(plan, size, room, data.manifest.tokenizer.vocabulary_size, trains=trains)


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
