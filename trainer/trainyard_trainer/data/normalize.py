"""Normalisation of text, and the hash that decides whether two documents are the same; both pure."""

import hashlib
import re
import unicodedata
from collections.abc import Iterator

NORMALIZATION = "NFC, LF, plain spaces, no control characters, trimmed, version 1"
"""What `normalize` does; part of every key, so that a change prepares anew."""

LONGEST_COMBINING_RUN = 64
"""Combining characters in a row that are kept; canonical ordering takes quadratic time in their number."""

HASH_BYTES = 16

_LINE_SEPARATORS = "\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"
_SPACES = "\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000"
_KEPT_CONTROLS = "\t\n"
_CONTROLS = "".join(map(chr, [*range(0x20), *range(0x7F, 0xA0), 0xFEFF]))
_TABLE = (
    dict.fromkeys(map(ord, _CONTROLS))
    | dict.fromkeys(map(ord, _LINE_SEPARATORS), "\n")
    | dict.fromkeys(map(ord, _SPACES), " ")
    | {ord(kept): kept for kept in _KEPT_CONTROLS}
)
_UNPLAIN = re.compile("[" + "".join(map(chr, sorted(set(_TABLE) - set(map(ord, _KEPT_CONTROLS))))) + "]")
_LONG_NON_ASCII = re.compile(rf"[^\x00-\x7f]{{{LONGEST_COMBINING_RUN},}}")


def normalize(text: str) -> str:
    """Unicode NFC, line ends as LF, spaces as U+0020, no control characters but tab, no white space around.

    Runs of spaces and tabs inside stay, because they carry meaning in code and tables.
    """
    text = unify_line_ends(text)
    if _UNPLAIN.search(text):
        text = text.translate(_TABLE)
    if not text.isascii():
        if _LONG_NON_ASCII.search(text):
            text = _LONG_NON_ASCII.sub(_cut_combining_runs, text)
        text = unicodedata.normalize("NFC", text)
    return text.strip()


def unify_line_ends(text: str) -> str:
    """CR LF and CR as LF."""
    if "\r" not in text:
        return text
    return text.replace("\r\n", "\n").replace("\r", "\n")


def document_hash(normalized_text: str) -> bytes:
    """128 bits that are equal for equal normalised text (BLAKE2b)."""
    return hashlib.blake2b(normalized_text.encode(), digest_size=HASH_BYTES).digest()


def _cut_combining_runs(match: re.Match[str]) -> str:
    return "".join(_without_excess(match.group()))


def _without_excess(text: str) -> Iterator[str]:
    run = 0
    for character in text:
        run = run + 1 if unicodedata.combining(character) else 0
        if run <= LONGEST_COMBINING_RUN:
            yield character
