"""Whether the layers and widths that a run names are those of its teacher and student: asked by Prepare."""

from trainyard_api.spec import TrainingRunSpec
from trainyard_trainer.models.narrowing import sizes_of
from trainyard_trainer.models.pretrained import ModelData, model_config, stored_config
from trainyard_trainer.models.student_layers import (
    compared_layers,
    evenly_spread,
    related_layers,
    relation_heads,
)


def check_student(spec: TrainingRunSpec, data: ModelData) -> None:
    """Refuse what teacher or student do not have; their configurations alone decide that.

    Args:
        spec: the desired state.
        data: the prepared data, which describe the teacher; nothing is checked where there is none.

    Raises:
        ConfigurationError: a layer or a width does not exist, or heads cannot be split as told.
        DataError: a stored configuration was changed.
    """
    distillation, described = spec.distillation, data.manifest.teacher
    if distillation is None or described is None:
        return
    teacher = stored_config(data.prepared, described, "spec.distillation.teacher")
    student = model_config(spec, data)
    depths = student.num_hidden_layers, teacher.num_hidden_layers
    compared_layers(distillation.layer_map, evenly_spread(*depths), depths[1])
    relations = distillation.losses.relations
    if relations is not None:
        related_layers(relations, *depths)
        sizes = [sizes_of(config) for config in (student, teacher)]
        widths = sizes[0].head * sizes[0].num_heads, sizes[1].head * sizes[1].num_heads
        relation_heads(relations, sizes[0].num_heads, widths)
