"""Which checkpoint is the best, and whether training goes on; pure functions over a state that is saved."""

from trainyard_api.model import ApiModel
from trainyard_api.spec_objectives import EarlyStopping
from trainyard_api.task_metrics import is_better


class Selection(ApiModel):
    """What evaluations so far say; a part of every checkpoint, so that a resumed run chooses the same."""

    best_step: int | None = None
    """Step of the evaluation with the best value."""
    best_value: float | None = None
    """Value of the metric there."""
    reference_value: float | None = None
    """Best value that counted as an improvement for early stopping."""
    stale_evaluations: int = 0
    """Evaluations since then."""


def after_evaluation(
    selection: Selection, *, step: int, metric: str, value: float | None, early_stopping: EarlyStopping | None
) -> Selection:
    """The selection after one more evaluation.

    Of equal values the earlier one stays the best. Improvements too small to count add up: they are compared
    with the last one that counted, not with the best.

    Args:
        selection: the selection before.
        step: optimizer steps done.
        metric: its name.
        value: its value; None where it is not defined, which is no improvement.
        early_stopping: when training ends early, if at all.
    """
    minimum = early_stopping.minimum_improvement if early_stopping else 0.0
    best, reference = selection.best_value, selection.reference_value
    changes: dict[str, object] = {"stale_evaluations": selection.stale_evaluations + 1}
    if value is not None and (best is None or is_better(metric, value, best)):
        changes |= {"best_step": step, "best_value": value}
    if value is not None and (reference is None or is_better(metric, value, reference, minimum)):
        changes |= {"reference_value": value, "stale_evaluations": 0}
    return selection.model_copy(update=changes)


def has_stopped_improving(selection: Selection, early_stopping: EarlyStopping | None) -> bool:
    """Whether training ends early."""
    return early_stopping is not None and selection.stale_evaluations >= early_stopping.patience
