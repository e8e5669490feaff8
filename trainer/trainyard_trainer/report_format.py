"""Numbers as people read them."""

import math


def format_count(number: float) -> str:
    """A count with at most four digits and a unit: 950, 12.4 k, 3.07 M, 1.04 B."""
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e4)):
        if abs(number) >= size:
            return f"{number / min(size, 1e3 if unit == 'k' else size):.3g} {unit}"
    return f"{number:,.0f}"


def format_seconds(seconds: float) -> str:
    """A duration in its two largest units: 4.2 s, 3 min 05 s, 2 h 10 min, 3 d 04 h."""
    if seconds < 10:
        return f"{seconds:.2g} s" if seconds else "0 s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86_400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86_400} d {whole % 86_400 // 3600:02d} h"


def format_bytes(num_bytes: float) -> str:
    """A size in binary units: 512 B, 3.4 MiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if num_bytes < 1024:
            return f"{num_bytes:.3g} {unit}"
        num_bytes /= 1024
    return f"{num_bytes:.3g} TiB"


def format_number(number: float) -> str:
    """A measured value with four significant digits; powers of ten only where they are shorter."""
    if number == 0 or not math.isfinite(number):
        return f"{number:g}"
    if 1e-3 <= abs(number) < 1e5:
        return f"{number:,.4g}" if abs(number) < 1e4 else f"{number:,.0f}"
    mantissa, exponent = f"{number:.2e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
