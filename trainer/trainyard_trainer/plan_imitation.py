"""What a plan tells of a student and its teacher, as far as their configurations can be read already."""

from collections.abc import Iterator
from dataclasses import dataclass

from transformers import AutoConfig, PreTrainedConfig

from trainyard_api.plan import RunPlan
from trainyard_api.spec import TrainingRunSpec
from trainyard_trainer.data.base_config import CONFIG, check_config
from trainyard_trainer.data.model_place import ModelPlace, base_place, teacher_place
from trainyard_trainer.models.architecture import served_objective
from trainyard_trainer.models.build import build_config, model_kind
from trainyard_trainer.models.config_size import ModelSize, size_of
from trainyard_trainer.models.student import student_config


@dataclass(frozen=True)
class Imitation:
    """The sizes of a student and its teacher.

    Attributes:
        teacher: the teacher's.
        student: the student's; None where the model that it starts from cannot be read yet.
        vocabulary_size: rows of the teacher's embedding, of which the student has at most as many.
    """

    teacher: ModelSize
    student: ModelSize | None
    vocabulary_size: int


def read_imitation(plan: RunPlan) -> Imitation | None:
    """The sizes of a student and its teacher; None where the teacher is not there yet, or elsewhere.

    Raises:
        ConfigurationError: the teacher serves another objective, or lacks the layers or the width.
        DataError: its configuration is none that Trainyard reads.
    """
    config = _config(plan.spec, teacher_place(plan))
    if config is None:
        return None
    kind, length = model_kind(plan.spec), plan.spec.data.sequence_length
    student = _student_config(plan, config)
    return Imitation(
        teacher=size_of(config, kind, sequence_length=length),
        student=None if student is None else size_of(student, kind, sequence_length=length),
        vocabulary_size=int(config.vocab_size),
    )


def imitation_lines(found: Imitation) -> Iterator[str]:
    """Parameters and arithmetic of both, and the speed-up that these let expect."""
    teacher, student = found.teacher, found.student
    yield f"teacher {teacher.parameters:,} parameters, {teacher.forward_flops:,} FLOP per token forward"
    if student is None:
        return
    fewer = 100 * (1 - student.parameters / teacher.parameters)
    yield (
        f"student {student.parameters:,} parameters ({fewer:.0f} % fewer), "
        f"{student.forward_flops:,} FLOP per token forward"
    )
    yield (
        f"expected speed-up {teacher.forward_flops / student.forward_flops:.1f}, by FLOP per token alone; "
        "the report tells the measured one"
    )


def _student_config(plan: RunPlan, teacher: PreTrainedConfig) -> PreTrainedConfig | None:
    """The student's configuration, with as many rows and classes as the teacher has."""
    model = plan.spec.model
    if model.from_teacher is not None:
        return student_config(teacher, model.from_teacher)
    if model.architecture is None:
        return _config(plan.spec, base_place(plan))
    config = build_config(
        model.architecture,
        vocabulary_size=teacher.vocab_size,
        pad_token_id=teacher.pad_token_id,
        objective=served_objective(plan.spec),
    )
    config.id2label = teacher.id2label
    return config


def _config(spec: TrainingRunSpec, place: ModelPlace | None) -> PreTrainedConfig | None:
    """The configuration of a stored model of this machine, checked as Prepare does; None where it is not."""
    file = None if place is None or place.local is None else place.local / CONFIG
    if place is None or file is None or not file.is_file():
        return None
    check_config(file.read_bytes(), spec, served_objective(spec), place)
    config: PreTrainedConfig = AutoConfig.from_pretrained(file.parent, local_files_only=True)
    return config
