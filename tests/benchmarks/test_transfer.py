"""The pure parts of the transfer benchmark."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from transfer_arms import macro_f1, rate_after_warm_up
from transfer_data import Email, divide, draw, subject_and_body

EMAILS = [Email(f"text {number}", "spam" if number % 3 == 0 else "ham") for number in range(100)]


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("From a@b Thu Aug 22\nReceived: x\nSubject: Hello\n\nBody\n", "Hello\nBody"),
        ("Received: x\nSubject: two\n lines\n\nBody\n\nmore", "two lines\nBody\n\nmore"),
        ("Received: x\n\nBody", "\nBody"),
        ("Subject: Hello\r\nX: y\r\n\r\nBody", "Hello\nBody"),
        ("Subject: nothing else", "nothing else\n"),
    ],
)
def test_only_the_subject_and_the_body_of_an_email_are_read(message, expected):
    assert subject_and_body(message) == expected


def test_no_text_is_in_both_parts_and_each_is_there_once():
    parts = divide([*EMAILS, *EMAILS[:40]], 30)
    test, pool = ({email.text for email in part} for part in (parts.test, parts.pool))
    assert len(parts.test) == 30
    assert len(parts.pool) == 70
    assert not test & pool
    assert test | pool == {email.text for email in EMAILS}


def test_the_division_does_not_depend_on_the_order_of_the_corpus():
    assert divide(EMAILS[::-1], 30) == divide(EMAILS, 30)


def test_a_smaller_draw_is_the_beginning_of_a_larger_one_and_seeds_differ():
    assert draw(EMAILS, 10, seed=1) == draw(EMAILS, 50, seed=1)[:10]
    assert draw(EMAILS, 10, seed=1) != draw(EMAILS, 10, seed=2)


def test_more_labels_than_emails_are_refused():
    with pytest.raises(ValueError, match="101 labels are wanted, and the pool has 100"):
        draw(EMAILS, 101, seed=1)


@pytest.mark.parametrize(
    ("actual", "predicted", "expected"),
    [
        ([0, 1, 0, 1], [0, 1, 0, 1], 1.0),
        ([0, 0, 0, 1], [0, 0, 0, 0], 3 / 7),
        ([0, 0, 1, 1], [0, 1, 1, 1], (2 / 3 + 4 / 5) / 2),
    ],
)
def test_macro_f1_counts_classes_equally(actual, predicted, expected):
    assert macro_f1(actual, predicted) == pytest.approx(expected)


def test_the_rate_leaves_the_warm_up_out():
    ends = [10.0, 11.0, 12.0, 13.0, 14.0, 15.0, 18.0]
    assert rate_after_warm_up([1000] * 5 + [100, 300], ends) == pytest.approx(100)
