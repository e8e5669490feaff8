"""Which metric chooses the best checkpoint, and whether the labels allow it; loads no framework."""

from collections.abc import Sequence

from trainyard_api.errors import ConfigurationError
from trainyard_api.spec_objectives import FineTuning
from trainyard_api.task_metrics import AUROC, SEQEVAL_F1, marks_spans, selection_metric

MAXIMUM_RANKED_CLASSES = 100
"""Classes up to which the score of each is kept for AUROC, which bounds the memory of rank 0."""

_WHERE = "spec.fineTuning.evaluation.metric"


def choose_metric(fine_tuning: FineTuning, labels: Sequence[str]) -> str:
    """The metric that chooses the best checkpoint.

    Args:
        fine_tuning: the task.
        labels: names of the classes, by number; none where the task has no classes.

    Raises:
        ConfigurationError: the metric does not fit the labels.
    """
    metric = selection_metric(fine_tuning, labels)
    if metric == SEQEVAL_F1 and not marks_spans(labels):
        raise ConfigurationError(
            _WHERE,
            f"SeqevalF1 counts spans, and the labels are not O, B-kind and I-kind: {', '.join(labels[:5])}",
            "Choose Accuracy or MacroF1, or label spans by IOB2",
        )
    if metric == AUROC and len(labels) > MAXIMUM_RANKED_CLASSES:
        raise ConfigurationError(
            _WHERE,
            f"AUROC is computed for {MAXIMUM_RANKED_CLASSES} classes at most, and there are {len(labels)}",
            "Choose MacroF1 or Accuracy",
        )
    return metric
