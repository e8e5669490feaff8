"""Rules of objective, batch, optimizer, schedule and precision."""

from collections.abc import Iterable

from trainyard_api.deepspeed_keys import refused_keys
from trainyard_api.errors import ConfigurationError
from trainyard_api.plan import plan_batch
from trainyard_api.problems import Problem
from trainyard_api.rules.rule import Rule, predicate_rule
from trainyard_api.spec import Optimizer, TrainingRun, TrainingRunSpec
from trainyard_api.spec_objectives import Masking

_BATCH_FIELDS = (
    "spec.training.globalBatchSize",
    "spec.training.microBatchSize",
    "spec.workers.nodes",
    "spec.workers.processesPerNode",
)
_OPTIMIZER = "spec.training.optimizer"
_USED_CONSTANTS: dict[str, frozenset[str]] = {
    "AdamW": frozenset({"beta1", "beta2", "epsilon"}),
    "SGD": frozenset({"momentum", "nesterov"}),
    "Adafactor": frozenset(),
    "Lion": frozenset({"beta1", "beta2"}),
}
"""Constants that each optimizer uses beside learningRate and weightDecay."""
_CONSTANTS = ("beta1", "beta2", "epsilon", "momentum", "nesterov")


def _batch_problems(run: TrainingRun) -> Iterable[Problem]:
    """What plan_batch says of the batch, so that there is one batch arithmetic."""
    training, workers = run.spec.training, run.spec.workers
    if training.micro_batch_size > training.global_batch_size:
        yield Problem(
            "spec.training.microBatchSize",
            f"{training.micro_batch_size} is larger than globalBatchSize {training.global_batch_size}",
            f"Set it to {training.global_batch_size} or less, or raise globalBatchSize",
        )
        return
    try:
        plan_batch(training, workers)
    except ConfigurationError as error:
        yield Problem(error.where, error.problem, error.remedy)


def _unused_constant_rule(constant: str) -> Rule:
    """A constant of another optimizer than the one chosen is not set; equal to the default it is harmless."""
    users = [name for name, used in _USED_CONSTANTS.items() if constant in used]
    default = Optimizer.model_fields[constant].default
    remedy = f"Remove it, or set optimizer.name to {' or '.join(users)}"

    def check(run: TrainingRun) -> Iterable[Problem]:
        optimizer = run.spec.training.optimizer
        if optimizer.name not in users and getattr(optimizer, constant) != default:
            yield Problem(f"{_OPTIMIZER}.{constant}", f"{optimizer.name} does not use it", remedy)

    literal = "false" if default is False else f"{default:.12f}".rstrip("0")
    return Rule(
        fields=(_OPTIMIZER,),
        problem=f"{constant} is set, but the optimizer does not use it",
        remedy=remedy,
        check=check,
        node=_OPTIMIZER,
        cel=f"self.{constant} == {literal} || self.name in {users}",
        field=f"{_OPTIMIZER}.{constant}",
    )


def _deepspeed_problems(run: TrainingRun) -> Iterable[Problem]:
    """Keys of the DeepSpeed configuration that do not pass."""
    for refused in refused_keys(run.spec.deepspeed.config):
        yield Problem(f"spec.deepspeed.config.{refused.key}", refused.problem, refused.remedy)


def _steps_fit(spec: TrainingRunSpec) -> bool:
    """Whether warm-up and decay fit a budget in steps; other budgets are known only once the data is."""
    steps = spec.training.budget.steps
    schedule = spec.training.schedule
    return steps is None or schedule.warmup_steps + (schedule.decay_steps or 0) <= steps


_MASKING = Masking()

