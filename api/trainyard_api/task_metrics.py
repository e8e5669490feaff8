"""Which metrics a fine-tuning task has, which is its usual one, and in which direction each improves."""

from collections.abc import Sequence

from trainyard_api.spec_objectives import FineTuning

LOSS = "Loss"
ACCURACY = "Accuracy"
MACRO_F1 = "MacroF1"
MICRO_F1 = "MicroF1"
MATTHEWS = "Matthews"
AUROC = "AUROC"
SEQEVAL_F1 = "SeqevalF1"
PERPLEXITY = "Perplexity"
MEAN_SQUARED_ERROR = "MeanSquaredError"
PEARSON = "Pearson"

LOWER_IS_BETTER = frozenset({LOSS, PERPLEXITY, MEAN_SQUARED_ERROR})
"""Metrics that improve by falling; all others improve by rising."""

LANGUAGE_MODELING_METRICS = (LOSS, PERPLEXITY)
SEQUENCE_METRICS = {
    "SingleLabel": (LOSS, ACCURACY, MACRO_F1, MICRO_F1, MATTHEWS, AUROC),
    "MultiLabel": (LOSS, ACCURACY, MACRO_F1, MICRO_F1, AUROC),
    "Regression": (LOSS, MEAN_SQUARED_ERROR, PEARSON),
}
"""Metrics of SequenceClassification by its problem."""

TOKEN_METRICS = (LOSS, ACCURACY, MACRO_F1, MICRO_F1, MATTHEWS, SEQEVAL_F1)

NAMES = frozenset({*LANGUAGE_MODELING_METRICS, *TOKEN_METRICS}.union(*SEQUENCE_METRICS.values()))
"""Every metric that a task can have."""


def metrics_of(fine_tuning: FineTuning) -> tuple[str, ...]:
    """The metrics that a task has, by their names in `fineTuning.evaluation.metric`."""
    if fine_tuning.task == "SequenceClassification":
        return SEQUENCE_METRICS[fine_tuning.problem]
    return TOKEN_METRICS if fine_tuning.task == "TokenClassification" else LANGUAGE_MODELING_METRICS


def selection_metric(fine_tuning: FineTuning, labels: Sequence[str]) -> str:
    """The metric that chooses the best checkpoint: the one that is named, or the task's usual one.

    Classes count equally by default (MacroF1), since the field's data is rarely balanced; words are judged by
    the spans that they form where the labels mark spans, else one by one.

    Args:
        fine_tuning: the task.
        labels: names of the classes; decide between spans and single words.
    """
    if fine_tuning.evaluation.metric is not None:
        return fine_tuning.evaluation.metric
    if fine_tuning.task == "TokenClassification":
        return SEQEVAL_F1 if marks_spans(labels) else ACCURACY
    if fine_tuning.task == "SequenceClassification":
        usual = {"SingleLabel": MACRO_F1, "MultiLabel": MICRO_F1, "Regression": MEAN_SQUARED_ERROR}
        return usual[fine_tuning.problem]
    return LOSS


def marks_spans(labels: Sequence[str]) -> bool:
    """Whether labels of words are O, B-kind and I-kind (IOB2, as seqeval reads by default)."""
    return any(label.startswith("B-") for label in labels) and all(
        label == "O" or label[:2] in {"B-", "I-"} for label in labels
    )


def is_better(metric: str, value: float, reference: float, minimum_improvement: float = 0.0) -> bool:
    """Whether a value of a metric improves on another by more than a margin."""
    gain = reference - value if metric in LOWER_IS_BETTER else value - reference
    return gain > minimum_improvement
