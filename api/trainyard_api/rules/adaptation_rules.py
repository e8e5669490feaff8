"""Rules of what fine-tuning changes, and how it weighs classes."""

from trainyard_api.rules.rule import Rule, predicate_rule
from trainyard_api.spec import TrainingRunSpec
from trainyard_api.spec_objectives import Adaptation, ClassBalance, FineTuning, Masking

_TUNING = "spec.fineTuning"
_ADAPTATION = f"{_TUNING}.adaptation"
_BALANCE = f"{_TUNING}.classBalance"
_MASKING = Masking()


def _tuning(spec: TrainingRunSpec) -> FineTuning | None:
    return spec.fine_tuning


def _adaptation(spec: TrainingRunSpec) -> Adaptation:
    return spec.fine_tuning.adaptation if spec.fine_tuning is not None else Adaptation()


def _continues_if_named(spec: TrainingRunSpec) -> bool:
    """Whether an objective is named exactly where a pretraining is continued."""
    tuning = _tuning(spec)
    return tuning is None or (tuning.task == "ContinuedPretraining") == (tuning.objective is not None)


def _masks_if_named(spec: TrainingRunSpec) -> bool:
    """Whether masking of one's own belongs to a masked language model."""
    tuning = _tuning(spec)
    return tuning is None or tuning.masking == _MASKING or tuning.objective == "MaskedLM"


def _one_correction(spec: TrainingRunSpec) -> bool:
    """Whether not both focal loss and smoothed labels are asked for."""
    balance = spec.fine_tuning.class_balance if spec.fine_tuning is not None else ClassBalance()
    return balance.focal_gamma == 0.0 or balance.label_smoothing == 0.0


ADAPTATION_RULES: tuple[Rule, ...] = (
    predicate_rule(
        path=f"{_TUNING}.objective",
        fields=(f"{_TUNING}.task", f"{_TUNING}.objective"),
        holds=_continues_if_named,
        problem="an objective belongs to ContinuedPretraining, which needs one, and to no other task",
        remedy="Set task to ContinuedPretraining and objective to MaskedLM or CausalLM, or remove objective",
        node=_TUNING,
        cel="(self.task == 'ContinuedPretraining') == has(self.objective)",
    ),
    predicate_rule(
        path=f"{_TUNING}.masking",
        fields=(f"{_TUNING}.objective", f"{_TUNING}.masking"),
        holds=_masks_if_named,
        problem="masking is set, but nothing is masked",
        remedy="Remove masking, or continue the pretraining of a MaskedLM",
        node=_TUNING,
        cel=(
            "(has(self.objective) && self.objective == 'MaskedLM') || "
            f"(self.masking.probability == {_MASKING.probability} && "
            f"self.masking.evaluationProbability == {_MASKING.evaluation_probability} && "
            f"self.masking.strategy == '{_MASKING.strategy}')"
        ),
    ),
    predicate_rule(
        path=f"{_ADAPTATION}.frozenLayers",
        fields=(f"{_ADAPTATION}.frozenLayers", f"{_ADAPTATION}.adapter"),
        holds=lambda spec: _adaptation(spec).adapter is None or _adaptation(spec).frozen_layers == 0,
        problem="an adapter keeps all of the model's own weights, so there is no layer left to freeze",
        remedy="Remove frozenLayers, or name the layers in adapter.targetModules",
        node=_ADAPTATION,
        cel="!has(self.adapter) || self.frozenLayers == 0",
    ),
    predicate_rule(
        path=f"{_ADAPTATION}.unfreezeEverySteps",
        fields=(f"{_ADAPTATION}.unfreezeEverySteps", f"{_ADAPTATION}.adapter"),
        holds=lambda spec: (
            _adaptation(spec).adapter is None or _adaptation(spec).unfreeze_every_steps is None
        ),
        problem="an adapter keeps all of the model's own weights, so none begins to train later",
        remedy="Remove unfreezeEverySteps, or the adapter",
        node=_ADAPTATION,
        cel="!has(self.adapter) || !has(self.unfreezeEverySteps)",
    ),
    predicate_rule(
        path=f"{_BALANCE}.labelSmoothing",
        fields=(f"{_BALANCE}.labelSmoothing", f"{_BALANCE}.focalGamma"),
        holds=_one_correction,
        problem="the focal loss is defined for certain labels, and labelSmoothing makes them uncertain",
        remedy="Set labelSmoothing or focalGamma to 0",
        node=_BALANCE,
        cel="self.focalGamma == 0.0 || self.labelSmoothing == 0.0",
    ),
)
