"""Training of tokenizers with the `tokenizers` library: WordPiece, byte-level BPE and Unigram."""

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from trainyard_api.errors import ConfigurationError, DataError, TrainyardError
from trainyard_api.spec import TokenizerTraining
from trainyard_trainer.data.alphabet import count_characters, most_frequent
from trainyard_trainer.data.special_tokens import TRAINED, Objective

MAXIMUM_TRAINING_CHARACTERS = 1 << 28
"""More text changes a vocabulary little and costs memory; of larger corpora a sample by hash is taken."""

LONGEST_WORD = 256
"""Longer runs without white space (base64, DNA) are left out: they cost much time and teach nothing."""

IMPROBABLE = -1.0e4
"""Logarithm of the probability of the special entries of a Unigram model."""

SCORE_DIGITS = 6
"""Digits of a Unigram score that are kept; those after the twelfth depend on the order of summation."""

ALPHABET_FRACTION = 0.25
"""Part of a WordPiece or Unigram vocabulary for single characters; the rarest ones become unknown."""

RECIPE = "trainyard tokenizers version 1"
"""Part of the step's key, so that a change of what is built below trains anew."""

_LONG_WORDS = re.compile(rf"\S{{{LONGEST_WORD + 1},}}")


def train_tokenizer(
    spec: TokenizerTraining, objective: Objective, texts: Callable[[], Iterable[str]]
) -> Tokenizer:
    """Train a tokenizer; equal texts in equal order give an equal one.

    The library visits words in an order that differs from process to process. What depends on it is fixed
    here: the alphabet of WordPiece before training, the last digits of Unigram's scores after it. (Which of
    two Unigram pieces with equal loss stays is beyond reach, and may differ.)

    Args:
        spec: what to train.
        objective: decides the special tokens.
        texts: gives the training text, each time it is called.

    Raises:
        ConfigurationError: the vocabulary is too small for the algorithm.
        DataError: the text is not enough.
    """
    special = list(TRAINED[objective].values())
    check_vocabulary_size(spec, objective)
    tokenizer = _untrained(spec, TRAINED[objective]["unk"])
    if spec.algorithm == "BPE":
        _train(tokenizer, _trainer(spec, special), texts())
    else:
        counts = count_characters(texts())
        alphabet = most_frequent(counts, int(spec.vocabulary_size * ALPHABET_FRACTION))
        rare = rare_characters(counts, alphabet)
        known = (rare.sub(" ", text) for text in texts()) if rare else texts()
        if spec.algorithm == "WordPiece":
            suffixes = [f"##{character}" for character in continuing_characters(tokenizer, alphabet)]
            _train(tokenizer, _trainer(spec, special + suffixes), known)
        else:
            _train(tokenizer, _trainer(spec, special), known)
    _check_trained(tokenizer, spec, len(special))
    tokenizer = _canonical(tokenizer, special)
    tokenizer.post_processor = _post_processor(tokenizer, objective)
    return tokenizer


def check_vocabulary_size(spec: TokenizerTraining, objective: Objective) -> None:
    """Refuse a vocabulary without room for the bytes of byte-level BPE.

    Raises:
        ConfigurationError: it is too small.
    """
    least = 256 + len(TRAINED[objective]) + 1
    if spec.algorithm == "BPE" and spec.vocabulary_size < least:
        raise ConfigurationError(
            "spec.tokenizer.train.vocabularySize",
            f"{spec.vocabulary_size} has no room for 256 bytes and {len(TRAINED[objective])} special tokens",
            f"Set it to {least} or more; 8192 suits a small corpus",
        )


@contextmanager
def parallel_tokenizers(*, parallel: bool) -> Iterator[None]:
    """Allow or forbid the `tokenizers` library to use threads, and restore what was set."""
    previous = os.environ.get("TOKENIZERS_PARALLELISM")
    os.environ["TOKENIZERS_PARALLELISM"] = "true" if parallel else "false"
    try:
        yield
    finally:
        if previous is None:
            del os.environ["TOKENIZERS_PARALLELISM"]
        else:
            os.environ["TOKENIZERS_PARALLELISM"] = previous


def _untrained(spec: TokenizerTraining, unknown: str) -> Tokenizer:
    if spec.algorithm == "WordPiece":
        tokenizer = Tokenizer(models.WordPiece(unk_token=unknown))
        tokenizer.normalizer = normalizers.BertNormalizer(
            lowercase=spec.lowercase, strip_accents=spec.lowercase
        )
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        tokenizer.decoder = decoders.WordPiece()
        return tokenizer
    if spec.algorithm == "BPE":
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
    else:
        tokenizer = Tokenizer(models.Unigram())
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]
        )
        tokenizer.decoder = decoders.Metaspace()
    if spec.lowercase:
        tokenizer.normalizer = normalizers.Sequence(
            [normalizers.NFD(), normalizers.Lowercase(), normalizers.StripAccents()]
        )
    return tokenizer


