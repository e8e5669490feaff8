"""Layers and heads of a teacher that a student is made of or compared with; layers count from 1."""

import math
from collections.abc import Sequence

from trainyard_api.errors import ConfigurationError
from trainyard_api.spec_distillation import LayerPair, RelationsLoss
from trainyard_api.spec_model import StudentOfTeacher

_STUDENT = "spec.model.fromTeacher"
_LAYER_MAP = "spec.distillation.layerMap"
_RELATIONS = "spec.distillation.losses.relations"


def chosen_layers(student: StudentOfTeacher, num_teacher_layers: int) -> tuple[int, ...]:
    """The teacher's layers that a student copies, ascending.

    Every nth is counted from the top: the head was trained on what the last layer gives. Without a choice,
    all layers are copied.

    Raises:
        ConfigurationError: the teacher has no such layer.
    """
    if student.layers is not None:
        if max(student.layers) > num_teacher_layers:
            raise ConfigurationError(
                f"{_STUDENT}.layers",
                f"it names layer {max(student.layers)}, and the teacher has {num_teacher_layers}",
                f"Name layers from 1 to {num_teacher_layers}",
            )
        return tuple(student.layers)
    step = student.every_nth_layer or 1
    if step > num_teacher_layers:
        raise ConfigurationError(
            f"{_STUDENT}.everyNthLayer",
            f"it is {step}, and the teacher has {num_teacher_layers} layers",
            f"Write at most {num_teacher_layers}",
        )
    return tuple(reversed(range(num_teacher_layers, 0, -step)))


def evenly_spread(num_student_layers: int, num_teacher_layers: int) -> tuple[int, ...]:
    """A layer of the teacher for each of a student that copies none, the last for the last.

    Layer i of n gets layer i N / n of N, rounded; where n divides N that is TinyBERT's uniform map.
    """
    return tuple(
        max(1, (2 * layer * num_teacher_layers + num_student_layers) // (2 * num_student_layers))
        for layer in range(1, num_student_layers + 1)
    )


def compared_layers(
    given: Sequence[LayerPair], origins: Sequence[int], num_teacher_layers: int
) -> tuple[LayerPair, ...]:
    """The pairs of layers that the loss compares: those of the spec, else each layer with its origin.

    Args:
        given: `spec.distillation.layerMap`.
        origins: the teacher's layer for each layer of the student, copied or spread evenly.
        num_teacher_layers: layers of the teacher.

    Raises:
        ConfigurationError: a layer does not exist.
    """
    for index, pair in enumerate(given):
        for field, layer, top in (
            ("student", pair.student, len(origins)),
            ("teacher", pair.teacher, num_teacher_layers),
        ):
            if layer > top:
                raise ConfigurationError(
                    f"{_LAYER_MAP}[{index}].{field}",
                    f"there is no layer {layer}; the {field} has {top}",
                    f"Name layers from 1 to {top}, or 0 for the embeddings",
                )
    if given:
        return tuple(given)
    return tuple(LayerPair(student=layer, teacher=origin) for layer, origin in enumerate(origins, start=1))


def related_layers(loss: RelationsLoss, num_student_layers: int, num_teacher_layers: int) -> tuple[int, int]:
    """The layers of student and teacher whose relations are compared: those of the spec, else the last.

    Raises:
        ConfigurationError: a layer does not exist.
    """
    student, teacher = loss.student_layer or num_student_layers, loss.teacher_layer or num_teacher_layers
    for field, layer, top in (
        ("student", student, num_student_layers),
        ("teacher", teacher, num_teacher_layers),
    ):
        if layer > top:
            raise ConfigurationError(
                f"{_RELATIONS}.{field}Layer",
                f"there is no layer {layer}; the {field} has {top}",
                f"Name a layer from 1 to {top}",
            )
    return student, teacher


def relation_heads(loss: RelationsLoss, num_student_heads: int, widths: tuple[int, int]) -> int:
    """The heads into which both models' projections are split: those of the spec, else the student's.

    Args:
        loss: `spec.distillation.losses.relations`.
        num_student_heads: attention heads of the student.
        widths: features of all heads together, of student and teacher.

    Raises:
        ConfigurationError: a model's features cannot be split so.
    """
    num_heads = loss.num_heads or num_student_heads
    for name, width in zip(("student", "teacher"), widths, strict=True):
        if width % num_heads:
            raise ConfigurationError(
                f"{_RELATIONS}.numHeads",
                f"the {width} features of the {name}'s heads cannot be split into {num_heads} parts",
                f"Write a divisor of {math.gcd(*widths)}",
            )
    return num_heads
