"""Rules of how a fine-tuned model is judged."""

from collections.abc import Iterable

from trainyard_api.problems import Problem
from trainyard_api.rules.rule import Rule, predicate_rule
from trainyard_api.spec import TrainingRun, TrainingRunSpec
from trainyard_api.spec_objectives import TaskEvaluation
from trainyard_api.task_metrics import LANGUAGE_MODELING_METRICS, SEQUENCE_METRICS, TOKEN_METRICS, metrics_of

_EVALUATION = "spec.fineTuning.evaluation"
_CONFIDENCE = TaskEvaluation.model_fields["confidence"].default


def _metric_problems(run: TrainingRun) -> Iterable[Problem]:
    """The metric is one that the task has."""
    fine_tuning = run.spec.fine_tuning
    if fine_tuning is None or fine_tuning.evaluation.metric is None:
        return
    known = metrics_of(fine_tuning)
    if fine_tuning.evaluation.metric not in known:
        of_problem = f" ({fine_tuning.problem})" if fine_tuning.task == "SequenceClassification" else ""
        yield Problem(
            f"{_EVALUATION}.metric",
            f"{fine_tuning.task}{of_problem} has no metric {fine_tuning.evaluation.metric}",
            f"Choose one of {', '.join(known)}, or leave it out",
        )


def _metric_cel() -> str:
    """The same in CEL, over the defaulted object."""
    cases = [
        f"self.task == 'SequenceClassification' && self.problem == '{problem}' ? "
        f"self.evaluation.metric in {list(metrics)}"
        for problem, metrics in SEQUENCE_METRICS.items()
    ]
    cases.append(f"self.task == 'TokenClassification' ? self.evaluation.metric in {list(TOKEN_METRICS)}")
    choice = " : ".join([*cases, f"self.evaluation.metric in {list(LANGUAGE_MODELING_METRICS)}"])
    return f"!has(self.evaluation.metric) || ({choice})"


def _evaluates_on_the_way(spec: TrainingRunSpec) -> bool:
    """Whether there are evaluations before the end, which alone could end training early."""
    fine_tuning = spec.fine_tuning
    stops_early = fine_tuning is not None and fine_tuning.evaluation.early_stopping is not None
    return not stops_early or spec.training.evaluation.every_steps is not None


def _confidence_is_used(spec: TrainingRunSpec) -> bool:
    """Whether a confidence of one's own belongs to intervals that are made."""
    if spec.fine_tuning is None:
        return True
    evaluation = spec.fine_tuning.evaluation
    return evaluation.bootstrap_samples > 0 or evaluation.confidence == _CONFIDENCE


TASK_EVALUATION_RULES: tuple[Rule, ...] = (
    Rule(
        fields=("spec.fineTuning.task", "spec.fineTuning.problem", f"{_EVALUATION}.metric"),
        problem="the task has no such metric",
        remedy="Choose a metric of the task, or leave it out",
        check=_metric_problems,
        node="spec.fineTuning",
        cel=_metric_cel(),
        field=f"{_EVALUATION}.metric",
    ),
    predicate_rule(
        path=f"{_EVALUATION}.earlyStopping",
        fields=(f"{_EVALUATION}.earlyStopping", "spec.training.evaluation.everySteps"),
        holds=_evaluates_on_the_way,
        problem="earlyStopping is set, but there is only one evaluation, at the end",
        remedy="Set training.evaluation.everySteps, or remove earlyStopping",
        node="spec",
        cel=(
            "!has(self.fineTuning) || !has(self.fineTuning.evaluation.earlyStopping) || "
            "has(self.training.evaluation.everySteps)"
        ),
    ),
    predicate_rule(
        path=f"{_EVALUATION}.confidence",
        fields=(f"{_EVALUATION}.confidence", f"{_EVALUATION}.bootstrapSamples"),
        holds=_confidence_is_used,
        problem="confidence is set, but without bootstrapSamples there are no intervals",
        remedy="Remove it, or set bootstrapSamples to a number such as 1000",
        node=_EVALUATION,
        cel=f"self.bootstrapSamples > 0 || self.confidence == {_CONFIDENCE}",
    ),
)
