"""Kubernetes quantities such as 500m, 2Gi or 1e3: read exactly, written back without loss."""

import re
from decimal import Decimal

from pydantic import JsonValue

_BINARY = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "Pi": 2**50, "Ei": 2**60}
_DECIMAL = {
    "n": Decimal("1e-9"),
    "u": Decimal("1e-6"),
    "m": Decimal("1e-3"),
    "": Decimal(1),
    "k": Decimal(10) ** 3,
    "M": Decimal(10) ** 6,
    "G": Decimal(10) ** 9,
    "T": Decimal(10) ** 12,
    "P": Decimal(10) ** 15,
    "E": Decimal(10) ** 18,
}
_FORM = re.compile(
    r"\+?(?P<number>[0-9]{1,20}(?:\.[0-9]{0,20})?|\.[0-9]{1,20})"
    r"(?:(?P<suffix>[KMGTPE]i|[numkMGTPE])|[eE](?P<exponent>[+-]?[0-9]{1,2}))?"
)
QUANTITY_PATTERN = f"^{re.sub(r'[?]P<[a-z]+>|[?]:', '', _FORM.pattern)}$"
"""The same form for schemas, whose dialect of regular expressions knows neither names nor other groups."""


def parse_quantity(value: JsonValue) -> Decimal | None:
    """The amount in base units (cores, bytes, devices); None when it is no quantity, or a negative one.

    The form is that of `k8s.io/apimachinery/pkg/api/resource`; numbers without quotes count, as they do
    there.
    """
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    match = _FORM.fullmatch(str(value))
    if match is None:
        return None
    number = Decimal(match["number"])
    if match["exponent"]:
        return number.scaleb(int(match["exponent"]))
    suffix = match["suffix"] or ""
    return number * (_BINARY[suffix] if suffix in _BINARY else _DECIMAL[suffix])


def format_bytes(amount: int) -> str:
    """Bytes in the largest binary unit that divides them: 2Gi, 1536Mi, 1000."""
    for suffix, size in reversed(_BINARY.items()):
        if amount and amount % size == 0:
            return f"{amount // size}{suffix}"
    return str(amount)
