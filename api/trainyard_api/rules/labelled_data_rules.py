"""Rules of labelled data: which fields a task reads, and what is done about its classes.

Those of sources have no CEL: whether a field has a meaning follows from the task, far from it in the schema.
A run that a server admits is refused by the operator's validation with the same words.
"""

from collections.abc import Iterable

from trainyard_api.problems import Problem
from trainyard_api.rules.rule import Rule, predicate_rule
from trainyard_api.spec import Data, Source, TrainingRun, TrainingRunSpec
from trainyard_api.spec_objectives import ClassBalance, FineTuning

_TASK = "spec.fineTuning.task"
_TUNING = "spec.fineTuning"
_BALANCE = "spec.fineTuning.classBalance"
_SOURCES = "spec.data.sources[]"
_READERS: dict[str, frozenset[str]] = {
    "second_text_field": frozenset({"SequenceClassification"}),
    "label_field": frozenset({"SequenceClassification"}),
    "words_field": frozenset({"TokenClassification"}),
    "tags_field": frozenset({"TokenClassification"}),
    "messages_field": frozenset({"InstructionTuning"}),
    "split": frozenset({"SequenceClassification", "TokenClassification", "InstructionTuning"}),
}
"""The tasks that read each field of a source."""
_CLASSIFICATION = frozenset({"SequenceClassification", "TokenClassification"})
_SOURCE_DEFAULTS = {name: field.default for name, field in Source.model_fields.items()}
_BETA = ClassBalance.model_fields["effective_number_beta"].default
_FRACTION = Data.model_fields["validation_fraction"].default


def _camel(name: str) -> str:
    """The name of a field as it stands in a file."""
    first, *others = name.split("_")
    return first + "".join(map(str.capitalize, others))


def _labelled(spec: TrainingRunSpec) -> FineTuning | None:
    """The task of a run that reads labelled records."""
    tuning = spec.fine_tuning
    return None if tuning is None or tuning.task == "ContinuedPretraining" else tuning


def _source_problems(run: TrainingRun) -> Iterable[Problem]:
    """Fields of sources that the run's task does not read."""
    tuning = run.spec.fine_tuning
    task = "a run without fineTuning" if tuning is None else tuning.task
    for index, source in enumerate(run.spec.data.sources):
        path = f"spec.data.sources[{index}]"
        for name, readers in _READERS.items():
            if task not in readers and getattr(source, name) != _SOURCE_DEFAULTS[name]:
                yield Problem(
                    f"{path}.{_camel(name)}",
                    f"{task} does not read it",
                    f"Remove it; it belongs to {' and '.join(sorted(readers))}",
                )
        if _labelled(run.spec) is None:
            continue
        if task != "SequenceClassification" and source.text_field != _SOURCE_DEFAULTS["text_field"]:
            yield Problem(f"{path}.textField", f"{task} does not read it", "Remove it")
        if source.format == "Text":
            yield Problem(f"{path}.format", "Text has no labels", "Write JsonLines, CSV or Parquet")
        if source.document_boundary != "Record":
            yield Problem(
                f"{path}.documentBoundary", "a labelled record is one example", "Remove it, or write Record"
            )


def _has_classes(tuning: FineTuning) -> bool:
    """Whether a task tells classes apart."""
    is_number = tuning.task == "SequenceClassification" and tuning.problem == "Regression"
    return tuning.task in _CLASSIFICATION and not is_number


def _label_problems(run: TrainingRun) -> Iterable[Problem]:
    """Fields of the task that have no meaning for it."""
    tuning = run.spec.fine_tuning
    if tuning is None:
        return
    if len(set(tuning.labels)) < len(tuning.labels):
        repeated = next(label for label in tuning.labels if tuning.labels.count(label) > 1)
        yield Problem(f"{_TUNING}.labels", f"{repeated!r} stands there twice", "Name each class once")
    yield from _balance_problems(tuning, has_classes=_has_classes(tuning))


def _balance_problems(tuning: FineTuning, *, has_classes: bool) -> Iterable[Problem]:
    """The same of what is done about classes."""
    balance = tuning.class_balance
    if not has_classes:
        if balance != ClassBalance():
            yield Problem(_BALANCE, "the task has no classes", "Remove it")
        return
    if balance.weighted_sampling and (
        tuning.task != "SequenceClassification" or tuning.problem != "SingleLabel"
    ):
        yield Problem(
            f"{_BALANCE}.weightedSampling",
            "an example has labels of several classes, so that no class can be drawn",
            "Remove it, and set classWeights",
        )
    if balance.effective_number_beta != _BETA and balance.class_weights != "EffectiveNumber":
        yield Problem(
            f"{_BALANCE}.effectiveNumberBeta",
            f"classWeights {balance.class_weights} does not use it",
            "Remove it, or set classWeights to EffectiveNumber",
        )
    is_given = balance.given_weights and balance.class_weights == "Given"
    if is_given and tuning.labels and set(tuning.labels) != balance.given_weights.keys():
        yield Problem(
            f"{_BALANCE}.givenWeights",
            "its labels are not those of fineTuning.labels",
            "Give one weight for each of them",
        )


