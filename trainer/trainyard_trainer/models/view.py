"""What a model makes of a batch, before any loss: what a student and its teacher are compared by."""

from dataclasses import dataclass

import torch

from trainyard_trainer.methods.distillation_losses import Head


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
        layers: [rows x length, hidden size] each, the output of the embeddings and of every layer; empty
            unless asked for.
    """

    states: torch.Tensor
    head: Head
    labelled: torch.Tensor
    labels: torch.Tensor
    is_token: torch.Tensor
    has_tokens: bool
    layers: tuple[torch.Tensor, ...] = ()

    @property
    def tokens(self) -> torch.Tensor:
        """Places of the tokens, int64 [t]."""
        return self.is_token.nonzero()[:, 0]


def as_they_are(states: torch.Tensor) -> torch.Tensor:
    """The head of a model whose states are its logits."""
    return states


def against_nothing(states: torch.Tensor) -> torch.Tensor:
    """The head of classes decided one by one: each logit [m, 1] against 0, so the logits of yes and no."""
    return torch.cat([states, torch.zeros_like(states)], dim=-1)
