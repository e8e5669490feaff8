"""Whether a teacher does the task that its student is to learn, as its configuration tells."""

from collections.abc import Mapping, Sequence
from typing import Any

from trainyard_api.errors import DataError
from trainyard_api.spec_objectives import FineTuning
from trainyard_trainer.data.labelled.task import PROBLEM_TYPES

_CLASSES = {
    "SequenceClassification": ("ForSequenceClassification",),
    "TokenClassification": ("ForTokenClassification",),
    "InstructionTuning": ("ForCausalLM", "LMHeadModel"),
}
"""Ends of the names of the Transformers classes that do a task."""

_SHOWN_CLASSES = 10


def check_teacher_task(config: Mapping[str, Any], task: FineTuning, names: Sequence[str], where: str) -> None:
    """Refuse a teacher of another task, or one that tells other classes apart or numbers them differently.

    Args:
        config: the teacher's configuration.
        task: what the student learns.
        names: names of the data's classes, by number; none where it has no classes.
        where: the field of the spec that names the teacher.

    Raises:
        DataError: its predictions mean something else than the student's.
    """
    made = config.get("architectures")
    if isinstance(made, list) and not any(str(name).endswith(_CLASSES[task.task]) for name in made):
        raise DataError(
            where,
            f"the teacher is a {', '.join(map(str, made))}, which does not do {task.task}",
            "Fine-tune it for the task first, and name that run",
        )
    if task.task == "InstructionTuning":
        return
    problem = config.get("problem_type")
    if task.task == "SequenceClassification" and problem not in {None, PROBLEM_TYPES[task.problem]}:
        raise DataError(
            where,
            f"the teacher was trained for {problem}, and the student learns {PROBLEM_TYPES[task.problem]}",
            "Use a teacher of the same problem, or set spec.fineTuning.problem to the teacher's",
        )
    found = _class_names(config)
    if task.task == "SequenceClassification" and task.problem == "Regression":
        if len(found) != 1:
            raise DataError(
                where,
                f"the teacher gives {len(found) or 'an unknown number of'} values, and a regression has one",
                "Use a teacher that was fine-tuned for this task",
            )
    elif found != list(names):
        raise DataError(
            where,
            f"the teacher's classes are {_shown(found) or 'not told'}, and the data's {_shown(names)}",
            "Use a teacher that was fine-tuned for this task, and set spec.fineTuning.labels to its classes",
        )


def _class_names(config: Mapping[str, Any]) -> list[str]:
    """Names of the classes of a configuration by their numbers; none where it has no sound list of them."""
    named = config.get("id2label")
    if not isinstance(named, dict):
        return []
    by_number = {int(number): str(name) for number, name in named.items() if str(number).isdecimal()}
    return [by_number[number] for number in sorted(by_number)]


def _shown(names: Sequence[str]) -> str:
    """Some names, for people."""
    more = f" and {len(names) - _SHOWN_CLASSES} more" if len(names) > _SHOWN_CLASSES else ""
    return f"{', '.join(names[:_SHOWN_CLASSES])}{more}"
