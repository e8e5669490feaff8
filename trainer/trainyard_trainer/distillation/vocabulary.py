"""Whether a teacher and its student mean the same by a token; if not, comparing by token is noise."""

from collections.abc import Mapping

from tokenizers import Tokenizer

from trainyard_api.errors import ConfigurationError
from trainyard_trainer.data.existing_tokenizer import vocabulary_hash

_TEACHER = "spec.distillation.teacher"
_REMEDY = (
    "Leave out spec.tokenizer to use the teacher's, or set distillation.tokenizerMismatch to Align with "
    "losses.sortedLogits"
)

PROBES = (
    "The quick brown fox jumps over the lazy dog.",
    "It's 3,141.59 or -2e-7; isn't it? (No!)",
    "  leading, double  and trailing space ",
    "MiXeD Case, ALL CAPS, underscore_names and hyphen-ated words",
    "na\u00efve caf\u00e9 \u2014 \u201cquoted\u201d \u20ac5",
    "\u65e5\u672c\u8a9e \u0440\u0443\u0441\u0441\u043a\u0438\u0439 \u0639\u0631\u0628\u064a \U0001f642",
    "line one\nline two\tand a tab",
)
"""Texts on which tokenizers with one vocabulary but other rules differ."""


def common_vocabulary(teacher: Tokenizer, student: Tokenizer, *, teacher_rows: int, student_rows: int) -> int:
    """The number of tokens that both models predict; columns behind them are padding, and are to be cut.

    The vocabularies have to be equal, but for entries of the teacher behind all of the student's, which no
    text of the student's has; and both have to cut and read back the same texts alike.

    Args:
        teacher: the teacher's tokenizer.
        student: the student's.
        teacher_rows: rows of the teacher's embedding, padding included.
        student_rows: rows of the student's.

    Raises:
        ConfigurationError: they differ, or a model has fewer rows than tokens.
    """
    entries = student.get_vocab(with_added_tokens=True)
    if vocabulary_hash(teacher) != vocabulary_hash(student):
        _check_entries(teacher.get_vocab(with_added_tokens=True), entries)
    for probe in PROBES:
        _check_probe(teacher, student, probe)
    size = max(entries.values()) + 1
    for field, rows in ((_TEACHER, teacher_rows), ("spec.model", student_rows)):
        if rows < size:
            raise ConfigurationError(
                field,
                f"it has {rows} rows for a vocabulary of {size} tokens",
                "Use a model of this tokenizer",
            )
    return size


def _check_entries(teacher: Mapping[str, int], student: Mapping[str, int]) -> None:
    """Refuse vocabularies in which a token of the student is another one of the teacher, or none."""
    for token, number in sorted(student.items(), key=lambda entry: entry[1]):
        if teacher.get(token) != number:
            known = f"number {teacher[token]}" if token in teacher else "unknown"
            raise ConfigurationError(
                _TEACHER, f"token {number} of the student, {token!r}, is {known} to the teacher", _REMEDY
            )
    size = max(student.values()) + 1
    between = sorted(token for token, number in teacher.items() if token not in student and number < size)
    if between:
        raise ConfigurationError(
            _TEACHER, f"its token {between[0]!r} stands among those of the student, which lacks it", _REMEDY
        )


def _check_probe(teacher: Tokenizer, student: Tokenizer, text: str) -> None:
    """Refuse tokenizers that cut one text into other tokens, or read the same tokens as other texts."""
    ids = [tokenizer.encode(text, add_special_tokens=False).ids for tokenizer in (teacher, student)]
    if ids[0] != ids[1]:
        raise ConfigurationError(
            _TEACHER,
            f"it cuts {text!r} into tokens {ids[0]} and the student into {ids[1]}",
            _REMEDY,
        )
    texts = [tokenizer.decode(ids[0]) for tokenizer in (teacher, student)]
    if texts[0] != texts[1]:
        raise ConfigurationError(
            _TEACHER, f"it reads as {texts[0]!r} what the student reads as {texts[1]!r}", _REMEDY
        )