TRAINING_RULES: tuple[Rule, ...] = (
    predicate_rule(
        path="spec.pretraining.masking",
        fields=("spec.pretraining.objective", "spec.pretraining.masking"),
        holds=lambda spec: (
            spec.pretraining is None
            or spec.pretraining.objective == "MaskedLM"
            or spec.pretraining.masking == _MASKING
        ),
        problem="masking is set, but CausalLM masks nothing",
        remedy="Remove masking, or set objective to MaskedLM",
        node="spec.pretraining",
        cel=(
            "self.objective == 'MaskedLM' || "
            f"(self.masking.probability == {_MASKING.probability} && "
            f"self.masking.evaluationProbability == {_MASKING.evaluation_probability} && "
            f"self.masking.strategy == '{_MASKING.strategy}')"
        ),
    ),
    predicate_rule(
        path="spec.tokenizer",
        fields=("spec.tokenizer", "spec.model.architecture", "spec.distillation"),
        holds=lambda spec: (
            spec.model.architecture is None or spec.tokenizer is not None or spec.distillation is not None
        ),
        problem="a model that starts from random weights has no tokenizer of its own",
        remedy="Set tokenizer.train or tokenizer.uri",
        node="spec",
        cel="!has(self.model.architecture) || has(self.tokenizer) || has(self.distillation)",
    ),
    Rule(
        fields=_BATCH_FIELDS,
        problem="globalBatchSize is not a multiple of microBatchSize x nodes x processesPerNode",
        remedy="Change globalBatchSize, microBatchSize or workers",
        check=_batch_problems,
        node="spec",
        cel=(
            "self.training.globalBatchSize % "
            "(self.training.microBatchSize * self.workers.nodes * self.workers.processesPerNode) == 0"
        ),
        field="spec.training.globalBatchSize",
    ),
    *map(_unused_constant_rule, _CONSTANTS),
    predicate_rule(
        path=f"{_OPTIMIZER}.nesterov",
        fields=(_OPTIMIZER,),
        holds=lambda spec: (
            spec.training.optimizer.name != "SGD"
            or not spec.training.optimizer.nesterov
            or spec.training.optimizer.momentum > 0.0
        ),
        problem="Nesterov's method needs a momentum, and momentum is 0",
        remedy="Set momentum to a number above 0, such as 0.9, or nesterov to false",
        node=_OPTIMIZER,
        cel="self.name != 'SGD' || !self.nesterov || self.momentum > 0.0",
    ),
    predicate_rule(
        path=f"{_OPTIMIZER}.name",
        fields=(f"{_OPTIMIZER}.name", "spec.deepspeed.zeroStage", "spec.training.precision"),
        holds=lambda spec: (
            spec.training.optimizer.name != "Adafactor"
            or (spec.deepspeed.zero_stage == 0 and spec.training.precision == "FP32")
        ),
        problem=(
            "Adafactor needs whole matrices for its row and column statistics, "
            "and DeepSpeed flattens them under ZeRO and in BF16 or FP16"
        ),
        remedy="Use AdamW or Lion, or set deepspeed.zeroStage to 0 and training.precision to FP32",
        node="spec",
        cel=(
            "self.training.optimizer.name != 'Adafactor' || "
            "(self.deepspeed.zeroStage == 0 && self.training.precision == 'FP32')"
        ),
    ),
    predicate_rule(
        path="spec.training.schedule.decaySteps",
        fields=("spec.training.schedule.name", "spec.training.schedule.decaySteps"),
        holds=lambda spec: (
            spec.training.schedule.decay_steps is None or spec.training.schedule.name == "WarmupStableDecay"
        ),
        problem="decaySteps is set, but only WarmupStableDecay has a final fall of its own",
        remedy="Remove it, or set schedule.name to WarmupStableDecay",
        node="spec.training.schedule",
        cel="!has(self.decaySteps) || self.name == 'WarmupStableDecay'",
    ),
    predicate_rule(
        path="spec.training.schedule.decayShape",
        fields=("spec.training.schedule.name", "spec.training.schedule.decayShape"),
        holds=lambda spec: (
            spec.training.schedule.decay_shape == "OneMinusSqrt"
            or spec.training.schedule.name == "WarmupStableDecay"
        ),
        problem="decayShape is set, but only WarmupStableDecay uses it",
        remedy="Remove it, or set schedule.name to WarmupStableDecay",
        node="spec.training.schedule",
        cel="self.decayShape == 'OneMinusSqrt' || self.name == 'WarmupStableDecay'",
    ),
    predicate_rule(
        path="spec.training.schedule.minimumRatio",
        fields=("spec.training.schedule.name", "spec.training.schedule.minimumRatio"),
        holds=lambda spec: (
            spec.training.schedule.minimum_ratio == 0.0 or spec.training.schedule.name != "Constant"
        ),
        problem="minimumRatio is set, but a Constant schedule never falls",
        remedy="Remove it, or choose Linear, Cosine or WarmupStableDecay",
        node="spec.training.schedule",
        cel="self.minimumRatio == 0.0 || self.name != 'Constant'",
    ),
    predicate_rule(
        path="spec.training.schedule.warmupSteps",
        fields=(
            "spec.training.schedule.warmupSteps",
            "spec.training.schedule.decaySteps",
            "spec.training.budget",
        ),
        holds=_steps_fit,
        problem="warmupSteps and decaySteps together exceed budget.steps",
        remedy="Lower them, or raise budget.steps",
        node="spec.training",
        cel=(
            "!has(self.budget.steps) || self.schedule.warmupSteps + "
            "(has(self.schedule.decaySteps) ? self.schedule.decaySteps : 0) <= self.budget.steps"
        ),
    ),
    predicate_rule(
        path="spec.training.precision",
        fields=("spec.training.precision", "spec.workers.accelerator"),
        holds=lambda spec: spec.training.precision != "FP16" or spec.workers.accelerator.count > 0,
        problem="FP16 needs an accelerator, and workers.accelerator.count is 0",
        remedy="Use BF16 or FP32, or set workers.accelerator.count",
        node="spec",
        cel="self.training.precision != 'FP16' || self.workers.accelerator.count > 0",
    ),
    predicate_rule(
        path="spec.deepspeed.zeroStage",
        fields=("spec.training.precision", "spec.deepspeed.zeroStage"),
        holds=lambda spec: spec.training.precision != "FP16" or spec.deepspeed.zero_stage > 0,
        problem="FP16 keeps its master weights in ZeRO, so stage 0 has none",
        remedy="Set it to 1, 2 or 3, or use BF16",
        node="spec",
        cel="self.training.precision != 'FP16' || self.deepspeed.zeroStage > 0",
    ),
    Rule(
        fields=("spec.deepspeed.config",),
        problem="config holds a key that Trainyard owns, does not support or does not know, or a wrong value",
        remedy="Set the field of the TrainingRun instead; docs/api.md lists the keys",
        check=_deepspeed_problems,
    ),
)
