"""TrainingRun v1alpha1: learning from a teacher. Part of the hand-written schema; see `spec.py`.

docs/distillation.md defines every loss by its formula.
"""

from typing import Annotated, Literal

from pydantic import Field

from trainyard_api.model import ApiModel
from trainyard_api.spec_model import ModelFromRun, PretrainedModel
from trainyard_api.spec_types import Fraction, PositiveFloat, PositiveInt

Layer = Annotated[int, Field(ge=0, le=1000)]
Temperature = Annotated[float, Field(gt=0.0, le=100.0)]


class Teacher(ApiModel):
    """The model to imitate; exactly one member is set."""

    pretrained: PretrainedModel | None = None
    """A stored model."""
    from_run: ModelFromRun | None = None
    """The model of another run."""


class LogitsLoss(ApiModel):
    """How far the student's predictions are from the teacher's."""

    weight: PositiveFloat = 1.0
    """Factor of the term in the loss."""
    divergence: Literal["ForwardKL", "ReverseKL", "JensenShannon"] = "ForwardKL"
    """ForwardKL covers all that the teacher holds possible; ReverseKL keeps to what it holds likely."""
    teacher_share: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.5
    """JensenShannon: the teacher's share of the mixture that both are compared with, 0 to 1."""
    temperature: Temperature = 2.0
    """Divisor of both models' logits; the term is multiplied by its square to keep the gradient's size."""
    positions: Literal["All", "Labelled"] = "All"
    """All compares at every token but padding; Labelled only where the data has something to predict."""


class LabelsLoss(ApiModel):
    """The loss of the data's own labels, as without a teacher."""

    weight: PositiveFloat = 1.0
    """Factor of the term in the loss."""


class HiddenStatesLoss(ApiModel):
    """How far the outputs of layers are from the teacher's."""

    weight: PositiveFloat = 1.0
    """Factor of the term in the loss."""
    measure: Literal["Cosine", "MeanSquaredError"] = "Cosine"
    """Cosine compares directions, MeanSquaredError also lengths; widths that differ get a projection."""


class AttentionsLoss(ApiModel):
    """Mean squared error of the attention scores before their softmax (TinyBERT)."""

    weight: PositiveFloat = 1.0
    """Factor of the term in the loss."""


class RelationsLoss(ApiModel):
    """How far the relations between the tokens of one layer are from the teacher's (MiniLM)."""

    weight: PositiveFloat = 1.0
    """Factor of the term in the loss."""
    relations: Annotated[
        list[Literal["QueryKey", "QueryQuery", "KeyKey", "ValueValue"]], Field(min_length=1, max_length=4)
    ] = ["QueryKey", "ValueValue"]
    """Which projections of the tokens are related to each other."""
    num_heads: PositiveInt | None = None
    """Relation heads into which both models' projections are split; the student's heads when not set."""
    student_layer: Annotated[int, Field(ge=1, le=1000)] | None = None
    """Layer of the student, counted from 1 at the bottom; its last when not set."""
    teacher_layer: Annotated[int, Field(ge=1, le=1000)] | None = None
    """Layer of the teacher, counted from 1 at the bottom; its last when not set."""


class SortedLogitsLoss(ApiModel):
    """Distance of the sorted probabilities (universal logit distillation), for tokenizers that differ."""

    weight: PositiveFloat = 1.0
    """Factor of the term in the loss."""
    temperature: Temperature = 1.0
    """Divisor of both models' logits."""


class DistillationLosses(ApiModel):
    """The terms of the loss; at least one of them listens to the teacher."""

    logits: LogitsLoss | None = None
    """The teacher's predictions."""
    labels: LabelsLoss | None = None
    """The data's own labels."""
    hidden_states: HiddenStatesLoss | None = None
    """The teacher's hidden states, at the layers of layerMap."""
    attentions: AttentionsLoss | None = None
    """The teacher's attention scores, at the layers of layerMap."""
    relations: RelationsLoss | None = None
    """The relations between tokens inside one layer of the teacher."""
    sorted_logits: SortedLogitsLoss | None = None
    """The teacher's probabilities without regard to which token has them."""


class LayerPair(ApiModel):
    """A layer of the student and the one of the teacher that it is compared with."""

    student: Layer
    """Layer of the student, counted from 1 at the bottom; 0 is the output of the embeddings."""
    teacher: Layer
    """Layer of the teacher, counted likewise."""


class OnPolicy(ApiModel):
    """Training on text that the student writes and the teacher judges (decoders)."""

    fraction: Fraction = 0.5
    """Part of the rows that the student writes itself, 0 to 1; they have no labels."""
    maximum_new_tokens: Annotated[int, Field(ge=1, le=65_536)] = 128
    """Tokens that the student writes after a prompt, fewer where it ends the text or the row is full."""
    prompt_tokens: PositiveInt = 32
    """Tokens of the first document of a training row that the student goes on from."""
    temperature: Temperature = 1.0
    """Divisor of the logits from which it draws."""


class TeacherCache(ApiModel):
    """The teacher's predictions, written once before training, at most 100 bytes a token."""

    top_entries: Annotated[int, Field(ge=0, le=24)] = 8
    """Most likely tokens that are kept with their probability."""
    tail: Literal["Sampled", "Bucket"] = "Sampled"
    """Sampled draws from the rest, which is unbiased; Bucket keeps only the rest's total probability."""
    tail_samples: Annotated[int, Field(ge=1, le=48)] = 10
    """Sampled: how many tokens are drawn from the rest."""


class Distillation(ApiModel):
    """Learn from a larger model as well as from the data."""

    teacher: Teacher
    """The model to imitate."""
    losses: DistillationLosses = DistillationLosses(logits=LogitsLoss(), labels=LabelsLoss())
    """What of the teacher is imitated, and how much of it."""
    layer_map: Annotated[list[LayerPair], Field(max_length=100)] = []
    """Layers to compare; when empty, each layer of the student with its origin, or spread evenly."""
    on_policy: OnPolicy | None = None
    """Train on text that the student writes, too."""
    teacher_cache: TeacherCache | None = None
    """Write the teacher's predictions once, and train without it in memory."""
    tokenizer_mismatch: Literal["Refuse", "Align"] = "Refuse"
    """What to do when the teacher's tokenizer is another one; Align compares by sortedLogits."""
