"""What a report says of a task: its metrics with intervals, its classes, and what guessing would give."""

from collections.abc import Sequence

from trainyard_api.spec_objectives import Adaptation, ClassBalance, FineTuning
from trainyard_api.task_metrics import (
    ACCURACY,
    AUROC,
    LOSS,
    MACRO_F1,
    MATTHEWS,
    MEAN_SQUARED_ERROR,
    MICRO_F1,
    PEARSON,
    PERPLEXITY,
    SEQEVAL_F1,
)
from trainyard_trainer.report_format import format_number
from trainyard_trainer.task_result import ClassResult, TaskResult

METRIC_WORDS = {
    LOSS: "loss",
    ACCURACY: "accuracy",
    MACRO_F1: "macro F1",
    MICRO_F1: "micro F1",
    MATTHEWS: "Matthews correlation",
    AUROC: "AUROC",
    SEQEVAL_F1: "span F1 (seqeval)",
    PERPLEXITY: "perplexity",
    MEAN_SQUARED_ERROR: "mean squared error",
    PEARSON: "Pearson correlation",
}
MAXIMUM_CLASS_ROWS = 50
"""Classes of a table; of more, those that occur most often."""


def metric_order(result: TaskResult) -> list[str]:
    """The metrics that are known, the one that chooses the checkpoint first, then as the field lists them."""
    others = [name for name in METRIC_WORDS if name != result.metric]
    return [name for name in (result.metric, *others) if name in result.metrics]


def interval_words(result: TaskResult, name: str) -> str:
    """The interval of a metric in words; empty where it has none."""
    interval = result.intervals.get(name)
    if interval is None or result.confidence is None:
        return ""
    ends = f"{format_number(interval.low)} to {format_number(interval.high)}"
    return f"{100 * result.confidence:g} % interval {ends}"


def held_out_words(result: TaskResult) -> str:
    """How many of what was judged; words belong to sequences, which are what is resampled."""
    return f"{result.examples:,} held-out {'sequences' if result.unit == 'words' else result.unit}"


def metric_rows(result: TaskResult) -> list[list[str]]:
    """Metric, value and interval, as text."""
    return [
        [METRIC_WORDS[name], format_number(result.metrics[name]), interval_words(result, name)]
        for name in metric_order(result)
    ]


def class_rows(classes: Sequence[ClassResult]) -> list[list[str]]:
    """Class, precision, recall, F1, and how often it is true and predicted, as text."""
    by_size = sorted(classes, key=lambda result: -result.actual)
    shown = classes if len(classes) <= MAXIMUM_CLASS_ROWS else by_size[:MAXIMUM_CLASS_ROWS]
    return [
        [
            result.name,
            f"{result.precision:.3f}",
            f"{result.recall:.3f}",
            f"{result.f1:.3f}",
            f"{result.actual:,}",
            f"{result.predicted:,}",
        ]
        for result in shown
    ]


def task_verdict(result: TaskResult) -> str:
    """The result in a sentence or two, against what always naming the most frequent class would give."""
    if result.metric not in result.metrics:
        return f"The {METRIC_WORDS[result.metric]} of the held-out {result.unit} is not defined."
    interval = interval_words(result, result.metric)
    value = format_number(result.metrics[result.metric]) + (f" ({interval})" if interval else "")
    told = f"On {held_out_words(result)} the {METRIC_WORDS[result.metric]} is {value}."
    guess = guessing(result)
    return f"{told} {guess}" if guess else told


def guessing(result: TaskResult) -> str:
    """What always naming the most frequent class would give, in a sentence; empty where it cannot be told."""
    frequent = frequent_class(result)
    if frequent is None:
        return ""
    return (
        f"Always naming the most frequent class, {frequent[0]}, would give an accuracy of {frequent[1]}; "
        f"the model's is {format_number(result.metrics[ACCURACY])}."
    )


def frequent_class(result: TaskResult) -> tuple[str, str] | None:
    """The most frequent class and its share, as text, where each thing that is judged has one class."""
    total = sum(found.actual for found in result.classes)
    if result.confusion is None or not total or ACCURACY not in result.metrics:
        return None
    frequent = max(result.classes, key=lambda found: found.actual)
    return frequent.name, format_number(frequent.actual / total)


def task_words(fine_tuning: FineTuning) -> str:
    """What a run learns, in a few words."""
    if fine_tuning.task == "ContinuedPretraining":
        return f"{fine_tuning.objective} pre-training, continued,"
    if fine_tuning.task == "SequenceClassification":
        return f"SequenceClassification ({fine_tuning.problem}) fine-tuning"
    return f"{fine_tuning.task} fine-tuning"


def task_rows(fine_tuning: FineTuning) -> list[list[str]]:
    """What was asked for, as rows of a table; settings that change nothing are left out."""
    rows = [
        ["adaptation", adaptation_words(fine_tuning.adaptation)],
        ["class balance", balance_words(fine_tuning.class_balance)],
        ["exported checkpoint", "the best" if fine_tuning.evaluation.keep_best else "the last"],
    ]
    stopping = fine_tuning.evaluation.early_stopping
    if stopping is not None:
        rows.append(["early stopping", f"after {stopping.patience} evaluations without an improvement"])
    return [row for row in rows if row[1]]


def adaptation_words(adaptation: Adaptation) -> str:
    """Which weights change, in words."""
    parts = []
    if adaptation.adapter is not None:
        parts.append(f"{adaptation.adapter.method} of rank {adaptation.adapter.rank}")
    if adaptation.frozen_layers:
        parts.append(f"the lowest {adaptation.frozen_layers} layers and the embeddings frozen")
    if adaptation.unfreeze_every_steps is not None:
        parts.append(f"a further layer unfrozen every {adaptation.unfreeze_every_steps} steps")
    if adaptation.layer_learning_rate_decay != 1.0:
        parts.append(f"learning rate x {adaptation.layer_learning_rate_decay:g} with each layer down")
    return ", ".join(parts) or "all weights"


def balance_words(balance: ClassBalance) -> str:
    """What is done about unequal classes, in words; empty where nothing is."""
    parts = []
    if balance.class_weights != "Equal":
        parts.append(f"class weights: {balance.class_weights}")
    if balance.focal_gamma:
        parts.append(f"focal loss with gamma {balance.focal_gamma:g}")
    if balance.label_smoothing:
        parts.append(f"label smoothing {balance.label_smoothing:g}")
    if balance.weighted_sampling:
        parts.append("classes drawn equally often")
    return ", ".join(parts)
