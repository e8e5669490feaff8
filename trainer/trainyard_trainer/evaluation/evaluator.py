"""The evaluation of a fine-tuned model during training: every rank observes, rank 0 judges, all learn."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from trainyard_api.spec import TrainingRunSpec
from trainyard_api.spec_objectives import FineTuning
from trainyard_api.task_metrics import LOSS, metrics_of
from trainyard_trainer.distributed import Ranks
from trainyard_trainer.evaluation.bootstrap import bootstrap_intervals
from trainyard_trainer.evaluation.gather import Gatherer
from trainyard_trainer.evaluation.judge import Judge, Judgement, Predictor
from trainyard_trainer.evaluation.loss_judge import LossJudge
from trainyard_trainer.evaluation.metric_choice import choose_metric
from trainyard_trainer.evaluation.selection import Selection, after_evaluation, has_stopped_improving
from trainyard_trainer.evaluation.sequence_judge import (
    MultiLabelJudge,
    RegressionJudge,
    SingleLabelJudge,
)
from trainyard_trainer.evaluation.token_judge import TokenJudge
from trainyard_trainer.task_result import MetricInterval, TaskResult, write_task_result

BATCHES_PER_EXCHANGE = 8
"""Forward passes of a rank between two exchanges with rank 0, and between two looks at the stop flag."""


@dataclass(frozen=True)
class Examination:
    """What is judged, and by whom.

    Attributes:
        predictor: the model, in evaluation mode.
        ranks: the gang.
        step: optimizer steps done.
        is_stopped: whether this process was told to stop.
    """

    predictor: Predictor
    ranks: Ranks
    step: int
    is_stopped: Callable[[], bool]


@dataclass(frozen=True)
class Measurement:
    """What an evaluation found; equal on all ranks.

    Attributes:
        metrics: those that are defined, by name.
        selection: which evaluation is the best now.
    """

    metrics: dict[str, float]
    selection: Selection


def measure_loss(examination: Examination, batches: Iterable[Any]) -> Measurement | None:
    """The mean loss over all predictions, for runs without a task; a collective.

    Returns:
        None where anybody was told to stop, since a save comes first.
    """
    ranks, sums = examination.ranks, [0.0, 0.0]
    with torch.no_grad():
        for index, batch in enumerate(batches):
            sums[0] += float(examination.predictor.forward(batch))
            sums[1] += batch.num_labels
            if index % BATCHES_PER_EXCHANGE == 0 and ranks.sums([float(examination.is_stopped())])[0]:
                return None
    loss_sum, num_labels = ranks.sums(sums)
    return Measurement({LOSS: loss_sum / max(1.0, num_labels)}, Selection())


def keeps_best(spec: TrainingRunSpec) -> bool:
    """Whether a run exports the model of its best evaluation, so that this checkpoint has to stay."""
    return spec.fine_tuning is not None and spec.fine_tuning.evaluation.keep_best


@dataclass(frozen=True)
class TaskEvaluator:
    """How a run's task is judged.

    Attributes:
        fine_tuning: the task.
        judge: what makes observations and metrics.
        metric: the metric that chooses the best checkpoint.
        seed: decides the resamples of intervals.
    """

    fine_tuning: FineTuning
    judge: Judge
    metric: str
    seed: int

    def has_stopped_improving(self, selection: Selection) -> bool:
        """Whether training ends early."""
        return has_stopped_improving(selection, self.fine_tuning.evaluation.early_stopping)

    def evaluate(
        self, examination: Examination, batches: Iterable[Any], selection: Selection, run_folder: Path
    ) -> Measurement | None:
        """Judge a model; rank 0 writes the result if these weights would be exported; a collective.

        Args:
            examination: the model and the gang.
            batches: this rank's batches; every rank has equally many.
            selection: which evaluation was the best before.
            run_folder: where the result goes.

        Returns:
            None where anybody was told to stop, since a save comes first.
        """
        gatherer = Gatherer(examination.ranks, self.judge.num_keys)
        if not self._observe(examination, batches, gatherer):
            return None
        judgement = self.judge.judge(gatherer.all()) if examination.ranks.is_first else None
        metrics = self._agree(judgement, examination.ranks)
        after = after_evaluation(
            selection,
            step=examination.step,
            metric=self.metric,
            value=metrics.get(self.metric),
            early_stopping=self.fine_tuning.evaluation.early_stopping,
        )
        is_exported = after.best_step == examination.step or not self.fine_tuning.evaluation.keep_best
        if judgement is not None and is_exported and LOSS in metrics:
            write_task_result(run_folder, self._result(judgement, metrics, examination.step))
        return Measurement(metrics, after)

    def _observe(self, examination: Examination, batches: Iterable[Any], gatherer: Gatherer) -> bool:
        """Bring what all ranks observe to rank 0; False where anybody was told to stop."""
        ranks = examination.ranks
        with torch.no_grad():
            for index, batch in enumerate(batches):
                number = index * ranks.world_size + ranks.rank
                gatherer.add(self.judge.observe(examination.predictor, batch, number))
                if index % BATCHES_PER_EXCHANGE == 0:
                    if ranks.sums([float(examination.is_stopped())])[0]:
                        return False
                    gatherer.flush()
        gatherer.flush()
        return True

    def _agree(self, judgement: Judgement | None, ranks: Ranks) -> dict[str, float]:
        """The metrics that rank 0 found, on all ranks; those that are not defined are left out."""
        names = metrics_of(self.fine_tuning)
        found = dict(judgement.measure(None)) if judgement is not None else {}
        known = {name: value for name, value in found.items() if math.isfinite(value)}
        sums = ranks.sums([known.get(name, 0.0) for name in names] + [float(name in known) for name in names])
        values, presence = sums[: len(names)], sums[len(names) :]
        return {
            name: value for name, value, is_known in zip(names, values, presence, strict=True) if is_known
        }

    def _result(self, judgement: Judgement, metrics: dict[str, float], step: int) -> TaskResult:
        """What was found, with its intervals and details."""
        settings = self.fine_tuning.evaluation
        intervals = bootstrap_intervals(
            judgement.measure,
            judgement.num_examples,
            samples=settings.bootstrap_samples,
            confidence=settings.confidence,
            seed=self.seed,
        )
        return TaskResult(
            step=step,
            task=self.fine_tuning.task,
            metric=self.metric,
            metrics=metrics,
            confidence=settings.confidence if intervals else None,
            intervals={
                name: MetricInterval(low=low, high=high)
                for name, (low, high) in intervals.items()
                if name in metrics
            },
            examples=judgement.num_examples,
            unit=judgement.unit,
            classes=judgement.classes,
            span_classes=judgement.span_classes,
            confusion=judgement.confusion,
        )


def build_evaluator(spec: TrainingRunSpec, labels: tuple[str, ...]) -> TaskEvaluator | None:
    """How a run is judged; None where it has no task, which is judged by its loss alone.

    Args:
        spec: the desired state.
        labels: names of the classes, by number; none where the task has no classes.

    Raises:
        ConfigurationError: the metric that chooses the best checkpoint does not fit the labels.
    """
    fine_tuning = spec.fine_tuning
    if fine_tuning is None:
        return None
    metric = choose_metric(fine_tuning, labels)
    return TaskEvaluator(fine_tuning, _judge(fine_tuning, labels), metric, spec.training.seed)


def _judge(fine_tuning: FineTuning, labels: tuple[str, ...]) -> Judge:
    """The judge of a task."""
    if fine_tuning.task == "TokenClassification":
        return TokenJudge(labels)
    if fine_tuning.task != "SequenceClassification":
        return LossJudge()
    if fine_tuning.problem == "Regression":
        return RegressionJudge()
    return SingleLabelJudge(labels) if fine_tuning.problem == "SingleLabel" else MultiLabelJudge(labels)
