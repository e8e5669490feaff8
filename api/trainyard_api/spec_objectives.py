"""TrainingRun v1alpha1: what a run trains for. Part of the hand-written schema; see `spec.py`."""

from typing import Annotated, Literal

from pydantic import Field

from trainyard_api.model import ApiModel
from trainyard_api.spec_types import (
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Probability,
)


class Masking(ApiModel):
    """Which tokens a masked language model has to predict."""

    probability: Probability = 0.30
    """Fraction of the tokens to predict in training, 0 to 1."""
    evaluation_probability: Probability = 0.15
    """Fraction of the tokens to predict in evaluation, 0 to 1; equal for all runs, so that losses compare."""
    strategy: Literal["Token", "WholeWord"] = "WholeWord"
    """Token chooses single tokens; WholeWord chooses all tokens of a word together."""


class Pretraining(ApiModel):
    """Train a language model on text without labels."""

    objective: Literal["MaskedLM", "CausalLM"]
    """MaskedLM predicts hidden tokens (encoders); CausalLM predicts the next token (decoders)."""
    masking: Masking = Masking()
    """Masking of the MaskedLM objective; not used by CausalLM."""


class Adapter(ApiModel):
    """A small number of added weights that are trained instead of the model's own."""

    method: Literal["LoRA", "DoRA"] = "LoRA"
    """LoRA adds a product of two narrow matrices to a layer; DoRA also trains the length of its columns."""
    rank: Annotated[int, Field(ge=1, le=1024)] = 8
    """Width of the two matrices."""
    alpha: PositiveFloat = 16.0
    """Numerator of the scale alpha / rank of what is added."""
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Fraction of the adapter's inputs that is dropped in training, 0 to 1."""
    target_modules: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=253)]], Field(max_length=100)
    ] = []
    """Ends of the names of the linear layers that get an adapter; all of the body when empty."""
    merge: bool = True
    """Whether the exported model has the adapter in its weights; the adapter is stored alone in any case."""


class Adaptation(ApiModel):
    """Which weights fine-tuning changes, and how fast."""

    frozen_layers: NonNegativeInt = 0
    """Layers from the bottom that keep their weights, with the embeddings; 0 freezes nothing."""
    unfreeze_every_steps: PositiveInt | None = None
    """Gradual unfreezing: optimizer steps until the next lower layer begins to train; the head begins."""
    layer_learning_rate_decay: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Factor of the learning rate from each layer to the one below it; 1 gives all layers the same."""
    adapter: Adapter | None = None
    """Train an adapter, and keep the model's own weights."""


class ClassBalance(ApiModel):
    """What is done about classes that occur unequally often, and about uncertain labels."""

    class_weights: Literal["Equal", "InverseFrequency", "EffectiveNumber", "Given"] = "Equal"
    """Weight of each class in the loss: 1, by its frequency, by its effective number, or as given."""
    effective_number_beta: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.999
    """Beta of EffectiveNumber: a class of n examples weighs (1 - beta) / (1 - beta ** n), mean 1."""
    given_weights: dict[str, PositiveFloat] = {}
    """Weight of each class by its label (Given)."""
    focal_gamma: NonNegativeFloat = 0.0
    """Exponent of the focal loss; 0 is plain cross-entropy."""
    label_smoothing: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Fraction of the target that is spread evenly over all classes, 0 to 1."""
    weighted_sampling: bool = False
    """Whether each class is drawn equally often, with replacement, instead of each example once an epoch."""


class EarlyStopping(ApiModel):
    """The end of training when the metric no longer improves."""

    patience: PositiveInt = 3
    """Evaluations without an improvement after which training ends."""
    minimum_improvement: NonNegativeFloat = 0.0
    """By how much the metric has to be better to count."""


class TaskEvaluation(ApiModel):
    """How a fine-tuned model is judged."""

    metric: (
        Literal[
            "Loss",
            "Accuracy",
            "MacroF1",
            "MicroF1",
            "Matthews",
            "AUROC",
            "SeqevalF1",
            "Perplexity",
            "MeanSquaredError",
            "Pearson",
        ]
        | None
    ) = None
    """The metric that chooses the best checkpoint; the task's usual one when not set."""
    keep_best: bool = True
    """Whether the model is exported from the checkpoint with the best metric, not from the last one."""
    early_stopping: EarlyStopping | None = None
    """End training when the metric no longer improves."""
    bootstrap_samples: Annotated[int, Field(ge=0, le=100_000)] = 1000
    """Resamples of the held-out examples for the intervals of the metrics; 0 gives none."""
    confidence: Probability = 0.95
    """Coverage of the intervals, 0 to 1."""


class FineTuning(ApiModel):
    """Adapt a pre-trained model to a task with labelled data."""

    task: Literal[
        "SequenceClassification", "TokenClassification", "InstructionTuning", "ContinuedPretraining"
    ]
    """What the model learns to do."""
    problem: Literal["SingleLabel", "MultiLabel", "Regression"] = "SingleLabel"
    """SequenceClassification: one class, any number of classes, or a number."""
    objective: Literal["MaskedLM", "CausalLM"] | None = None
    """ContinuedPretraining: the objective of the pretraining that is continued."""
    masking: Masking = Masking()
    """ContinuedPretraining with MaskedLM: which tokens the model has to predict."""
    labels: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=253)]], Field(max_length=10_000)
    ] = []
    """Names of the classes in the order of their numbers; those of the training data, sorted, when empty."""
    chat_template: Annotated[str, Field(max_length=65_536)] = ""
    """InstructionTuning: the Jinja template that turns messages into text; the tokenizer's own when empty."""
    adaptation: Adaptation = Adaptation()
    """Which weights change, and how fast."""
    class_balance: ClassBalance = ClassBalance()
    """What is done about unequal classes and uncertain labels (the classification tasks)."""
    evaluation: TaskEvaluation = TaskEvaluation()
    """How the model is judged."""
