"""Step tokenizer: trains one on the training documents, or checks and copies an existing one."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from trainyard_api.spec import TokenizerTraining
from trainyard_trainer.data.existing_tokenizer import WHERE, load_existing
from trainyard_trainer.data.files import sha256_of_file, write_hashed
from trainyard_trainer.data.manifest import TokenizerManifest
from trainyard_trainer.data.order import mix_64_array
from trainyard_trainer.data.parallel import Advance
from trainyard_trainer.data.special_tokens import TRAINED, Objective, SpecialTokens
from trainyard_trainer.data.split import is_validation
from trainyard_trainer.data.steps import FinishedStep, StepOutcome
from trainyard_trainer.data.text_shards import TextShard, kept_documents, read_texts
from trainyard_trainer.data.tokenizer import MAXIMUM_TRAINING_CHARACTERS, train_tokenizer

TOKENIZER_FILE = "tokenizer.json"
CONFIG_FILE = "tokenizer_config.json"


@dataclass(frozen=True)
class TrainingTask:
    """What `train_in_process` does.

    Attributes:
        spec: what to train.
        objective: decides the special tokens.
        shards: all text.
        duplicates: file of the step deduplicate, or None when all documents stay.
        validation_fraction: documents held out, which the tokenizer does not see either.
        num_characters: characters of all text, which decides whether a sample is taken.
    """

    spec: TokenizerTraining
    objective: Objective
    shards: list[TextShard]
    duplicates: Path | None
    validation_fraction: float
    num_characters: int


def train_in_process(task: TrainingTask, advance: Advance) -> tuple[str, int]:
    """Train a tokenizer; returns its JSON and the characters it was trained on."""
    num_characters = 0

    def texts() -> Iterator[str]:
        nonlocal num_characters
        num_characters = 0
        for text in _training_texts(task, advance):
            num_characters += len(text)
            yield text

    tokenizer = train_tokenizer(task.spec, task.objective, texts)
    return tokenizer.to_str(), num_characters


def write_trained(folder: Path, content: str, num_characters: int, objective: Objective) -> StepOutcome:
    """Write a trained tokenizer."""
    special = SpecialTokens(TRAINED[objective])
    return _write(folder, Tokenizer.from_str(content), special, objective, num_characters)


def write_existing(  # noqa: PLR0913, PLR0917 - what is written, where it comes from and what it is for
    folder: Path,
    content: bytes,
    config: bytes,
    objective: Objective,
    where: str = WHERE,
    chat_template: str = "",
) -> StepOutcome:
    """Check an existing tokenizer and write it in our form.

    Raises:
        DataError: it is damaged or does not fit the objective.
    """
    tokenizer, special = load_existing(content, config, objective, where)
    return _write(folder, tokenizer, special, objective, None, chat_template)


def describe_tokenizer(step: FinishedStep) -> TokenizerManifest:
    """The tokenizer in the manifest of a run."""
    return TokenizerManifest.model_validate(
        {
            **step.manifest.details,
            "folder": step.folder.name,
            "hash": sha256_of_file(step.folder / TOKENIZER_FILE),
        }
    )


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a prepared folder."""
    return Tokenizer.from_file(str(folder / TOKENIZER_FILE))


def _write(  # noqa: PLR0913, PLR0917 - as above
    folder: Path,
    tokenizer: Tokenizer,
    special: SpecialTokens,
    objective: Objective,
    num_characters: int | None,
    chat_template: str = "",
) -> StepOutcome:
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    ids = {role: vocabulary[token] for role, token in special.by_role.items()}
    added = {index for index, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    masked = objective == "MaskedLM"
    details: dict[str, Any] = {
        "vocabularySize": max(vocabulary.values()) + 1,
        "padTokenId": ids["pad"],
        "maskTokenId": ids.get("mask"),
        "prefixTokenId": ids["cls" if masked else "bos"],
        "suffixTokenId": ids["sep" if masked else "eos"],
        "unknownTokenId": ids.get("unk"),
        "specialTokenIds": [*sorted(added | set(ids.values()))],
        "trainingCharacters": num_characters,
    }
    pretty = json.dumps(json.loads(tokenizer.to_str()), indent=1, ensure_ascii=False) + "\n"
    files = (
        write_hashed(folder, TOKENIZER_FILE, pretty.encode()),
        write_hashed(folder, CONFIG_FILE, special.transformers_config(chat_template).encode()),
    )
    counts = {"vocabulary": max(vocabulary.values()) + 1, "characters": num_characters or 0}
    return StepOutcome(files, counts, details)


def _training_texts(task: TrainingTask, advance: Advance) -> Iterator[str]:
    sampled_fraction = min(1.0, MAXIMUM_TRAINING_CHARACTERS / max(1, task.num_characters))
    for shard in task.shards:
        hashes = shard.hashes()
        wanted = kept_documents(shard, task.duplicates) & ~is_validation(hashes, task.validation_fraction)
        if sampled_fraction < 1.0:
            wanted &= mix_64_array(hashes[:, 1] ^ hashes[:, 0]) < np.uint64(sampled_fraction * 2.0**64)
        for batch in read_texts(shard, wanted):
            yield from batch.texts
            advance(batch.size_bytes)
