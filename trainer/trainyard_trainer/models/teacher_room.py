"""Whether a teacher and its student have room in the memory of a process: asked before anything is loaded.

What is refused here cannot work: weights, gradients and optimizer state alone are larger than the memory.
Activations come on top, so that a run that passes may still run out (`trainyard plan` estimates them).
"""

from dataclasses import dataclass

from trainyard_api.errors import ConfigurationError
from trainyard_api.plan import RunPlan
from trainyard_api.quantities import parse_quantity
from trainyard_trainer.data.stored_size import StoredSize
from trainyard_trainer.models.size import estimate, teacher_bytes

_GIB = 2**30


@dataclass(frozen=True, slots=True)
class Room:
    """Memory that one process may take."""

    num_bytes: int
    """How much."""
    of: str
    """Of what, as an error says it."""


def declared_room(plan: RunPlan, host_bytes: int | None) -> Room | None:
    """The memory of a training process as far as it is known before there is one; None where it is not.

    What a device has is only known on it.

    Args:
        plan: the run.
        host_bytes: memory of the machine, where training runs on this one.
    """
    workers = plan.spec.workers
    if workers.accelerator.count:
        return None
    if host_bytes is not None:
        return Room(host_bytes // plan.batch.world_size, "this machine's, divided by the processes")
    limits = workers.resources.get("limits")
    limit = parse_quantity(limits.get("memory")) if isinstance(limits, dict) else None
    if limit is None:
        return None
    return Room(
        int(limit) // workers.processes_per_node, "workers.resources.limits.memory, divided by its processes"
    )


def check_loading(teacher: StoredSize | None, room: Room) -> None:
    """Refuse a teacher that cannot even be read: each process holds all of it in fp32 meanwhile.

    Raises:
        ConfigurationError: it is larger than the memory of a process outside its device.
    """
    if teacher is not None and 4 * teacher.parameters > room.num_bytes:
        raise ConfigurationError(
            "spec.distillation.teacher",
            f"its {teacher.parameters:,} parameters take {_gib(4 * teacher.parameters)} GiB in each process "
            f"while they are read, and a process has {_gib(room.num_bytes)} GiB ({room.of})",
            "Lower workers.processesPerNode, give the workers more memory, or name a smaller teacher",
        )


def check_room(
    plan: RunPlan, teacher: StoredSize | None, room: Room | None, vocabulary_size: int, *, trains: bool
) -> None:
    """Refuse a teacher that does not fit.

    Args:
        plan: the run.
        teacher: its teacher's size; nothing is known where it is None.
        room: memory of a process; nothing is known where it is None.
        vocabulary_size: entries of the tokenizer.
        trains: whether the student is in memory too.

    Raises:
        ConfigurationError: the states are larger than the memory.
    """
    if teacher is None or room is None:
        return
    of_teacher = teacher_bytes(plan, teacher)
    of_student = _student_bytes(plan, vocabulary_size) if trains else 0
    if of_teacher + of_student <= room.num_bytes:
        return
    student = (
        f" and {_gib(of_student)} GiB for weights, gradients and optimizer of the student" if trains else ""
    )
    raise ConfigurationError(
        "spec.distillation.teacher",
        f"its {teacher.parameters:,} parameters take {_gib(of_teacher)} GiB in each process{student}, and a "
        f"process has {_gib(room.num_bytes)} GiB ({room.of})",
        _remedy(plan),
    )


def _student_bytes(plan: RunPlan, vocabulary_size: int) -> int:
    """States of a student whose size its spec tells; 0 of others, since what is refused has to be sure."""
    if plan.spec.model.architecture is None:
        return 0
    memory = estimate(plan, vocabulary_size=vocabulary_size).memory
    return memory.parameters + memory.gradients + memory.master_parameters + memory.optimizer_state


def _remedy(plan: RunPlan) -> str:
    choices = ["name a smaller teacher", "give the workers more memory"]
    if not plan.divides_weights:
        choices.insert(0, "set deepspeed.zeroStage to 3 with more processes, which share its layers")
    if not plan.spec.caches_teacher:
        choices.append("set teacherCache, with which only the stage Cache needs it")
    text = ", or ".join(choices)
    return text[0].upper() + text[1:]


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / _GIB:,.2f}"
