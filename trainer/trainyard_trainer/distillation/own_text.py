"""Which rows of a run its student writes itself, from what and with which draws, by their numbers alone."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainyard_trainer.data.order import mix_64_array, round_keys

_CHOICE, _DRAWS = 1, 2
"""What a stream of numbers is for, so that no two are the same."""


def written_rows(seed: int, numbers: NDArray[np.int64], fraction: float) -> NDArray[np.bool_]:
    """Which rows the student writes, bool [n].

    Args:
        seed: seed of the run.
        numbers: of the rows in the stream of all rows of all steps, int64 [n].
        fraction: how many of them, 0 to 1.
    """
    chosen: NDArray[np.bool_] = _uniform(seed, _CHOICE, numbers) < fraction
    return chosen


def uniform_draws(seed: int, numbers: NDArray[np.int64], num_places: int) -> NDArray[np.float64]:
    """A number of [0, 1) for each token that each row may write, float64 [n, places].

    Args:
        seed: seed of the run.
        numbers: of the rows in the stream of all rows of all steps, int64 [n].
        num_places: tokens that a row may write.
    """
    key = np.uint64(round_keys(seed, _DRAWS)[0])
    of_row = mix_64_array(mix_64_array(numbers.astype(np.uint64)) ^ key)
    places = mix_64_array(np.arange(1, num_places + 1, dtype=np.uint64))
    return _fractions(mix_64_array(of_row[:, np.newaxis] + places[np.newaxis, :]))


def prompt_of(document: NDArray[np.integer], num_tokens: int, end_token_id: int) -> NDArray[np.int64]:
    """The first tokens of a document, at least one, without the token that ends it.

    Args:
        document: its tokens, at least one.
        num_tokens: how many to take.
        end_token_id: the special token at the end.
    """
    has_end = len(document) > 1 and int(document[-1]) == end_token_id
    return document[: max(1, min(num_tokens, len(document) - has_end))].astype(np.int64)


@dataclass(frozen=True, slots=True)
class OwnText:
    """A row that the student writes.

    Attributes:
        row: its place in the micro-batch.
        prompt: int64 [p], what it goes on from.
        limit: most tokens that it writes.
    """

    row: int
    prompt: NDArray[np.int64]
    limit: int


def finished(tokens: Sequence[int], limit: int, end_token_id: int) -> NDArray[np.int64]:
    """What a row has written: up to the token that ends it, or to its limit."""
    cut = list(tokens[:limit])
    end = cut.index(end_token_id) + 1 if end_token_id in cut else len(cut)
    return np.array(cut[:end], dtype=np.int64)


def _uniform(seed: int, purpose: int, numbers: NDArray[np.int64]) -> NDArray[np.float64]:
    key = np.uint64(round_keys(seed, purpose)[0])
    return _fractions(mix_64_array(mix_64_array(numbers.astype(np.uint64)) ^ key))


def _fractions(values: NDArray[np.uint64]) -> NDArray[np.float64]:
    """64 random bits as a number of [0, 1) with 53."""
    fractions: NDArray[np.float64] = (values >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return fractions
