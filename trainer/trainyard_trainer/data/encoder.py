"""Text to tokens, exactly as the tokenizer does it but several times as fast.

Words repeat, so each distinct chunk of text is encoded once and looked up afterwards. That is exact only
for tokenizers that never join text across the borders of chunks; `chunk_rule` knows those. Text that a rule
cannot promise anything about, and every other tokenizer, goes the plain way. Callers compare samples of
both ways at run time (`differs`).
"""

import itertools
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

MAXIMUM_CACHED_CHUNKS = 1 << 19
MAXIMUM_CACHED_CHARACTERS = 1 << 24
WORD_MARK = "\u2581"

_EXOTIC_SPACE = re.compile("[\x0b\x0c\x1c-\x1f\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]")
"""White space other than space, tab, LF and CR, on which Python and the tokenizers do not always agree."""

_SPACE_AND_WORD = re.compile(r"[ \t\n\r]*[^ \t\n\r]+|[ \t\n\r]+")
_ASCII_WORDS_AND_SIGNS = re.compile(r"[^\s!-/:-@\[-`{-~]+|[!-/:-@\[-`{-~]")
"""How BertPreTokenizer divides ASCII text without white space."""

_ASCII_BYTE_LEVEL = re.compile(r"'(?:[stmd]|re|ve|ll)| ?[A-Za-z]+| ?[0-9]+| ?[^\sA-Za-z0-9]+|\s+(?!\S)|\s+")
"""How ByteLevel divides ASCII text: GPT-2's pattern."""

_LOCAL_NORMALIZERS = frozenset({"BertNormalizer", "Lowercase", "StripAccents", "NFC", "NFD", "NFKC", "NFKD"})


@dataclass(frozen=True, slots=True)
class EncodedTexts:
    """Tokens of several texts, without special ones.

    Attributes:
        token_ids: int32 [n].
        word_starts: bool [n], whether a token is the first of a word.
        lengths: int64 [d], tokens of each text; sums to n.
    """

    token_ids: NDArray[np.int32]
    word_starts: NDArray[np.bool_]
    lengths: NDArray[np.int64]


@dataclass(frozen=True)
class ChunkRule:
    """How text may be cut so that the chunks' tokens, put together, are the text's tokens.

    Attributes:
        split: from a text to its chunks.
        keeps_space: whether white space belongs to chunks; chunks whose normalised form ends in it are then
            not safe.
    """

    split: Callable[[str], list[str]]
    keeps_space: bool
    words: Callable[[str], list[str]] | None


def chunk_rule(tokenizer: Tokenizer) -> ChunkRule | None:
    """The rule for a tokenizer, or None when none is known to be exact."""
    content = json.loads(tokenizer.to_str())
    if not all(kind in _LOCAL_NORMALIZERS for kind in _kinds(content["normalizer"], "normalizers")):
        return None
    if any(_reaches_over_space(token) for token in content["added_tokens"]):
        return None
    only_special = all(token["special"] for token in content["added_tokens"])
    pre_tokenizer = content["pre_tokenizer"]
    kinds = _kinds(pre_tokenizer, "pretokenizers")
    if kinds and kinds[0] in {"BertPreTokenizer", "WhitespaceSplit"} and kinds[1:] in ([], ["Metaspace"]):
        isolates_signs = kinds == ["BertPreTokenizer"] and only_special
        words = _ASCII_WORDS_AND_SIGNS.findall if isolates_signs else None
        return ChunkRule(str.split, keeps_space=False, words=words)
    if kinds == ["ByteLevel"] and pre_tokenizer["use_regex"] and not pre_tokenizer["add_prefix_space"]:
        words = _ASCII_BYTE_LEVEL.findall if content["normalizer"] is None and only_special else None
        return ChunkRule(_SPACE_AND_WORD.findall, keeps_space=True, words=words)
    return None


def marks_words(tokenizer: Tokenizer) -> bool:
    """Whether only the mark of its first token tells a word, because nothing splits the text before."""
    pre_tokenizer = json.loads(tokenizer.to_str())["pre_tokenizer"]
    return pre_tokenizer is None or (
        pre_tokenizer["type"] == "Metaspace" and not pre_tokenizer.get("split", True)
    )


