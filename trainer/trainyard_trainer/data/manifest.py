"""What preparation made: `data.json` of a run, and `manifest.json` of each step."""

import hashlib
import json
from typing import Any

from trainyard_api.model import ApiModel

FORMAT_VERSION = 2
"""Raised when any file of a prepared folder changes its meaning; part of every key."""


class FileRecord(ApiModel):
    """One file of a prepared folder."""

    name: str
    """Path in the folder."""
    size_bytes: int
    """Size."""
    sha256: str
    """SHA-256 of its bytes, hexadecimal."""


class StepManifest(ApiModel):
    """One preparation step, as its folder's `manifest.json`; its presence is the commit."""

    format_version: int = FORMAT_VERSION
    """Format of the folder."""
    name: str
    """Name of the step."""
    key: str
    """SHA-256 of the inputs, shortened to 32 hexadecimal digits."""
    inputs: dict[str, Any]
    """Everything that the outcome depends on."""
    files: tuple[FileRecord, ...]
    """Files that it wrote."""
    counts: dict[str, int]
    """Figures by name."""
    details: dict[str, Any]
    """What later steps need to know."""
    seconds: float
    """How long it took when it was done."""


class SourceFile(ApiModel):
    """One file of a source."""

    uri: str
    """Where it was read."""
    size_bytes: int
    """Size as stored."""
    content_hash: str
    """SHA-256 of its bytes; of the store's own identity (such as the ETag) when it is not a local file."""


class SourceManifest(ApiModel):
    """One source and what became of it."""

    name: str
    """Name in the spec."""
    uri: str
    """URI in the spec."""
    num_files: int
    """Files that matched."""
    size_bytes: int
    """Bytes of them, as stored."""
    content_hash: str
    """SHA-256 over the content hashes of all files, in order."""
    files: tuple[SourceFile, ...]
    """The files, when there are not more than a thousand."""
    records: int
    """Records read, the invalid ones included."""
    invalid_records: int
    """Records that could not be read; quarantine.jsonl of the step's folder lists them."""
    documents: int
    """Documents after normalisation, duplicates included."""
    characters: int
    """Characters of them."""
    dropped_documents: int
    """Documents shorter than minimumCharacters."""
    duplicates: int
    """Documents that equal an earlier one."""
    weight: float
    """How often each training document occurs in an epoch."""


class StepSummary(ApiModel):
    """A step in the manifest of a run."""

    name: str
    """Name of the step."""
    key: str
    """Hash of its inputs."""
    folder: str
    """Folder below the prepared folder."""
    content_hash: str
    """SHA-256 over the names and hashes of all its files."""
    num_files: int
    """Files that it wrote."""
    counts: dict[str, int]
    """Figures by name."""
    seconds: float
    """Seconds it took in this run; nearly none when it was reused."""
    reused: bool
    """Whether its outcome was already there."""


class TokenizerManifest(ApiModel):
    """The tokenizer and the ids that training needs."""

    folder: str
    """Folder below the prepared folder; stock Transformers loads it."""
    hash: str
    """SHA-256 of its tokenizer.json."""
    vocabulary_size: int
    """Largest id plus one."""
    pad_token_id: int
    """Fills the ends of rows."""
    mask_token_id: int | None = None
    """Stands for hidden tokens (MaskedLM)."""
    prefix_token_id: int
    """CLS of every piece (MaskedLM), or BOS of every document (CausalLM)."""
    suffix_token_id: int
    """SEP of every piece (MaskedLM), or EOS of every document (CausalLM)."""
    unknown_token_id: int | None = None
    """Stands for text that the vocabulary cannot spell."""
    special_token_ids: tuple[int, ...]
    """Every special entry of the vocabulary, ascending."""
    training_characters: int | None = None
    """Characters it was trained on; not set for an existing tokenizer."""


