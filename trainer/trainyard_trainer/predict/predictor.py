"""From records to predictions, in batches of similar length and in the order of the input."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

from pydantic import JsonValue

from trainyard_trainer.predict.records import InputRecord

CHUNK_BATCHES = 16
"""Batches that are read ahead and ordered by length, which bounds memory."""


@dataclass(frozen=True)
class Part:
    """What goes through the model as one row.

    Attributes:
        token_ids: special tokens included.
        token_type_ids: 1 in the second text of a pair, else 0.
    """

    token_ids: list[int]
    token_type_ids: list[int]


@dataclass(frozen=True)
class Encoded:
    """A record as rows for the model.

    Attributes:
        parts: its rows; several where it is longer than one may be.
        details: what the predictor needs to describe the outcome.
        is_truncated: whether something of it had no place.
    """

    parts: list[Part]
    details: Any = None
    is_truncated: bool = False


class Predictor(Protocol):
    """Predicts for one kind of task."""

    def encode(self, record: InputRecord) -> Encoded:
        """A record as rows.

        Raises:
            DataError: a field is missing or of the wrong kind.
        """

    def forward(self, parts: Sequence[Part]) -> list[Any]:
        """What the model says of some rows, one outcome for each."""

    def describe(self, encoded: Encoded, outcomes: Sequence[Any]) -> dict[str, JsonValue]:
        """The prediction for a record, from the outcomes of its rows."""


def predictions(
    predictor: Predictor, records: Iterable[InputRecord], batch_size: int
) -> Iterator[dict[str, JsonValue]]:
    """The prediction for each record, in the order of the records.

    Args:
        predictor: of the model's task.
        records: the input.
        batch_size: rows per forward pass.
    """
    remaining = iter(records)
    while chunk := [predictor.encode(record) for record in islice(remaining, CHUNK_BATCHES * batch_size)]:
        parts = [part for encoded in chunk for part in encoded.parts]
        by_length = sorted(range(len(parts)), key=lambda number: len(parts[number].token_ids))
        outcomes: list[Any] = [None] * len(parts)
        for start in range(0, len(parts), batch_size):
            chosen = by_length[start : start + batch_size]
            for number, outcome in zip(
                chosen, predictor.forward([parts[number] for number in chosen]), strict=True
            ):
                outcomes[number] = outcome
        ordered = iter(outcomes)
        for encoded in chunk:
            prediction = predictor.describe(encoded, list(islice(ordered, len(encoded.parts))))
            yield {**prediction, "truncated": True} if encoded.is_truncated else prediction
