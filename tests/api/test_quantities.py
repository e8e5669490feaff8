from decimal import Decimal

import pytest

from trainyard_api.quantities import format_bytes, parse_quantity


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("0", 0), ("1", 1), (2, 2), (0.5, "0.5"), ("500m", "0.5"), ("1.5", "1.5"), (".5", "0.5"), ("5.", 5),
        ("+1", 1), ("100n", "1e-7"), ("3u", "3e-6"), ("1k", 1000), ("2M", 2_000_000), ("1G", 10**9),
        ("1T", 10**12), ("1P", 10**15), ("1E", 10**18), ("1Ki", 1024), ("1.5Gi", 1610612736),
        ("2Mi", 2 * 2**20), ("1Ti", 2**40), ("1Pi", 2**50), ("1Ei", 2**60), ("1e3", 1000), ("1E3", 1000),
        ("1e-3", "0.001"), ("12e+2", 1200),
    ],
)  # fmt: skip
def test_a_quantity_is_read_exactly(text, amount):
    assert parse_quantity(text) == Decimal(amount)


@pytest.mark.parametrize(
    "value",
    [
        "", "-1", "-500m", "four", "1 Gi", "8GiB", "1gi", "1K", "1m5", "0x10", "1e", "1e999", "1,5", "\u0661",
        "1\n", "NaN", "inf", ".", "9" * 40, True, False, None, [], {}, float("nan"), float("inf"), -1,
    ],
)  # fmt: skip
def test_what_is_no_quantity_or_negative_gives_none(value):
    assert parse_quantity(value) is None


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        (0, "0"),
        (1000, "1000"),
        (1024, "1Ki"),
        (1536 * 2**20, "1536Mi"),
        (2**31, "2Gi"),
        (2**31 + 1, "2147483649"),
    ],
)
def test_bytes_are_written_in_the_largest_unit_that_keeps_them_exact(amount, text):
    assert format_bytes(amount) == text
    assert parse_quantity(text) == amount