class SplitManifest(ApiModel):
    """The training or validation rows."""

    documents: int
    """Documents with at least one token; each once, whatever its weight."""
    pieces: int
    """Documents cut to the sequence length; repeated as the weights say."""
    rows: int
    """Rows."""
    tokens: int
    """Tokens of all rows, special ones included."""


class BaseModelManifest(ApiModel):
    """A stored model that training starts from, or listens to."""

    run: str | None = None
    """Name of the run that made it, where the spec names one."""
    uri: str
    """Where it was read."""
    hash: str
    """SHA-256 over the names and hashes of its files."""
    folder: str
    """Folder below the prepared folder: its configuration, and its weights where they were fetched."""
    files: tuple[FileRecord, ...]
    """Its configuration, its weights and their index."""
    model_type: str
    """`model_type` of its configuration."""
    vocabulary_size: int
    """Rows of its embedding."""
    maximum_positions: int
    """The longest row that it accepts, in tokens."""


class LabelManifest(ApiModel):
    """The labels of a task."""

    names: tuple[str, ...]
    """Names of the classes, in the order of their numbers; none where numbers are predicted."""
    training_counts: tuple[int, ...]
    """Training examples (of words: predictions) of each class."""
    validation_counts: tuple[int, ...]
    """Held-out examples (of words: predictions) of each class."""


class DataManifest(ApiModel):
    """Everything about the data of a run; `data.json` in its folder."""

    format_version: int = FORMAT_VERSION
    """Format of the prepared folders."""
    hash: str = ""
    """SHA-256 of what the rows and the first weights depend on: paths and times are left out."""
    prepared: str
    """The prepared folder, relative to the run folder."""
    sequence_length: int
    """Most tokens of a row."""
    sources: tuple[SourceManifest, ...]
    """The sources, in the order of the spec."""
    steps: tuple[StepSummary, ...]
    """The steps, in their order."""
    tokenizer: TokenizerManifest
    """The tokenizer."""
    base_model: BaseModelManifest | None = None
    """The model that training starts from; not set where its weights are random."""
    teacher: BaseModelManifest | None = None
    """The model that training listens to; not set where there is none."""
    teacher_tokenizer: TokenizerManifest | None = None
    """The tokenizer by which the teacher reads the text; not set where it is the run's."""
    labels: LabelManifest | None = None
    """The labels; not set where there are none, as for language models."""
    unigram_entropy: float
    """Entropy of the token frequencies of the training text, in nats per token; special tokens left out."""
    frequency_loss: float
    """Lowest loss of a model that knows frequencies (of tokens, or of labels) but no text, per prediction."""
    train: SplitManifest
    """Rows to train on."""
    validation: SplitManifest
    """Rows to evaluate on."""
    packing_efficiency: float
    """Fraction of the positions of the training rows that hold tokens, 0 to 1."""
    warnings: tuple[str, ...] = ()
    """What a person should look at."""

    def with_hash(self) -> "DataManifest":
        """The same manifest, its hash computed."""
        content: dict[str, Any] = {
            "format": self.format_version,
            "sequence length": self.sequence_length,
            "sources": [[source.content_hash, source.weight] for source in self.sources],
            "steps": [[step.name, step.key, step.content_hash] for step in self.steps],
            "tokenizer": self.tokenizer.hash,
        }
        if self.base_model is not None:
            content["base model"] = self.base_model.hash
        if self.teacher is not None:
            content["teacher"] = self.teacher.hash
        if self.teacher_tokenizer is not None:
            content["teacher tokenizer"] = self.teacher_tokenizer.hash
        if self.labels is not None:
            content["labels"] = self.labels.model_dump(mode="json")
        return self.model_copy(update={"hash": hash_of(content)})


def hash_of(content: Any) -> str:
    """SHA-256 of the canonical JSON of some content, hexadecimal."""
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


def content_hash(files: tuple[FileRecord, ...]) -> str:
    """SHA-256 over the names and hashes of files."""
    return hash_of([[file.name, file.sha256] for file in files])
