"""Masks: the right number, whole words, 80/10/10, and the same whenever and wherever they are computed."""

import numpy as np
import pytest

from trainyard_trainer.methods.masking import (
    SPECIAL,
    WORD_START,
    choose_tokens,
    choose_whole_words,
    mask_generator,
    replace_tokens,
)


def row_of_words(word_lengths: list[int]) -> np.ndarray:
    """Flags of [CLS] word word ... [SEP]."""
    words = [np.array([WORD_START] + [0] * (length - 1), dtype=np.uint8) for length in word_lengths]
    special = np.array([SPECIAL], dtype=np.uint8)
    return np.concatenate([special, *words, special])


def words_of(flags: np.ndarray) -> np.ndarray:
    return np.cumsum((flags & WORD_START) != 0)


def reference_choice(flags: np.ndarray, probability: float, generator: np.random.Generator) -> set[int]:
    """The rule as one plain loop: words in random order, each taken when it still fits."""
    words = words_of(flags)
    maskable = np.flatnonzero((flags & SPECIAL) == 0)
    budget = min(len(maskable), max(1, round(len(maskable) * probability)))
    chosen: set[int] = set()
    for word in generator.permutation(len(np.unique(words[maskable]))) + 1:
        places = {int(place) for place in maskable if words[place] == word}
        if len(chosen) + len(places) <= budget:
            chosen |= places
    return chosen


@pytest.mark.parametrize("seed", range(50))
def test_whole_words_are_chosen_as_the_plain_loop_over_all_words_would(seed: int) -> None:
    generator = np.random.default_rng(seed)
    flags = row_of_words(generator.integers(1, 6, size=generator.integers(1, 80)).tolist())
    probability = float(generator.uniform(0.05, 0.6))
    fast = choose_whole_words(flags, probability, mask_generator(seed, "train", 0, 0))
    assert set(fast.tolist()) == reference_choice(flags, probability, mask_generator(seed, "train", 0, 0))


def test_a_word_is_chosen_whole_or_not_at_all() -> None:
    flags = row_of_words([1, 3, 2, 5, 1, 1, 2, 4] * 20)
    chosen = np.zeros(len(flags), dtype=bool)
    chosen[choose_whole_words(flags, 0.3, mask_generator(1, "train", 0, 5))] = True
    words = words_of(flags)
    inside = (flags & SPECIAL) == 0
    for word in np.unique(words[inside]):
        assert len(set(chosen[inside & (words == word)])) == 1


def test_special_tokens_are_never_chosen() -> None:
    flags = row_of_words([1] * 40)
    for row in range(200):
        generator = mask_generator(0, "train", 0, row)
        chosen = choose_whole_words(flags, 0.9, generator)
        assert 0 not in chosen
        assert len(flags) - 1 not in chosen


def test_words_on_both_sides_of_a_special_token_are_different_words() -> None:
    flags = np.array([SPECIAL, WORD_START, SPECIAL, SPECIAL, 0, WORD_START, SPECIAL], dtype=np.uint8)
    for row in range(50):
        chosen = choose_whole_words(flags, 0.34, mask_generator(0, "train", 0, row))
        assert len(chosen) == 1


@pytest.mark.parametrize("probability", [0.15, 0.3, 0.4])
def test_the_fraction_of_chosen_tokens_is_the_probability(probability: float) -> None:
    flags = row_of_words([1, 1, 2, 1, 3, 1, 1, 2] * 30)
    num_maskable = int(((flags & SPECIAL) == 0).sum())
    fractions = [
        len(choose_whole_words(flags, probability, mask_generator(7, "train", 0, row))) / num_maskable
        for row in range(100)
    ]
    assert np.mean(fractions) == pytest.approx(probability, abs=0.005)


def test_single_tokens_are_chosen_in_the_exact_number() -> None:
    maskable = np.ones(200, dtype=bool)
    maskable[::10] = False
    chosen = choose_tokens(maskable, 0.15, mask_generator(0, "train", 0, 0))
    assert len(chosen) == 27
    assert maskable[chosen].all()
    assert (np.diff(chosen) > 0).all()


def test_chosen_tokens_become_mask_random_or_stay_in_the_proportion_80_10_10() -> None:
    token_ids = np.full(200_000, 7, dtype=np.int32)
    vocabulary = np.arange(100, 1100, dtype=np.int32)
    generator = mask_generator(0, "train", 0, 0)
    row = replace_tokens(
        token_ids, np.arange(200_000), mask_token_id=4, random_token_ids=vocabulary, generator=generator
    )
    shares = [
        float(np.mean(row.token_ids == 4)),
        float(np.mean(row.token_ids >= 100)),
        float(np.mean(row.token_ids == 7)),
    ]
    assert shares == pytest.approx([0.8, 0.1, 0.1], abs=0.005)
    assert set(np.unique(row.token_ids[row.token_ids >= 100])) == set(vocabulary.tolist())


def test_labels_are_the_tokens_that_stood_there_and_other_places_stay() -> None:
    token_ids = np.arange(10, 60, dtype=np.int32)
    places = np.array([3, 4, 30])
    row = replace_tokens(
        token_ids,
        places,
        mask_token_id=4,
        random_token_ids=np.array([5], dtype=np.int32),
        generator=mask_generator(0, "train", 0, 0),
    )
    assert row.labels.tolist() == [13, 14, 40]
    untouched = np.delete(np.arange(50), places)
    assert (row.token_ids[untouched] == token_ids[untouched]).all()


def test_a_mask_is_a_function_of_seed_stream_epoch_and_row() -> None:
    def draw(seed: int, stream: str, epoch: int, row: int) -> tuple[int, ...]:
        return tuple(mask_generator(seed, stream, epoch, row).integers(1 << 30, size=4))  # type: ignore[arg-type]

    assert draw(1, "train", 2, 3) == draw(1, "train", 2, 3)
    others = [
        draw(*key)
        for key in [(0, "train", 2, 3), (1, "evaluation", 2, 3), (1, "train", 3, 3), (1, "train", 2, 4)]
    ]
    assert draw(1, "train", 2, 3) not in others
    assert len(set(others)) == 4


@pytest.mark.parametrize("words", [[], [1], [7]])
def test_rows_too_short_for_the_probability_still_work(words: list[int]) -> None:
    flags = row_of_words(words)
    chosen = choose_whole_words(flags, 0.15, mask_generator(0, "train", 0, 0))
    assert len(chosen) == (1 if words == [1] else 0)
