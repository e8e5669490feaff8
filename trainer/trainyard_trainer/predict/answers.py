"""Predictions of instruction tuning: the text that the model answers with."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jinja2 import TemplateError
from pydantic import JsonValue

from trainyard_api.errors import DataError
from trainyard_trainer.data.labelled.chat import refuse_special_tokens
from trainyard_trainer.predict.exported import ExportedModel
from trainyard_trainer.predict.fields import messages_of, reading
from trainyard_trainer.predict.predictor import Encoded, Part
from trainyard_trainer.predict.records import InputRecord
from trainyard_trainer.predict.rows import padded


@dataclass(frozen=True)
class AnswerPredictor:
    """Continues conversations with the likeliest token each time, so that equal input gets equal answers.

    Attributes:
        exported: the model.
        maximum_new_tokens: longest answer.
    """

    exported: ExportedModel
    maximum_new_tokens: int

    def encode(self, record: InputRecord) -> Encoded:
        """The conversation by the chat template, up to where the assistant speaks.

        Raises:
            DataError: it leaves no room for an answer, or a message spells a special token.
        """
        source = self.exported.source
        messages = messages_of(record, source.messages_field, source.text_field)
        token_ids = self.exported.encoder.encode(self._text(record, messages), add_special_tokens=False).ids
        maximum = self.exported.model.config.max_position_embeddings
        if len(token_ids) + self.maximum_new_tokens > maximum:
            raise DataError(
                record.place,
                f"its {len(token_ids)} tokens and an answer of {self.maximum_new_tokens} exceed "
                f"the {maximum} that the model takes",
                "Shorten the conversation, or lower --maximum-new-tokens",
            )
        return Encoded([Part(token_ids, [0] * len(token_ids))])

    def _text(self, record: InputRecord, messages: Sequence[dict[str, str]]) -> str:
        """The conversation by the chat template of the spec, or the tokenizer's own."""
        fine_tuning = self.exported.spec.fine_tuning
        template = fine_tuning.chat_template if fine_tuning is not None else ""
        read = [{**message, "content": self.exported.normalized(message["content"])} for message in messages]
        with reading(record):
            refuse_special_tokens(read, self.exported.encoder)
        try:
            text: str = self.exported.tokenizer.apply_chat_template(
                read, chat_template=template or None, add_generation_prompt=True, tokenize=False
            )
        except (TemplateError, TypeError, ValueError) as error:
            problem = f"the chat template does not take its messages: {error}"
            raise DataError(record.place, problem, "Write them as the training data's") from error
        return text

    def forward(self, parts: Sequence[Part]) -> list[str]:
        """The answer to each row."""
        tokenizer = self.exported.tokenizer
        end = tokenizer.eos_token_id
        pad_token_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else end
        rows = padded(parts, pad_token_id or 0, side="left")
        with torch.no_grad():
            generated = self.exported.model.generate(  # type: ignore[operator]
                input_ids=rows["input_ids"].to(self.exported.device),
                attention_mask=rows["attention_mask"].to(self.exported.device),
                do_sample=False,
                max_new_tokens=self.maximum_new_tokens,
                pad_token_id=pad_token_id or 0,
            )
        answers = generated[:, rows["input_ids"].shape[1] :]
        texts: list[str] = tokenizer.batch_decode(answers, skip_special_tokens=True)
        return texts

    def describe(self, encoded: Encoded, outcomes: Sequence[str]) -> dict[str, JsonValue]:
        """The text."""
        del encoded
        return {"text": outcomes[0].strip()}
