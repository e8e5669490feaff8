"""A student that learns from what was kept of its teacher: no teacher is in memory."""

from dataclasses import replace
from typing import Any, cast

import torch
from torch import nn

from trainyard_api.spec_distillation import DistillationLosses
from trainyard_trainer.distillation.cache_entries import CachedPredictions
from trainyard_trainer.distillation.cache_place import CachePlace
from trainyard_trainer.distillation.cached_losses import cached_sums, labels_at
from trainyard_trainer.methods.loss_terms import DATA_TERM, LossTerm
from trainyard_trainer.models.distilled_model import LOGITS
from trainyard_trainer.models.language_model import LanguageModel

_NUM_ARGUMENTS = 5
"""Tensors of a batch that a language model takes; those of the cache follow them."""


class CachedModel(nn.Module):
    """A student with the losses of a run that has a cache.

    The student's parameters keep their Transformers names behind the prefix `model.`.

    Args:
        student: the network to train.
        losses: the terms; there is one on the predictions.
        place: the cache.
    """

    def __init__(self, student: LanguageModel, losses: DistillationLosses, place: CachePlace) -> None:
        super().__init__()
        self.model = student.model
        # In a tuple, which PyTorch does not look into, so that no parameter has two names.
        self._unregistered = (student,)
        self._place = place
        self._has_labels = losses.labels is not None
        of_labels = [] if losses.labels is None else [replace(DATA_TERM, weight=losses.labels.weight)]
        weight = 1.0 if losses.logits is None else losses.logits.weight
        of_logits = LossTerm(LOGITS, weight, "Tokens" if place.of_tokens else "Predictions")
        self.terms: tuple[LossTerm, ...] = (*of_labels, of_logits)

    def forward(self, *arguments: torch.Tensor, **options: Any) -> torch.Tensor:
        """The sum of each term, fp32 [terms]; in evaluation what the student alone gives.

        Args:
            arguments: those of the student's `forward`, in training followed by what the cache keeps.
            options: those of the student's `forward`, in evaluation.
        """
        (student,) = self._unregistered
        if not self.training:
            return cast("torch.Tensor", student(*arguments, **options))
        view = student.view(*arguments[:_NUM_ARGUMENTS])
        places = view.tokens if self._place.of_tokens else view.labelled
        labels = labels_at(places, view.labelled, view.labels, len(view.states)) if self._has_labels else None
        return cached_sums(
            view.states.index_select(0, places),
            labels,
            CachedPredictions(*arguments[_NUM_ARGUMENTS:]),
            self._place.layout,
            view.head,
            most_places=view.most_places,
        )
