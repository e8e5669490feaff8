"""Training of tokenizers with the `tokenizers` library: WordPiece, byte-level BPE and Unigram."""

import json
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from trainyard_api.errors import ConfigurationError, DataError
from trainyard_api.spec import TokenizerTraining
from trainyard_trainer.data.special_tokens import TRAINED, Objective

MAXIMUM_TRAINING_CHARACTERS = 1 << 28
"""Text beyond this changes a vocabulary little and costs memory; a sample by hash is taken of larger corpora."""

LONGEST_WORD = 256
"""Longer runs without white space (base64, DNA) are left out of training: they cost quadratic time and teach nothing."""

IMPROBABLE = -1.0e4
"""Logarithm of the probability of the special entries of a Unigram model."""

RECIPE = "trainyard tokenizers version 1"
"""Part of the step's key, so that a change of what is built below trains anew."""

_LONG_WORDS = re.compile(rf"\S{{{LONGEST_WORD + 1},}}")


def train_tokenizer(spec: TokenizerTraining, objective: Objective, texts: Iterable[str]) -> Tokenizer:
    """Train a tokenizer; equal texts in equal order give an equal one.

    Args:
        spec: what to train.
        objective: decides the special tokens.
        texts: the training text.

    Raises:
        ConfigurationError: the vocabulary is too small for the algorithm.
        DataError: the text is not enough.
    """
    special = TRAINED[objective]
    check_vocabulary_size(spec, objective)
    tokenizer = _untrained(spec, special["unk"])
    with parallel_tokenizers(parallel=False):
        try:
            tokenizer.train_from_iterator(_without_long_words(texts), _trainer(spec, list(special.values())))
        except BaseException as error:
            if not isinstance(error, Exception) or isinstance(error, DataError):
                raise
            raise DataError(
                "spec.tokenizer.train",
                f"no tokenizer could be trained: {error}",
                "Give more text, or another algorithm",
            ) from error
    _check_trained(tokenizer, spec, len(special))
    if spec.algorithm == "Unigram":
        tokenizer = _without_special_pieces(tokenizer, list(special.values()))
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


def _without_special_pieces(tokenizer: Tokenizer, special: list[str]) -> Tokenizer:
    """Make the special entries so improbable that text which spells one never becomes it.

    The trainer gives them the logarithm of probability 0, that is certainty.
    """
    content = json.loads(tokenizer.to_str())
    content["model"]["vocab"] = [
        [piece, IMPROBABLE if piece in special else score] for piece, score in content["model"]["vocab"]
    ]
    return Tokenizer.from_str(json.dumps(content))


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
