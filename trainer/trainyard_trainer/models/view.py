"""What a model makes of a batch, before any loss: what a student and its teacher are compared by."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from trainyard_trainer.methods.distillation_losses import Head
from trainyard_trainer.methods.loss_terms import Unit
from trainyard_trainer.models.projections import Projections
from trainyard_trainer.models.sight import Sight


@dataclass(frozen=True)
class View:
    """A batch through a model. Places are numbers of rows of `states`.

    Attributes:
        states: [n, features], what the head makes logits of.
        head: the head; it returns what it is given where the states are logits already.
        labelled: int64 [m], the places at which the data has something to predict.
        labels: [m], what it is.
        is_token: bool [rows x length], whether a token stands there, or padding.
        has_tokens: whether the states are those of the tokens; else they are those of whole rows.
        sight: what each token sees of the others.
        layers: [rows x length, hidden size] each, the output of the embeddings and of every layer; empty
            unless asked for.
        projections: queries, keys and values of layers, by their number from 1; empty unless asked for.
        compared: int64 [c], the places at which predictions are compared, where the batch names them.
        most_places: see `losses.sum_over_places`.
    """

    states: torch.Tensor
    head: Head
    labelled: torch.Tensor
    labels: torch.Tensor
    is_token: torch.Tensor
    has_tokens: bool
    sight: Sight
    layers: tuple[torch.Tensor, ...] = ()
    projections: Mapping[int, Projections] = field(default_factory=dict)
    compared: torch.Tensor | None = None
    most_places: int | None = None

    @property
    def tokens(self) -> torch.Tensor:
        """Places of the tokens, int64 [t]."""
        return self.is_token.nonzero()[:, 0]

    def places(self, unit: Unit) -> torch.Tensor:
        """The places that a term on predictions counts, int64 [k].

        Raises:
            ValueError: the batch does not name the places that are compared.
        """
        if unit != "Compared":
            return self.tokens if unit == "Tokens" else self.labelled
        if self.compared is None:
            raise ValueError("the batch names no places to compare")
        return self.compared


def as_they_are(states: torch.Tensor) -> torch.Tensor:
    """The head of a model whose states are its logits."""
    return states


def against_nothing(states: torch.Tensor) -> torch.Tensor:
    """The head of classes decided one by one: each logit [m, 1] against 0, so the logits of yes and no."""
    return torch.cat([states, torch.zeros_like(states)], dim=-1)
