"""A student beside its teacher: each term of the loss in training, the data's own in evaluation."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, cast

import torch
from torch import nn

from trainyard_api.spec import TrainingRunSpec
from trainyard_api.spec_distillation import Distillation, LayerPair, LogitsLoss
from trainyard_trainer.methods.distillation_losses import Divergence, divergence_of, divergence_sum
from trainyard_trainer.methods.loss_terms import DATA_TERM, LossTerm, Unit
from trainyard_trainer.methods.sorted_logit_loss import sorted_logits
from trainyard_trainer.models.language_model import LanguageModel
from trainyard_trainer.models.layer_terms import layer_terms
from trainyard_trainer.models.projections import captured_projections
from trainyard_trainer.models.task_model import TaskModel
from trainyard_trainer.models.term import Term
from trainyard_trainer.models.view import View

Watched = LanguageModel | TaskModel
"""A network with the loss of the run's data around it."""

LOGITS, SORTED_LOGITS = "logits", "sortedLogits"

_NUM_ARGUMENTS = 5
"""Tensors of a batch that a student takes; what tells where it is compared with its teacher follows them."""

_PROJECTIONS = "projections."


def is_projection(name: str) -> bool:
    """Whether a parameter maps what a student has to what its teacher has: trained, but no part of it."""
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
        vocabulary_sizes: entries of the tokenizers of student and teacher; what a model has behind them is
            padding.
    """

    def __init__(
        self,
        student: Watched,
        teacher: Watched,
        spec: TrainingRunSpec,
        layer_map: Sequence[LayerPair],
        vocabulary_sizes: tuple[int, int],
    ) -> None:
        super().__init__()
        self.model = student.model
        # In a tuple, which PyTorch does not look into: neither names the parameters of the student twice, nor
        # takes the teacher for a part of what is trained.
        self._unregistered = (student, teacher)
        self._outputs = tuple(
            _num_outputs(model, size)
            for model, size in zip((student, teacher), vocabulary_sizes, strict=True)
        )
        distillation = cast("Distillation", spec.distillation)
        self._inside = layer_terms(distillation, layer_map, student.model, teacher.model, spec.training.seed)
        self.projections = self._inside.projections
        self._terms = (*self._terms_of(distillation), *self._inside.terms)

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
            arguments: those of the student's `forward`; in training they may be followed by what
                `compared_batches.ComparedBatch` adds.
            options: those of the student's `forward`, in evaluation; with `cache` it is asked to go on with
                text, see `LanguageModel.next_logits`.
        """
        student, teacher = self._unregistered
        if "cache" in options:
            return cast("LanguageModel", student).next_logits(*arguments, **options)
        if not self.training:
            return cast("torch.Tensor", student(*arguments, **options))
        own, places = arguments[:_NUM_ARGUMENTS], arguments[_NUM_ARGUMENTS:]
        theirs = _teacher_arguments(own, places)
        seen = self._view(student, self._inside.student_layers, own, places[:1])
        with torch.no_grad():
            shown = self._view(teacher, self._inside.teacher_layers, theirs, places[1:2] or places[:1])
        return torch.stack([term.sum_of(seen, shown).float() for term in self._terms])

    def _view(
        self,
        model: Watched,
        layers: Collection[int],
        arguments: tuple[torch.Tensor, ...],
        compared: tuple[torch.Tensor, ...],
    ) -> View:
        with captured_projections(model.model, layers) as projections:
            view = model.view(*arguments, of_layers=self._inside.of_outputs)
        return replace(view, projections=projections, compared=compared[0] if compared else None)

    def _terms_of(self, distillation: Distillation) -> list[Term]:
        losses, terms = distillation.losses, []
        student = self._unregistered[0]
        chosen = distillation.tokenizer_mismatch == "Align" or distillation.on_policy is not None
        if losses.labels is not None:
            described = replace(DATA_TERM, weight=losses.labels.weight)
            terms.append(Term(described, lambda seen, _: student.loss_sum(seen)))
        if losses.logits is not None:
            divergence = _divergence(student, losses.logits)
            unit = self._unit(chosen=chosen, everywhere=losses.logits.positions == "All")
            terms.append(self._predictions_term(LossTerm(LOGITS, losses.logits.weight, unit), divergence))
        if losses.sorted_logits is not None:
            temperature = losses.sorted_logits.temperature
            unit = self._unit(chosen=chosen, everywhere=True)
            term = LossTerm(SORTED_LOGITS, losses.sorted_logits.weight, unit)
            terms.append(self._predictions_term(term, partial(sorted_logits, temperature=temperature)))
        return terms

    def _unit(self, *, chosen: bool, everywhere: bool) -> Unit:
        """What predictions are compared at: places that each batch names, all tokens, or what has a label."""
        student = self._unregistered[0]
        has_tokens = isinstance(student, LanguageModel) or student.loss.kind in {"Tokens", "Words"}
        return "Compared" if chosen else "Tokens" if has_tokens and everywhere else "Predictions"

    def _predictions_term(self, described: LossTerm, divergence: Divergence) -> Term:
        outputs = self._outputs

        def sum_of(seen: View, shown: View) -> torch.Tensor:
            found = divergence_sum(
                seen.states.index_select(0, seen.places(described.unit)),
                shown.states.index_select(0, shown.places(described.unit)),
                student_head=seen.head,
                teacher_head=shown.head,
                divergence=divergence,
                vocabulary_sizes=(outputs[0], outputs[1]),
                most_places=seen.most_places,
            )
            return found.total

        return Term(described, sum_of)


def _teacher_arguments(
    own: tuple[torch.Tensor, ...], places: tuple[torch.Tensor, ...]
) -> tuple[torch.Tensor, ...]:
    """What the teacher reads: what the student does, unless its own tokens of the same text are given."""
    theirs = places[2:]
    nothing = own[0].new_zeros(0)
    return (*theirs, nothing, nothing) if theirs else own


def _divergence(student: Watched, settings: LogitsLoss) -> Divergence:
    """How predictions are compared: numbers by their squared difference, distributions as the spec says."""
    if isinstance(student, TaskModel) and student.loss.kind == "Regression":
        return lambda first, second: (first.float() - second.float()).square().sum(-1)
    return divergence_of(
        settings.divergence, temperature=settings.temperature, teacher_share=settings.teacher_share
    )


def _num_outputs(model: Watched, vocabulary_size: int) -> int:
    """Logits of a place that stand for something."""
    if isinstance(model, LanguageModel) or model.loss.kind == "Tokens":
        return vocabulary_size
    return 2 if model.loss.kind == "MultiLabel" else int(model.model.config.num_labels or 1)
