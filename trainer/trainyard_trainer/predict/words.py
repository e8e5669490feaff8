"""Predictions of token classification: a tag for each word, however long the text."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from pydantic import JsonValue

from trainyard_api.errors import DataError
from trainyard_trainer.predict.exported import ExportedModel, logits_of
from trainyard_trainer.predict.fields import words_of
from trainyard_trainer.predict.predictor import Encoded, Part
from trainyard_trainer.predict.records import InputRecord
from trainyard_trainer.predict.sequences import SCORE_DIGITS


@dataclass(frozen=True)
class Window:
    """Words that go through the model together.

    Attributes:
        token_ids: special tokens included.
        first_tokens: place of the first token of each word.
    """

    token_ids: list[int]
    first_tokens: list[int]


@dataclass(frozen=True)
class WordPredictor:
    """Predicts a tag for each word from its first token, as in training.

    Attributes:
        exported: the model.
    """

    exported: ExportedModel

    def encode(self, record: InputRecord) -> Encoded:
        """The words in windows of the length that the model was trained for."""
        words = words_of(record, self.exported.source.words_field)
        windows = list(windows_of(self.exported, words, record.place))
        parts = [Part(window.token_ids, [0] * len(window.token_ids)) for window in windows]
        return Encoded(parts, details=(words, windows))

    def forward(self, parts: Sequence[Part]) -> list[torch.Tensor]:
        """The logits of each row, float32 [length, k]."""
        return list(logits_of(self.exported, parts))

    def describe(self, encoded: Encoded, outcomes: Sequence[torch.Tensor]) -> dict[str, JsonValue]:
        """Words, their tags and the probabilities of these."""
        words, windows = encoded.details
        names = self.exported.names
        tags: list[JsonValue] = []
        scores: list[JsonValue] = []
        for window, logits in zip(windows, outcomes, strict=True):
            best = logits[window.first_tokens].softmax(-1).max(-1)
            tags += [names[number] for number in best.indices.tolist()]
            scores += [round(score, SCORE_DIGITS) for score in best.values.tolist()]
        return {"words": list(words), "tags": tags, "scores": scores}


def windows_of(exported: ExportedModel, words: Sequence[str], place: str) -> Iterator[Window]:
    """Divide words into windows that the model takes, each as full as whole words allow.

    Raises:
        DataError: the tokenizer makes nothing of a word.
    """
    tokenizer = exported.tokenizer
    maximum = exported.spec.data.sequence_length - tokenizer.num_special_tokens_to_add()
    start = 0
    while start < len(words):
        row = tokenizer(
            list(words[start : start + maximum]),
            is_split_into_words=True,
            truncation=True,
            max_length=exported.spec.data.sequence_length,
        )
        numbers = row.word_ids()
        first_tokens: list[int] = []
        for token, number in enumerate(numbers):
            if number is not None and number == len(first_tokens):
                first_tokens.append(token)
            elif number is not None and number > len(first_tokens):
                word = words[start + len(first_tokens)]
                raise DataError(place, f"the tokenizer makes nothing of the word {word!r}", "Remove the word")
        if not first_tokens:
            raise DataError(place, f"the tokenizer makes nothing of the word {words[start]!r}", "Remove it")
        yield Window(row["input_ids"], first_tokens)
        start += len(first_tokens)