class ReferenceEncoder:
    """The tokenizer's own encoding.

    Text that spells a special token is encoded as text, so that no document can forge one.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        tokenizer.encode_special_tokens = True
        self._tokenizer = tokenizer
        self._marked: NDArray[np.bool_] | None = None
        if marks_words(tokenizer):
            vocabulary = tokenizer.get_vocab(with_added_tokens=True)
            self._marked = np.zeros(max(vocabulary.values()) + 1, dtype=np.bool_)
            self._marked[[index for token, index in vocabulary.items() if token.startswith(WORD_MARK)]] = True

    def encode(self, texts: Sequence[str]) -> EncodedTexts:
        """The tokens of some texts."""
        encodings = self._tokenizer.encode_batch(list(texts), add_special_tokens=False)
        ids = [encoding.ids for encoding in encodings]
        lengths = np.fromiter(map(len, ids), dtype=np.int64, count=len(ids))
        token_ids = np.fromiter(itertools.chain.from_iterable(ids), dtype=np.int32, count=int(lengths.sum()))
        return EncodedTexts(token_ids, self._word_starts(encodings, token_ids, lengths), lengths)

    def _word_starts(
        self, encodings: list[Encoding], token_ids: NDArray[np.int32], lengths: NDArray[np.int64]
    ) -> NDArray[np.bool_]:
        first = np.zeros(len(token_ids) + 1, dtype=np.bool_)
        first[np.cumsum(lengths) - lengths] = True
        if self._marked is not None:
            marked: NDArray[np.bool_] = first[:-1] | self._marked[token_ids]
            return marked
        words = itertools.chain.from_iterable(encoding.word_ids for encoding in encodings)
        word_ids = np.fromiter(
            (-1 if word is None else word for word in words), dtype=np.int64, count=len(token_ids)
        )
        starts: NDArray[np.bool_] = first[:-1] | (np.diff(word_ids, prepend=-2) != 0)
        return starts


class CachedEncoder:
    """The same tokens by a table of the chunks seen so far."""

    def __init__(self, tokenizer: Tokenizer, rule: ChunkRule) -> None:
        self._rule = rule
        self._reference = ReferenceEncoder(tokenizer)
        self._normalizer = tokenizer.normalizer
        self._table = _ChunkTable()

    def encode(self, texts: Sequence[str]) -> EncodedTexts:
        """The tokens of some texts; equal to those of ReferenceEncoder."""
        self._table.forget_if_large()
        chunks = [self._rule.split(text) for text in texts]
        flat = list(itertools.chain.from_iterable(chunks))
        self._learn(list(self._table.unseen(flat)))
        num_chunks = np.fromiter(map(len, chunks), dtype=np.int64, count=len(chunks))
        encoded, plain = self._table.look_up(flat, num_chunks)
        exotic = [number for number, text in enumerate(texts) if _EXOTIC_SPACE.search(text)]
        if not exotic and not len(plain):
            return encoded
        return self._replaced(encoded, texts, np.union1d(plain, np.array(exotic, dtype=np.int64)))

    def _learn(self, unseen: list[str]) -> None:
        """Put chunks into the table; those of several words by their words, since signs make them vary."""
        whole, composed, words = unseen, list[str](), list[list[str]]()
        if self._rule.words is not None:
            whole = []
            for chunk in unseen:
                parts = self._rule.words(chunk) if chunk.isascii() else []
                if len(parts) > 1:
                    composed.append(chunk)
                    words.append(parts)
                else:
                    whole.append(chunk)
        flat = list(itertools.chain.from_iterable(words))
        self._encode_whole(list(self._table.unseen([*whole, *flat])))
        if composed:
            num_words = np.fromiter(map(len, words), dtype=np.int64, count=len(words))
            encoded, _ = self._table.look_up(flat, num_words)
            self._table.add(composed, encoded, np.zeros(len(composed), dtype=np.bool_))

    def _encode_whole(self, chunks: list[str]) -> None:
        if chunks:
            self._table.add(chunks, self._reference.encode(chunks), self._unsafe(chunks))

    def _replaced(
        self, encoded: EncodedTexts, texts: Sequence[str], numbers: NDArray[np.int64]
    ) -> EncodedTexts:
        """The encoding with some texts encoded the plain way instead."""
        plain = self._reference.encode([texts[number] for number in numbers.tolist()])
        parts = [_split(encoded), _split(plain)]
        tokens, starts = parts[0]
        for place, number in enumerate(numbers.tolist()):
            tokens[number], starts[number] = parts[1][0][place], parts[1][1][place]
        lengths = encoded.lengths.copy()
        lengths[numbers] = plain.lengths
        return EncodedTexts(np.concatenate(tokens), np.concatenate(starts), lengths)

    def _unsafe(self, chunks: list[str]) -> NDArray[np.bool_]:
        """Chunks whose normalised form ends in white space, which might join with the next chunk."""
        unsafe = np.zeros(len(chunks), dtype=np.bool_)
        if not self._rule.keeps_space or self._normalizer is None:
            return unsafe
        for number, chunk in enumerate(chunks):
            if not chunk.isascii():
                normalized = self._normalizer.normalize_str(chunk)
                unsafe[number] = not normalized or normalized[-1].isspace()
        return unsafe


class _ChunkTable:
    """Tokens and word starts of chunks, as one flat array with the place and length of each chunk."""

    def __init__(self) -> None:
        self._slots: dict[str, int] = {}
        self._token_ids = np.zeros(1 << 16, dtype=np.int32)
        self._word_starts = np.zeros(1 << 16, dtype=np.bool_)
        self._offsets = np.zeros(1 << 14, dtype=np.int64)
        self._lengths = np.zeros(1 << 14, dtype=np.int64)
        self._unsafe = np.zeros(1 << 14, dtype=np.bool_)
        self._num_tokens = 0
        self._num_characters = 0

    def forget_if_large(self) -> None:
        if len(self._slots) > MAXIMUM_CACHED_CHUNKS or self._num_characters > MAXIMUM_CACHED_CHARACTERS:
            self.__init__()  # type: ignore[misc]

    def unseen(self, chunks: list[str]) -> set[str]:
        return set(chunks).difference(self._slots)

    def add(self, chunks: list[str], encoded: EncodedTexts, unsafe: NDArray[np.bool_]) -> None:
        first, end = len(self._slots), len(self._slots) + len(chunks)
        first_token, end_token = self._num_tokens, self._num_tokens + len(encoded.token_ids)
        self._token_ids = _grown(self._token_ids, end_token)
        self._word_starts = _grown(self._word_starts, end_token)
        self._token_ids[first_token:end_token] = encoded.token_ids
        self._word_starts[first_token:end_token] = encoded.word_starts
        self._offsets = _grown(self._offsets, end)
        self._lengths = _grown(self._lengths, end)
        self._unsafe = _grown(self._unsafe, end)
        self._offsets[first:end] = first_token + np.cumsum(encoded.lengths) - encoded.lengths
        self._lengths[first:end] = encoded.lengths
        self._unsafe[first:end] = unsafe
        self._slots.update(zip(chunks, range(first, end), strict=True))
        self._num_tokens = end_token
        self._num_characters += sum(map(len, chunks))

    def look_up(
        self, chunks: list[str], num_chunks: NDArray[np.int64]
    ) -> tuple[EncodedTexts, NDArray[np.int64]]:
        """The tokens of texts given by their chunks, and the numbers of the texts with an unsafe chunk."""
        slots = np.array(list(map(self._slots.__getitem__, chunks)), dtype=np.int64)
        lengths = self._lengths[slots]
        ends = np.cumsum(lengths)
        total = int(ends[-1]) if len(ends) else 0
        places = np.arange(total) + np.repeat(self._offsets[slots] - (ends - lengths), lengths)
        chunk_ends = np.cumsum(num_chunks)
        text_ends = np.concatenate([[0], ends])[chunk_ends]
        text_lengths = np.diff(text_ends, prepend=0)
        texts = np.searchsorted(chunk_ends, np.flatnonzero(self._unsafe[slots]), side="right")
        encoded = EncodedTexts(self._token_ids[places], self._word_starts[places], text_lengths)
        return encoded, np.unique(texts)


def encoder_for(tokenizer: Tokenizer) -> CachedEncoder | ReferenceEncoder:
    """The fastest encoder that is known to be exact for a tokenizer."""
    rule = chunk_rule(tokenizer)
    return ReferenceEncoder(tokenizer) if rule is None else CachedEncoder(tokenizer, rule)


def differs(first: EncodedTexts, second: EncodedTexts) -> bool:
    """Whether two encodings differ in any token, word or length."""
    pairs = (
        (first.lengths, second.lengths),
        (first.token_ids, second.token_ids),
        (first.word_starts, second.word_starts),
    )
    return not all(np.array_equal(one, other) for one, other in pairs)


def _split(encoded: EncodedTexts) -> tuple[list[NDArray[np.int32]], list[NDArray[np.bool_]]]:
    borders = np.cumsum(encoded.lengths)[:-1]
    return np.split(encoded.token_ids, borders), np.split(encoded.word_starts, borders)


def _grown(array: NDArray[Any], size: int) -> NDArray[Any]:
    if size <= len(array):
        return array
    grown = np.zeros(max(size, 2 * len(array)), dtype=array.dtype)
    grown[: len(array)] = array
    return grown


def _kinds(component: dict[str, Any] | None, members: str) -> list[str]:
    """Type names of a normalizer or pre-tokenizer, sequences taken apart."""
    if component is None:
        return []
    if component["type"] == "Sequence":
        return [kind for member in component[members] for kind in _kinds(member, members)]
    return [str(component["type"])]


def _reaches_over_space(token: dict[str, Any]) -> bool:
    """Whether an added token holds white space or takes that around it along."""
    ordinary = not token["special"]
    return ordinary and bool(token["lstrip"] or token["rstrip"] or re.search(r"\s", token["content"]))
