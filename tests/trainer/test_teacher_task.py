from typing import Any

import pytest

from trainyard_api.errors import DataError
from trainyard_api.spec_objectives import FineTuning
from trainyard_trainer.data.teacher_task import check_teacher_task

WHERE = "spec.distillation.teacher.fromRun.name"
SPAM: dict[str, Any] = {
    "architectures": ["BertForSequenceClassification"],
    "problem_type": "single_label_classification",
    "id2label": {"0": "ham", "1": "spam"},
}
SINGLE = {"task": "SequenceClassification"}
NUMBER = {"task": "SequenceClassification", "problem": "Regression"}
WORDS = {"task": "TokenClassification"}
CHAT = {"task": "InstructionTuning"}


def check(config: dict[str, Any], task: dict[str, Any], names: tuple[str, ...] = ("ham", "spam")) -> None:
    check_teacher_task(config, FineTuning.model_validate(task), names, WHERE)


@pytest.mark.parametrize(
    ("config", "task", "names"),
    [
        (SPAM, SINGLE, ("ham", "spam")),
        ({"id2label": SPAM["id2label"]}, SINGLE, ("ham", "spam")),
        ({"id2label": {str(n): f"c{n}" for n in range(12)}}, WORDS, tuple(f"c{n}" for n in range(12))),
        ({"architectures": ["ModernBertForTokenClassification"], "id2label": {"0": "O"}}, WORDS, ("O",)),
        ({"problem_type": "regression", "id2label": {"0": "value"}}, NUMBER, ()),
        ({"architectures": ["LlamaForCausalLM"]}, CHAT, ()),
        ({"architectures": ["GPT2LMHeadModel"]}, CHAT, ()),
    ],
)
def test_a_teacher_of_the_same_task_and_classes_is_taken(
    config: dict[str, Any], task: dict[str, Any], names: tuple[str, ...]
) -> None:
    check(config, task, names)


@pytest.mark.parametrize(
    ("config", "task", "names", "problem"),
    [
        (SPAM, WORDS, ("ham", "spam"), r"BertForSequenceClassification, which does not do TokenClass"),
        ({"architectures": ["BertForMaskedLM"]}, SINGLE, ("a", "b"), r"BertForMaskedLM, which does not do"),
        (
            SPAM | {"problem_type": "multi_label_classification"},
            SINGLE,
            ("ham", "spam"),
            r"trained for multi_label_classification, and the student learns single_label",
        ),
        (SPAM, SINGLE, ("spam", "ham"), r"classes are ham, spam, and the data's spam, ham"),
        ({}, SINGLE, ("ham", "spam"), r"classes are not told, and the data's ham, spam"),
        ({"id2label": SPAM["id2label"]}, NUMBER, (), r"gives 2 values, and a regression has one"),
        ({}, NUMBER, (), r"gives an unknown number of values"),
        (SPAM, SINGLE, tuple(f"c{n}" for n in range(12)), r"c8, c9 and 2 more"),
    ],
)
def test_a_teacher_whose_predictions_mean_something_else_is_refused(
    config: dict[str, Any], task: dict[str, Any], names: tuple[str, ...], problem: str
) -> None:
    with pytest.raises(DataError, match=problem) as raised:
        check(config, task, names)
    assert raised.value.where == WHERE
