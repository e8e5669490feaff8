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
        part: the row that they make.
        first_tokens: place of the first token of each word.
    """

    part: Part
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
        return Encoded([window.part for window in windows], details=(words, windows))

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

    A word that alone is longer than a window is cut, as in training; its tag comes from its first token.

    Raises:
        DataError: the tokenizer makes nothing of a word.
    """
    maximum = exported.spec.data.sequence_length
    start = 0
    while start < len(words):
        texts = [exported.normalized(word) for word in words[start : start + maximum]]
        encoding = exported.encoder.encode(texts, is_pretokenized=True)
        first_tokens: dict[int, int] = {}
        for token, number in enumerate(encoding.word_ids):
            if number is not None:
                first_tokens.setdefault(number, token)
        num_words = len(first_tokens)
        is_cut = num_words > 0 and bool(encoding.overflowing)
        if sorted(first_tokens) != list(range(num_words)) or (num_words < len(texts) and not is_cut):
            missing = next(number for number in range(len(texts)) if number not in first_tokens)
            problem = f"the tokenizer makes nothing of the word {words[start + missing]!r}"
            raise DataError(place, problem, "Remove the word")
        yield Window(Part(encoding.ids, encoding.type_ids), list(first_tokens.values()))
        start += num_words
