"""Token ids and labels of one record: pure functions of a tokenizer and the record's values."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

from trainyard_api.spec import Source
from trainyard_api.spec_objectives import FineTuning
from trainyard_trainer.data.labelled.chat import ChatTemplate, refuse_special_tokens, rendered_spans
from trainyard_trainer.data.labelled.task import LabelKind, label_kind
from trainyard_trainer.data.labelled.values import (
    UnusableError,
    class_name,
    class_names,
    messages_of,
    number_of,
    text_of,
    words_of,
)
from trainyard_trainer.data.normalize import normalize

NOT_PREDICTED = -100
"""Label of a place where nothing is predicted."""


@dataclass(frozen=True, slots=True)
class EncodedExample:
    """One example, before classes have numbers.

    Attributes:
        token_ids: int32 [n], special tokens included.
        token_type_ids: uint8 [n].
        identity: text that equals that of another example when the inputs do.
        num_characters: of the inputs.
        is_truncated: whether tokens were cut off.
        names: names of classes: one, any number, or one for each entry of `places`.
        places: int64 [m], the place of the first token of each labelled word.
        number: the number to predict.
        is_trained: bool [n], the tokens that the assistant wrote.
    """

    token_ids: NDArray[np.int32]
    token_type_ids: NDArray[np.uint8]
    identity: str
    num_characters: int
    is_truncated: bool
    names: tuple[str, ...] = ()
    places: tuple[int, ...] = ()
    number: float = 0.0
    is_trained: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, dtype=np.bool_))


@dataclass(frozen=True)
class ExampleEncoder:
    """Encodes the records of one source.

    Attributes:
        tokenizer: as `prepared_tokenizer` sets it up.
        task: what is learnt.
        source: names of the fields.
        normalize: whether texts are normalised.
        minimum_characters: shorter inputs give no example.
        template: for conversations.
    """

    tokenizer: Tokenizer
    task: FineTuning
    source: Source
    normalize: bool
    minimum_characters: int
    template: ChatTemplate | None

    def encode(self, fields: Mapping[str, Any]) -> EncodedExample | None:
        """The example of a record that has all fields; None where its text is too short.

        Raises:
            UnusableError: a field holds something else than the task needs.
        """
        kind = label_kind(self.task)
        if kind == "TrainedTokens":
            return self._conversation(fields)
        if kind == "WordClasses":
            return self._words(fields)
        return self._texts(fields, kind)

    @property
    def _is_csv(self) -> bool:
        return self.source.format == "CSV"

    def _text(self, value: Any, name: str) -> str:
        text = text_of(value, name)
        return normalize(text) if self.normalize else text

    def _is_short(self, text: str) -> bool:
        return len(text.strip()) < self.minimum_characters

    def _texts(self, fields: Mapping[str, Any], kind: LabelKind) -> EncodedExample | None:
        source = self.source
        names = [name for name in (source.text_field, source.second_text_field) if name]
        texts = [self._text(fields[name], name) for name in names]
        label, classes, number = fields[source.label_field], tuple[str, ...](), 0.0
        if kind == "Class":
            classes = (class_name(label, source.label_field),)
        elif kind == "Classes":
            given = class_names(label, source.label_field, is_csv=self._is_csv)
            classes = tuple(dict.fromkeys(given))
        else:
            number = number_of(label, source.label_field, is_csv=self._is_csv)
        if any(map(self._is_short, texts)):
            return None
        encoding = self.tokenizer.encode(texts[0], texts[1] if len(texts) > 1 else None)
        return EncodedExample(
            token_ids=np.array(encoding.ids, dtype=np.int32),
            token_type_ids=np.array(encoding.type_ids, dtype=np.uint8),
            identity="\x00".join(texts),
            num_characters=sum(map(len, texts)),
            is_truncated=bool(encoding.overflowing),
            names=classes,
            number=number,
        )

    def _words(self, fields: Mapping[str, Any]) -> EncodedExample | None:
        source = self.source
        given = words_of(fields[source.words_field], source.words_field, is_csv=self._is_csv)
        words = [self._text(word, source.words_field) for word in given]
        tags = class_names(fields[source.tags_field], source.tags_field, is_csv=self._is_csv)
        if len(words) != len(tags):
            raise UnusableError(
                f"field {source.words_field!r} holds {len(words)} words, and field {source.tags_field!r} "
                f"{len(tags)} labels"
            )
        if self._is_short(" ".join(words)):
            return None
        encoding = self.tokenizer.encode(words, is_pretokenized=True)
        first_tokens = first_tokens_of_words(encoding)
        num_words = len(first_tokens)
        missing = [word for number, word in enumerate(words[:num_words]) if number not in first_tokens]
        if missing or (num_words < len(words) and not encoding.overflowing):
            raise UnusableError(
                f"the tokenizer makes nothing of the word {(missing or words[num_words:])[0]!r}"
            )
        return EncodedExample(
            token_ids=np.array(encoding.ids, dtype=np.int32),
            token_type_ids=np.array(encoding.type_ids, dtype=np.uint8),
            identity="\x00".join(words),
            num_characters=sum(map(len, words)),
            is_truncated=bool(encoding.overflowing),
            names=tuple(tags[:num_words]),
            places=tuple(first_tokens[number] for number in range(num_words)),
        )

    def _conversation(self, fields: Mapping[str, Any]) -> EncodedExample | None:
        assert self.template is not None  # noqa: S101 - preparation opens one for such tasks
        name = self.source.messages_field
        messages = messages_of(fields[name], name, is_csv=self._is_csv)
        messages = [{**message, "content": self._text(message["content"], name)} for message in messages]
        refuse_special_tokens(messages, self.tokenizer)
        num_characters = sum(len(message["content"]) for message in messages)
        if num_characters < self.minimum_characters:
            return None
        text, spans = rendered_spans(self.template, messages)
        encoding = self.tokenizer.encode(text, add_special_tokens=False)
        is_trained = trained_tokens(encoding, spans)
        if not is_trained.any():
            raise UnusableError("data.sequenceLength cuts off everything that the assistant writes")
        return EncodedExample(
            token_ids=np.array(encoding.ids, dtype=np.int32),
            token_type_ids=np.zeros(len(encoding.ids), dtype=np.uint8),
            identity=text,
            num_characters=num_characters,
            is_truncated=bool(encoding.overflowing),
            is_trained=is_trained,
        )


def prepared_tokenizer(tokenizer: Tokenizer, task: FineTuning, sequence_length: int) -> Tokenizer:
    """A tokenizer that cuts at the sequence length, and takes text that spells a special token as text.

    Only of conversations does it read special tokens, which their template writes.
    """
    tokenizer.enable_truncation(sequence_length, strategy="longest_first")
    tokenizer.encode_special_tokens = task.task != "InstructionTuning"
    return tokenizer


def first_tokens_of_words(encoding: Encoding) -> dict[int, int]:
    """The place of the first token of each word that has one, by the number of the word."""
    first: dict[int, int] = {}
    for place, word in enumerate(encoding.word_ids):
        if word is not None:
            first.setdefault(word, place)
    return first


def trained_tokens(encoding: Encoding, spans: list[tuple[int, int]]) -> NDArray[np.bool_]:
    """Whether each token begins in a span of characters and is not empty, bool [n].

    The first token of a text is never trained, since nothing stands before it.
    """
    trained = np.zeros(len(encoding.ids), dtype=np.bool_)
    for place, (start, end) in enumerate(encoding.offsets):
        trained[place] = place > 0 and end > start and any(low <= start < high for low, high in spans)
    return trained
