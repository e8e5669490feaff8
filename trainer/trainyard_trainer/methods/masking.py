"""Which tokens a masked language model has to predict, and what it sees in their place.

The rule is BERT's (Devlin et al. 2019, section 3.1): of the chosen tokens 80 % become the mask token, 10 % a
random token and 10 % stay. Special tokens are never chosen and never drawn. Masks are a pure function of the
generator that is passed in, and `mask_generator` makes that a pure function of (seed, stream, epoch, row):
equal on any world size and after any resume.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from trainyard_trainer.data.frequencies import MASKED_FRACTION, RANDOM_FRACTION

WORD_START = 0b01
SPECIAL = 0b10


@dataclass(frozen=True, slots=True)
class MaskedRow:
    """One row as the model sees it, and what it has to predict.

    Attributes:
        token_ids: int32 [n], with mask and random tokens in place.
        positions: int32 [m], ascending, the places to predict.
        labels: int32 [m], the tokens that stood there.
    """

    token_ids: NDArray[np.int32]
    positions: NDArray[np.int32]
    labels: NDArray[np.int32]


def mask_generator(
    seed: int, stream: Literal["train", "evaluation"], epoch: int, row: int
) -> np.random.Generator:
    """A generator for one row of one epoch; Philox is counter-based, so this costs microseconds."""
    stream_number = 0 if stream == "train" else 1
    key = np.array([seed, (stream_number << 48) | epoch], dtype=np.uint64)
    counter = np.array([0, 0, 0, row], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


def choose_tokens(
    maskable: NDArray[np.bool_], probability: float, generator: np.random.Generator
) -> NDArray[np.intp]:
    """Choose round(probability x maskable) single tokens, at least one where there is any.

    Args:
        maskable: bool [n], false at special tokens.
        probability: fraction of the maskable tokens.
        generator: source of randomness.

    Returns:
        The chosen places, ascending.
    """
    places = np.flatnonzero(maskable)
    return np.sort(generator.permutation(places)[: _num_to_predict(len(places), probability)])


def choose_whole_words(
    flags: NDArray[np.uint8], probability: float, generator: np.random.Generator
) -> NDArray[np.intp]:
    """Choose words in random order up to round(probability x maskable) tokens, skipping those that overshoot.

    Args:
        flags: uint8 [n]; bit 0 marks the first token of a word, bit 1 a special token.
        probability: fraction of the maskable tokens.
        generator: source of randomness.

    Returns:
        The chosen places, ascending: always all tokens of a word or none.
    """
    places = np.flatnonzero((flags & SPECIAL) == 0)
    if not len(places):
        return places
    starts_word = (flags[places] & WORD_START) != 0
    starts_word |= np.diff(places, prepend=-2) > 1
    word_of_place = np.cumsum(starts_word) - 1
    word_lengths = np.bincount(word_of_place)
    chosen = _fill_budget(
        word_lengths, _num_to_predict(len(places), probability), generator.permutation(len(word_lengths))
    )
    chosen_places: NDArray[np.intp] = places[chosen[word_of_place]]
    return chosen_places


def _num_to_predict(num_maskable: int, probability: float) -> int:
    return min(num_maskable, max(1, round(num_maskable * probability)))


def _fill_budget(lengths: NDArray[np.intp], budget: int, order: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Take items in the given order while they fit, passing over those that do not; bool per item.

    Equals the plain loop over all items, but looks at few: a prefix of the order by its running sum, then
    only items no longer than the gap that is left.
    """
    ordered_lengths = lengths[order]
    num_taken = int(np.searchsorted(np.cumsum(ordered_lengths), budget, side="right"))
    chosen = np.zeros(len(lengths), dtype=np.bool_)
    chosen[order[:num_taken]] = True
    gap = budget - int(ordered_lengths[:num_taken].sum())
    position = num_taken
    while gap > 0:
        fitting = np.flatnonzero(ordered_lengths[position:] <= gap)
        if not len(fitting):
            break
        position += int(fitting[0])
        chosen[order[position]] = True
        gap -= int(ordered_lengths[position])
        position += 1
    return chosen


def replace_tokens(
    token_ids: NDArray[np.int32],
    places: NDArray[np.intp],
    *,
    mask_token_id: int,
    random_token_ids: NDArray[np.int32],
    generator: np.random.Generator,
) -> MaskedRow:
    """Put mask, random or the same tokens at the chosen places, 80/10/10, each place by itself.

    Args:
        token_ids: int32 [n], the row.
        places: the chosen places, ascending.
        mask_token_id: what 80 % become.
        random_token_ids: int32 [v], the vocabulary without special tokens, from which 10 % are drawn.
        generator: source of randomness.
    """
    decision = generator.random(len(places))
    random_ids = random_token_ids[generator.integers(len(random_token_ids), size=len(places))]
    labels = token_ids[places]
    replacement = np.where(
        decision < MASKED_FRACTION,
        np.int32(mask_token_id),
        np.where(decision < MASKED_FRACTION + RANDOM_FRACTION, random_ids, labels),
    )
    masked = token_ids.copy()
    masked[places] = replacement
    return MaskedRow(token_ids=masked, positions=places.astype(np.int32), labels=labels.astype(np.int32))
