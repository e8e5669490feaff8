"""The terms of a student's loss that look inside the layers of both models; all count tokens."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel

from trainyard_api.spec_distillation import (
    AttentionsLoss,
    Distillation,
    HiddenStatesLoss,
    LayerPair,
    RelationsLoss,
)
from trainyard_trainer.methods.layer_losses import (
    attention_scores,
    attention_sum,
    head_projection,
    hidden_projection,
    hidden_sum,
    relation_sum,
)
from trainyard_trainer.methods.loss_terms import LossTerm
from trainyard_trainer.models.layers import body_layer_prefixes
from trainyard_trainer.models.narrowing import sizes_of
from trainyard_trainer.models.student_layers import related_layers, relation_heads
from trainyard_trainer.models.term import Term
from trainyard_trainer.models.view import View

HIDDEN_STATES, ATTENTIONS, RELATIONS = "hiddenStates", "attentions", "relations"

_RELATED = {
    "QueryKey": ("query", "key"),
    "QueryQuery": ("query", "query"),
    "KeyKey": ("key", "key"),
    "ValueValue": ("value", "value"),
}
"""The projections that each relation is between."""


@dataclass(frozen=True)
class LayerTerms:
    """The terms that look inside the layers, and what has to be known to compute them.

    Attributes:
        terms: in the order of their names in the spec.
        projections: what is learned with the student for them, by term; none of it is part of the model.
        student_layers: layers of the student whose queries, keys and values are compared.
        teacher_layers: those of the teacher.
    """

    terms: tuple[Term, ...]
    projections: nn.ModuleDict
    student_layers: frozenset[int]
    teacher_layers: frozenset[int]

    @property
    def of_outputs(self) -> bool:
        """Whether the outputs of layers are compared."""
        return HIDDEN_STATES in self.projections


def layer_terms(
    distillation: Distillation,
    layer_map: Sequence[LayerPair],
    student: PreTrainedModel,
    teacher: PreTrainedModel,
    seed: int,
) -> LayerTerms:
    """The terms that a run's losses name.

    Args:
        distillation: names them.
        layer_map: pairs of layers that exist; 0 is the output of the embeddings, which have no attention.
        student: the model to train.
        teacher: the model to imitate.
        seed: decides the first weights of projections.

    Raises:
        ConfigurationError: relations of a layer that does not exist are asked for, or heads that do not fit.
    """
    losses, models = distillation.losses, (student, teacher)
    sizes = [sizes_of(model.config) for model in models]
    depths = [len(body_layer_prefixes(model)) for model in models]
    terms: list[Term] = []
    projections = nn.ModuleDict()
    watched: list[tuple[int, int]] = []
    if losses.hidden_states is not None:
        widths = sizes[0].hidden, sizes[1].hidden
        maps = nn.ModuleList(hidden_projection(*widths, seed + number) for number in range(len(layer_map)))
        projections[HIDDEN_STATES] = maps
        terms.append(hidden_states_term(losses.hidden_states, layer_map, maps))
    if losses.attentions is not None:
        pairs = [pair for pair in layer_map if pair.student > 0]
        num_heads = sizes[0].num_heads, sizes[1].num_heads
        maps = nn.ModuleList(head_projection(*num_heads) for _ in pairs)
        projections[ATTENTIONS] = maps
        terms.append(attentions_term(losses.attentions, pairs, maps, num_heads))
        watched += [(pair.student, pair.teacher) for pair in pairs]
    if losses.relations is not None:
        layers = related_layers(losses.relations, *depths)
        widths = sizes[0].head * sizes[0].num_heads, sizes[1].head * sizes[1].num_heads
        num_parts = relation_heads(losses.relations, sizes[0].num_heads, widths)
        terms.append(relations_term(losses.relations, layers, num_parts))
        watched.append(layers)
    return LayerTerms(
        terms=tuple(terms),
        projections=projections,
        student_layers=frozenset(layer for layer, _ in watched),
        teacher_layers=frozenset(layer for _, layer in watched),
    )


def hidden_states_term(
    settings: HiddenStatesLoss, pairs: Sequence[LayerPair], projections: nn.ModuleList
) -> Term:
    """The distance of hidden states, a mean over pairs of layers.

    Args:
        settings: its weight and its measure.
        pairs: layers of student and teacher.
        projections: for each pair from the student's features to the teacher's.
    """

    def sum_of(seen: View, shown: View) -> torch.Tensor:
        places = seen.tokens
        sums = [
            hidden_sum(
                seen.layers[pair.student].index_select(0, places),
                shown.layers[pair.teacher].index_select(0, places),
                measure=settings.measure,
                projection=projection,
            ).total
            for pair, projection in zip(pairs, projections, strict=True)
        ]
        return torch.stack(sums).mean()

    return Term(LossTerm(HIDDEN_STATES, settings.weight, "Tokens"), sum_of)


def attentions_term(
    settings: AttentionsLoss,
    pairs: Sequence[LayerPair],
    projections: nn.ModuleList,
    num_heads: tuple[int, int],
) -> Term:
    """The distance of attention scores over the keys that both layers see, a mean over pairs of layers.

    Args:
        settings: its weight.
        pairs: layers of student and teacher.
        projections: for each pair from the student's heads to the teacher's.
        num_heads: attention heads of student and teacher.
    """

    def sum_of(seen: View, shown: View) -> torch.Tensor:
        sums = [
            attention_sum(
                projection(_scores(seen, pair.student, num_heads[0])),
                _scores(shown, pair.teacher, num_heads[1]),
                seen.sight.of_layer(pair.student) & shown.sight.of_layer(pair.teacher),
            ).total
            for pair, projection in zip(pairs, projections, strict=True)
        ]
        return torch.stack(sums).mean()

    return Term(LossTerm(ATTENTIONS, settings.weight, "Tokens"), sum_of)


def relations_term(settings: RelationsLoss, layers: tuple[int, int], num_heads: int) -> Term:
    """The divergence of relations between tokens, a sum over the relations.

    Args:
        settings: its weight and its relations.
        layers: of student and teacher, counted from 1 at the bottom.
        num_heads: heads into which both models' projections are split.
    """

    def sum_of(seen: View, shown: View) -> torch.Tensor:
        allowed = seen.sight.of_layer(layers[0]) & shown.sight.of_layer(layers[1])
        sums = [
            relation_sum(
                _projections(seen, layers[0], *_RELATED[name]),
                _projections(shown, layers[1], *_RELATED[name]),
                num_heads=num_heads,
                allowed=allowed,
            ).total
            for name in settings.relations
        ]
        return torch.stack(sums).sum()

    return Term(LossTerm(RELATIONS, settings.weight, "Tokens"), sum_of)


def _scores(view: View, layer: int, num_heads: int) -> torch.Tensor:
    """Attention scores of a layer, [rows, heads, length, length]."""
    return attention_scores(*_projections(view, layer, "query", "key"), num_heads)


def _projections(view: View, layer: int, first: str, second: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Two projections of a layer, [rows, length, features] each."""
    found = view.projections[layer]
    return getattr(found, first), getattr(found, second)