def _fraction_is_used(spec: TrainingRunSpec) -> bool:
    """Whether a fraction of one's own divides at least one source."""
    if _labelled(spec) is None or spec.data.validation_fraction == _FRACTION:
        return True
    return any(source.split == "ByHash" for source in spec.data.sources)


LABELLED_DATA_RULES: tuple[Rule, ...] = (
    Rule(
        fields=(_TASK, *(f"{_SOURCES}.{_camel(name)}" for name in (*_READERS, "text_field", "format"))),
        problem="a field of a source has no meaning for the task",
        remedy="Remove it",
        check=_source_problems,
    ),
    Rule(
        fields=(_TASK, f"{_TUNING}.problem", f"{_TUNING}.labels", f"{_TUNING}.chatTemplate", _BALANCE),
        problem="a field of fineTuning has no meaning for the task",
        remedy="Remove it",
        check=_label_problems,
    ),
    predicate_rule(
        path=f"{_TUNING}.problem",
        fields=(_TASK, f"{_TUNING}.problem"),
        holds=lambda spec: (
            spec.fine_tuning is None
            or spec.fine_tuning.problem == "SingleLabel"
            or spec.fine_tuning.task == "SequenceClassification"
        ),
        problem="only SequenceClassification has such a choice",
        remedy="Remove it, or classify sequences",
        node=_TUNING,
        cel="self.problem == 'SingleLabel' || self.task == 'SequenceClassification'",
    ),
    predicate_rule(
        path=f"{_TUNING}.labels",
        fields=(_TASK, f"{_TUNING}.problem", f"{_TUNING}.labels"),
        holds=lambda spec: (
            spec.fine_tuning is None or not spec.fine_tuning.labels or _has_classes(spec.fine_tuning)
        ),
        problem="the task has no classes",
        remedy="Remove it",
        node=_TUNING,
        cel="self.labels.size() == 0 || self.task == 'TokenClassification' "
        "|| (self.task == 'SequenceClassification' && self.problem != 'Regression')",
    ),
    predicate_rule(
        path=f"{_TUNING}.chatTemplate",
        fields=(_TASK, f"{_TUNING}.chatTemplate"),
        holds=lambda spec: (
            spec.fine_tuning is None
            or not spec.fine_tuning.chat_template
            or spec.fine_tuning.task == "InstructionTuning"
        ),
        problem="only InstructionTuning reads conversations",
        remedy="Remove it",
        node=_TUNING,
        cel="self.chatTemplate == '' || self.task == 'InstructionTuning'",
    ),
    predicate_rule(
        path=f"{_BALANCE}.givenWeights",
        fields=(_BALANCE,),
        holds=lambda spec: (
            spec.fine_tuning is None
            or bool(spec.fine_tuning.class_balance.given_weights)
            == (spec.fine_tuning.class_balance.class_weights == "Given")
        ),
        problem="weights are given exactly when classWeights is Given",
        remedy="Set both, or neither",
        node=_BALANCE,
        cel="(self.givenWeights.size() > 0) == (self.classWeights == 'Given')",
    ),
    predicate_rule(
        path="spec.data.validationFraction",
        fields=(_TASK, "spec.data.validationFraction", f"{_SOURCES}.split"),
        holds=_fraction_is_used,
        problem="validationFraction is set, but every source belongs to one part whole",
        remedy="Remove it, or write split: ByHash",
    ),
    predicate_rule(
        path="spec.data.packing.isolateDocuments",
        fields=(_TASK, "spec.data.packing.isolateDocuments"),
        holds=lambda spec: _labelled(spec) is None or spec.data.packing.isolate_documents,
        problem="isolateDocuments is false, but examples of a task never share a row",
        remedy="Remove it",
    ),
    predicate_rule(
        path="spec.tokenizer.train",
        fields=(_TASK, "spec.tokenizer.train"),
        holds=lambda spec: _labelled(spec) is None or spec.tokenizer is None or spec.tokenizer.train is None,
        problem="a tokenizer is trained on text, and the run reads labelled records",
        remedy="Use the model's own, or set tokenizer.uri",
    ),
)
