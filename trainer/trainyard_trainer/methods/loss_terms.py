"""The terms that a loss is made of, and what each is divided by over a whole optimizer step."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

Unit = Literal["Weight", "Predictions", "Tokens", "Compared"]
"""What a term is a mean over: predictions by their class weights, predictions, tokens but padding, or the
places that a batch names for the comparison with a teacher."""


@dataclass(frozen=True)
class LossTerm:
    """One term.

    Attributes:
        name: as the history of a run calls it.
        weight: factor of its mean.
        unit: what it is a mean over.
    """

    name: str
    weight: float = 1.0
    unit: Unit = "Weight"


DATA_TERM = LossTerm("labels")
"""The loss of the data's own labels, the only term of a run without a teacher."""


class Counts(Protocol):
    """What an optimizer step holds, over all ranks and micro-batches."""

    @property
    def loss_weight(self) -> float:
        """Sum of the weights of its predictions."""

    @property
    def num_labels(self) -> int:
        """Predictions."""

    @property
    def num_tokens(self) -> int:
        """Tokens, padding not counted."""

    @property
    def num_compared(self) -> int:
        """Places at which predictions are compared with a teacher's."""


_SIZES: Mapping[Unit, Callable[[Counts], float]] = {
    "Weight": lambda counts: counts.loss_weight,
    "Predictions": lambda counts: counts.num_labels,
    "Tokens": lambda counts: counts.num_tokens,
    "Compared": lambda counts: counts.num_compared,
}
"""Of a whole step, what each unit is."""


def term_factors(terms: Sequence[LossTerm], counts: Counts) -> tuple[float, ...]:
    """By what the sum of each term is multiplied: the loss of a step is the sum of these products.

    A step without predictions, or without tokens, has terms of 0, whatever they are divided by.
    """
    return tuple(term.weight / (_SIZES[term.unit](counts) or 1.0) for term in terms)


def term_means(
    terms: Sequence[LossTerm], factors: Sequence[float], sums: Sequence[float]
) -> dict[str, float]:
    """The mean of each term over a step, before its weight.

    Args:
        terms: the terms.
        factors: of the step, see `term_factors`.
        sums: of each term over all ranks and micro-batches.
    """
    found = zip(terms, factors, sums, strict=True)
    return {term.name: total * factor / term.weight for term, factor, total in found}
