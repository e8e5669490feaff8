"""What a run's task reads of a record, and how it learns from it."""

from dataclasses import dataclass
from typing import Literal

from trainyard_api.spec import Source, TrainingRunSpec
from trainyard_api.spec_objectives import FineTuning
from trainyard_trainer.data.special_tokens import Objective

LabelKind = Literal["Class", "Classes", "Number", "WordClasses", "TrainedTokens"]
"""Labels of an example: a class, any number of classes, a number, a class per word, or tokens to write."""

ProblemType = Literal["single_label_classification", "multi_label_classification", "regression"]

PROBLEM_TYPES: dict[str, ProblemType] = {
    "SingleLabel": "single_label_classification",
    "MultiLabel": "multi_label_classification",
    "Regression": "regression",
}
"""What Transformers calls the problems of SequenceClassification."""

_KINDS: dict[str, LabelKind] = {"SingleLabel": "Class", "MultiLabel": "Classes", "Regression": "Number"}


def labelled_task(spec: TrainingRunSpec) -> FineTuning | None:
    """The fine-tuning of a run that learns from labels; None where it learns from text alone."""
    fine_tuning = spec.fine_tuning
    return None if fine_tuning is None or fine_tuning.task == "ContinuedPretraining" else fine_tuning


def objective_of(task: FineTuning) -> Objective:
    """The objective that the model to start from must serve: encoders classify, decoders write."""
    return "CausalLM" if task.task == "InstructionTuning" else "MaskedLM"


def label_kind(task: FineTuning) -> LabelKind:
    """The kind of labels of a task."""
    if task.task == "SequenceClassification":
        return _KINDS[task.problem]
    return "WordClasses" if task.task == "TokenClassification" else "TrainedTokens"


def has_classes(kind: LabelKind) -> bool:
    """Whether labels are names of classes."""
    return kind in {"Class", "Classes", "WordClasses"}


@dataclass(frozen=True, slots=True)
class Column:
    """A field of a record: its name, and the field of the source that names it."""

    name: str
    named_by: str


def columns_of(task: FineTuning, source: Source) -> tuple[Column, ...]:
    """The fields that a task reads: the inputs first, then the labels where they are apart."""
    if task.task == "InstructionTuning":
        return (Column(source.messages_field, "messagesField"),)
    if task.task == "TokenClassification":
        return Column(source.words_field, "wordsField"), Column(source.tags_field, "tagsField")
    texts = [Column(source.text_field, "textField")]
    if source.second_text_field:
        texts.append(Column(source.second_text_field, "secondTextField"))
    return *texts, Column(source.label_field, "labelField")
