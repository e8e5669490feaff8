"""A student beside its teacher: each term of the loss in training, the data's own in evaluation."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import nn

from trainyard_api.spec import TrainingRunSpec
from trainyard_api.spec_distillation import Distillation, HiddenStatesLoss, LayerPair, LogitsLoss
from trainyard_trainer.methods.distillation_losses import Divergence, divergence_of, divergence_sum
from trainyard_trainer.methods.layer_losses import hidden_projection, hidden_sum
from trainyard_trainer.methods.loss_terms import DATA_TERM, LossTerm
from trainyard_trainer.models.language_model import LanguageModel
from trainyard_trainer.models.task_model import TaskModel
from trainyard_trainer.models.view import View

Watched = LanguageModel | TaskModel
"""A network with the loss of the run's data around it."""

LOGITS, HIDDEN_STATES = "logits", "hiddenStates"

_PROJECTIONS = "projections."


@dataclass(frozen=True)
class Term:
    """A term and how its sum is computed."""

    described: LossTerm
    sum_of: Callable[[View, View], torch.Tensor]
    """From the views of student and teacher of a batch to a scalar."""


def is_projection(name: str) -> bool:
    """Whether a parameter maps the student's features to the teacher's: trained, but no part of the model."""
    return name.startswith(_PROJECTIONS)


class DistilledModel(nn.Module):
    """A student with its teacher.

    The student's parameters keep their Transformers names behind the prefix `model.`; the teacher belongs to
    no engine and has no gradients.

    Args:
        student: the network to train.
        teacher: the network to imitate, frozen, with the run's own loss around it.
        spec: the run.
        layer_map: layers of student and teacher that are compared; 0 is the output of the embeddings.
        vocabulary_size: entries of the tokenizer; what either model has behind them is padding.
    """

    def __init__(
        self,
        student: Watched,
        teacher: Watched,
        spec: TrainingRunSpec,
        layer_map: Sequence[LayerPair],
        vocabulary_size: int,
    ) -> None:
        super().__init__()
        self.model = student.model
        # In a tuple, which PyTorch does not look into: neither names the parameters of the student twice, nor
        # takes the teacher for a part of what is trained.
        self._unregistered = (student, teacher)
        self._layer_map = tuple(layer_map)
        self._vocabulary_size = vocabulary_size
        distillation = cast("Distillation", spec.distillation)
        self.projections = nn.ModuleList(
            hidden_projection(_width(student), _width(teacher), spec.training.seed + number)
            for number in range(len(self._layer_map) if distillation.losses.hidden_states else 0)
        )
        self._terms = self._terms_of(distillation)

    @property
    def terms(self) -> tuple[LossTerm, ...]:
        """The terms, in the order of their sums."""
        return tuple(term.described for term in self._terms)

    def load_projections(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Put stored projections in their place.

        Args:
            weights: by their names in a checkpoint; see `is_projection`.
        """
        self.projections.load_state_dict(
            {name.removeprefix(_PROJECTIONS): tensor for name, tensor in weights.items()}
        )

    def forward(self, *arguments: torch.Tensor, **options: Any) -> torch.Tensor:
        """The sum of each term, fp32 [terms]; in evaluation what the student alone gives.

        Args:
            arguments: those of the student's `forward`.
            options: those of the student's `forward`, in evaluation.
        """
        student, teacher = self._unregistered
        if not self.training:
            return cast("torch.Tensor", student(*arguments, **options))
        of_layers = len(self.projections) > 0
        seen = student.view(*arguments, of_layers=of_layers)
        with torch.no_grad():
            shown = teacher.view(*arguments, of_layers=of_layers)
        return torch.stack([term.sum_of(seen, shown).float() for term in self._terms])

    def _terms_of(self, distillation: Distillation) -> list[Term]:
        losses, terms = distillation.losses, []
        student = self._unregistered[0]
        if losses.labels is not None:
            described = replace(DATA_TERM, weight=losses.labels.weight)
            terms.append(Term(described, lambda seen, _: student.loss_sum(seen)))
        if losses.logits is not None:
            terms.append(self._logits_term(losses.logits))
        if losses.hidden_states is not None:
            terms.append(self._hidden_states_term(losses.hidden_states))
        return terms

    def _logits_term(self, settings: LogitsLoss) -> Term:
        student = self._unregistered[0]
        has_tokens = isinstance(student, LanguageModel) or student.loss.kind in {"Tokens", "Words"}
        of_tokens = has_tokens and settings.positions == "All"
        divergence = _divergence(student, settings)
        outputs = _num_outputs(student, self._vocabulary_size)

        def sum_of(seen: View, shown: View) -> torch.Tensor:
            places = seen.tokens if of_tokens else seen.labelled
            found = divergence_sum(
                seen.states.index_select(0, places),
                shown.states.index_select(0, places),
                student_head=seen.head,
                teacher_head=shown.head,
                divergence=divergence,
                vocabulary_size=outputs,
            )
            return found.total

        return Term(LossTerm(LOGITS, settings.weight, "Tokens" if of_tokens else "Predictions"), sum_of)

    def _hidden_states_term(self, settings: HiddenStatesLoss) -> Term:
        pairs = tuple(zip(self._layer_map, self.projections, strict=True))

        def sum_of(seen: View, shown: View) -> torch.Tensor:
            places = seen.tokens
            sums = [
                hidden_sum(
                    seen.layers[pair.student].index_select(0, places),
                    shown.layers[pair.teacher].index_select(0, places),
                    measure=settings.measure,
                    projection=projection,
                ).total
                for pair, projection in pairs
            ]
            return torch.stack(sums).mean()

        return Term(LossTerm(HIDDEN_STATES, settings.weight, "Tokens"), sum_of)


def _divergence(student: Watched, settings: LogitsLoss) -> Divergence:
    """How predictions are compared: numbers by their squared difference, distributions as the spec says."""
    if isinstance(student, TaskModel) and student.loss.kind == "Regression":
        return lambda first, second: (first.float() - second.float()).square().sum(-1)
    return divergence_of(
        settings.divergence, temperature=settings.temperature, teacher_share=settings.teacher_share
    )


def _width(model: Watched) -> int:
    return int(model.model.config.hidden_size)


def _num_outputs(model: Watched, vocabulary_size: int) -> int:
    """Logits of a place that stand for something."""
    if isinstance(model, LanguageModel) or model.loss.kind == "Tokens":
        return vocabulary_size
    return 2 if model.loss.kind == "MultiLabel" else int(model.model.config.num_labels or 1)
