import time
import unicodedata

import numpy as np
import pytest

from trainyard_trainer.data.normalize import document_hash, normalize
from trainyard_trainer.data.split import copies_per_epoch, is_validation


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", "plain"),
        ("  around\n\n", "around"),
        ("a\r\nb\rc", "a\nb\nc"),
        ("a\u2028b\x0bc\x85d", "a\nb\nc\nd"),
        ("a\xa0b\u3000c\u2009d", "a b c d"),
        ("nul\x00 bell\x07 del\x7f escape\x1b", "nul bell del escape"),
        ("\ufeffbyte order mark", "byte order mark"),
        ("tab\tstays,  spaces   too", "tab\tstays,  spaces   too"),
        ("e\u0301", "\xe9"),
        ("\u1112\u1161\u11ab", "\ud55c"),
        ("", ""),
        (" \t\n", ""),
        ("\x00\x01", ""),
        ("emoji \U0001f469\u200d\U0001f52c stays", "emoji \U0001f469\u200d\U0001f52c stays"),
    ],
)
def test_text_is_normalised(text, expected):
    assert normalize(text) == expected


def test_normalising_twice_changes_nothing():
    generator = np.random.default_rng(0)
    code_points = [point for point in range(0x3100) if not 0xD800 <= point < 0xE000]
    for _ in range(300):
        text = "".join(map(chr, generator.choice(code_points, 40)))
        once = normalize(text)
        assert normalize(once) == once
        assert unicodedata.is_normalized("NFC", once)


def test_a_hostile_run_of_combining_characters_does_not_take_quadratic_time():
    started = time.monotonic()
    text = normalize("a" + "\u0301\u0316" * 200_000)
    assert time.monotonic() - started < 5
    assert len(text) <= 65


def test_hashes_have_128_bits_and_tell_texts_apart():
    hashes = {document_hash(f"document {number}") for number in range(1000)}
    assert len(hashes) == 1000
    assert {len(digest) for digest in hashes} == {16}


def some_hashes(count):
    return np.random.default_rng(5).integers(0, 2**64, (count, 2), dtype=np.uint64, endpoint=False)


def test_a_larger_validation_fraction_keeps_what_a_smaller_one_holds_out():
    hashes = some_hashes(20_000)
    small, large = is_validation(hashes, 0.02), is_validation(hashes, 0.1)
    assert abs(small.mean() - 0.02) < 0.005
    assert abs(large.mean() - 0.1) < 0.01
    assert (large | ~small).all()


@pytest.mark.parametrize("weight", [0.25, 1.0, 1.5, 3.0, 7.9])
def test_documents_occur_as_often_as_their_weight_says(weight):
    copies = copies_per_epoch(some_hashes(20_000), weight)
    assert abs(copies.mean() - weight) < 0.02
    assert set(copies.tolist()) <= {int(weight), int(weight) + 1}
