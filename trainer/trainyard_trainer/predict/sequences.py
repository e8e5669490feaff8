"""Predictions of sequence classification: a class, any number of classes, or a number."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from pydantic import JsonValue

from trainyard_trainer.predict.exported import ExportedModel, logits_of
from trainyard_trainer.predict.fields import text_of
from trainyard_trainer.predict.predictor import Encoded, Part
from trainyard_trainer.predict.records import InputRecord

SCORED_CLASSES = 20
"""Classes whose scores are told; of more, the likeliest."""

SCORE_DIGITS = 6
THRESHOLD = 0.5
"""Probability from which on a class of several is predicted."""


@dataclass(frozen=True)
class SequencePredictor:
    """Predicts for whole texts, or pairs of them.

    Attributes:
        exported: the model.
        problem: SingleLabel, MultiLabel or Regression.
    """

    exported: ExportedModel
    problem: str

    def encode(self, record: InputRecord) -> Encoded:
        """The text, or both texts, cut to the length that the model was trained for."""
        source = self.exported.source
        fields = [name for name in (source.text_field, source.second_text_field) if name]
        texts = [self.exported.normalized(text_of(record, field)) for field in fields]
        encoding = self.exported.encoder.encode(texts[0], texts[1] if texts[1:] else None)
        return Encoded([Part(encoding.ids, encoding.type_ids)], is_truncated=bool(encoding.overflowing))

    def forward(self, parts: Sequence[Part]) -> list[torch.Tensor]:
        """The logits of each row, float32 [k]."""
        return list(logits_of(self.exported, parts))

    def describe(self, encoded: Encoded, outcomes: Sequence[torch.Tensor]) -> dict[str, JsonValue]:
        """The prediction, with the probability of each class."""
        del encoded
        [logits] = outcomes
        if self.problem == "Regression":
            return {"value": round(float(logits[0]), SCORE_DIGITS)}
        probabilities = logits.sigmoid() if self.problem == "MultiLabel" else logits.softmax(-1)
        scores = dict(zip(self.exported.names, probabilities.tolist(), strict=True))
        likeliest = sorted(scores, key=lambda name: -scores[name])
        told: dict[str, JsonValue] = {
            name: round(scores[name], SCORE_DIGITS) for name in likeliest[:SCORED_CLASSES]
        }
        if self.problem == "MultiLabel":
            chosen: list[JsonValue] = [name for name in scores if scores[name] >= THRESHOLD]
            return {"labels": chosen, "scores": told}
        return {"label": likeliest[0], "score": told[likeliest[0]], "scores": told}