def _trainer(spec: TokenizerTraining, special: list[str]) -> trainers.Trainer:
    if spec.algorithm == "WordPiece":
        return trainers.WordPieceTrainer(
            vocab_size=spec.vocabulary_size,
            min_frequency=spec.minimum_frequency,
            special_tokens=special,
            show_progress=False,
        )
    if spec.algorithm == "BPE":
        return trainers.BpeTrainer(
            vocab_size=spec.vocabulary_size,
            min_frequency=spec.minimum_frequency,
            special_tokens=special,
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
    return trainers.UnigramTrainer(
        vocab_size=spec.vocabulary_size, special_tokens=special, unk_token=special[1], show_progress=False
    )


def _post_processor(tokenizer: Tokenizer, objective: Objective) -> processors.TemplateProcessing:
    special = TRAINED[objective]
    if objective == "MaskedLM":
        cls, sep = special["cls"], special["sep"]
        return processors.TemplateProcessing(
            single=f"{cls} $A {sep}",
            pair=f"{cls} $A {sep} $B:1 {sep}:1",
            special_tokens=[(token, tokenizer.token_to_id(token)) for token in (cls, sep)],
        )
    bos = special["bos"]
    return processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A $B", special_tokens=[(bos, tokenizer.token_to_id(bos))]
    )


def _train(tokenizer: Tokenizer, trainer: trainers.Trainer, texts: Iterable[str]) -> None:
    with parallel_tokenizers(parallel=False):
        try:
            tokenizer.train_from_iterator(_without_long_words(texts), trainer)
        except (TrainyardError, OSError):
            raise
        except Exception as error:
            problem = f"no tokenizer could be trained: {error}"
            raise DataError(
                "spec.tokenizer.train", problem, "Give more text, or take another algorithm"
            ) from error


def continuing_characters(tokenizer: Tokenizer, alphabet: str) -> list[str]:
    """The characters, as normalised, that may stand inside a word, ascending."""
    normalizer, pre_tokenizer = tokenizer.normalizer, tokenizer.pre_tokenizer
    assert normalizer is not None  # noqa: S101 - WordPiece always has both
    assert pre_tokenizer is not None  # noqa: S101 - as above
    normalized = {part for character in alphabet for part in normalizer.normalize_str(character)}
    return [
        part
        for part in sorted(normalized)
        if len(pre_tokenizer.pre_tokenize_str("a" + part)) == 1 and part.strip()
    ]


def rare_characters(counts: NDArray[np.int64], alphabet: str) -> re.Pattern[str] | None:
    """A pattern of the characters that occur but are not in the alphabet, or None when there are none."""
    rare = set(map(chr, np.flatnonzero(counts).tolist())) - set(alphabet)
    return re.compile("[" + "".join(map(re.escape, sorted(rare))) + "]") if rare else None


def _canonical(tokenizer: Tokenizer, special: list[str]) -> Tokenizer:
    """The tokenizer without what differs from training to training, and with only special tokens added."""
    content = json.loads(tokenizer.to_str())
    content["added_tokens"] = [token for token in content["added_tokens"] if token["content"] in special]
    if content["model"]["type"] == "Unigram":
        content["model"]["vocab"] = canonical_pieces(content["model"]["vocab"], special)
    return Tokenizer.from_str(json.dumps(content))


def canonical_pieces(vocabulary: list[tuple[str, float]], special: list[str]) -> list[tuple[str, float]]:
    """Unigram pieces in an order, and with scores, that do not depend on the order of visiting words.

    Special entries get a score so low that text which spells one never becomes it (the trainer gives them
    the logarithm of probability 1). Single characters below every longer piece are there only so that all
    text can be spelled; the trainer gives them falling scores in the order of its visit, here they fall in
    the order of the code points.
    """
    pieces = {piece: round(score, SCORE_DIGITS) for piece, score in vocabulary if piece not in special}
    least = min((score for piece, score in pieces.items() if len(piece) > 1), default=0.0)
    spelling = [piece for piece, score in pieces.items() if len(piece) == 1 and score < least]
    scores = sorted((pieces[piece] for piece in spelling), reverse=True)
    pieces |= dict(zip(sorted(spelling), scores, strict=True))
    ordered = sorted(pieces.items(), key=lambda item: (-item[1], item[0]))
    return [*((token, IMPROBABLE) for token in special), *ordered]


def _without_long_words(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        yield _LONG_WORDS.sub(" ", text)


def _check_trained(tokenizer: Tokenizer, spec: TokenizerTraining, num_special: int) -> None:
    size = tokenizer.get_vocab_size()
    if size <= num_special + 1:
        raise DataError(
            "spec.tokenizer.train",
            f"the trained vocabulary has only {size} entries",
            "Give more text to train on",
        )
    if size > spec.vocabulary_size:
        raise ConfigurationError(
            "spec.tokenizer.train.vocabularySize",
            f"the text has more distinct characters than {spec.vocabulary_size} entries have room for",
            f"Set it to {size} or more, or use BPE, which spells any text with 256 bytes",
        )
