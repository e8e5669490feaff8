"""Step tokenize: text shards become token shards, one each."""

import gc
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from trainyard_trainer.data.encoder import CachedEncoder, ReferenceEncoder, differs, encoder_for
from trainyard_trainer.data.manifest import FileRecord
from trainyard_trainer.data.parallel import Advance
from trainyard_trainer.data.shards import TokenShardWriter
from trainyard_trainer.data.text_shards import TextBatch, TextShard, kept_documents, read_texts
from trainyard_trainer.data.tokenizer import parallel_tokenizers
from trainyard_trainer.data.tokenizer_step import load_tokenizer

COMPARED_FIRST = 32
COMPARED_PER_BATCH = 8
COMPARED_CHARACTERS = 2000


@dataclass(frozen=True)
class TokenizeTask:
    """What one call of `tokenize_shard` does.

    Attributes:
        shard: text to read.
        name: of the token shard.
        duplicates: uint8 file of the step deduplicate, or None when all documents stay.
        tokenizer_folder: the tokenizer.
        vocabulary_size: its largest id plus one.
        folder: where to write.
    """

    shard: TextShard
    name: str
    duplicates: Path | None
    tokenizer_folder: Path
    vocabulary_size: int
    folder: Path


@dataclass(frozen=True)
class TokenizeResult:
    """What came out of a shard.

    Attributes:
        files: the files written.
        documents: documents in it, those without tokens included.
        tokens: tokens in it.
        used_reference: whether the fast way differed and the plain one was used.
    """

    files: tuple[FileRecord, ...]
    documents: int
    tokens: int
    used_reference: bool


@contextmanager
def without_garbage_collection() -> Iterator[None]:
    """Pause the search for cycles: a fifth of the time among millions of chunks, and it finds none."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class _DiffersError(Exception):
    """The fast encoder gave other tokens than the tokenizer."""


_encoders: dict[Path, tuple[CachedEncoder | ReferenceEncoder, ReferenceEncoder]] = {}
"""The encoders of this process, kept from task to task because the table of chunks is worth keeping."""


def forget_encoders() -> None:
    """Start again with empty tables of chunks, as a new process does."""
    _encoders.clear()


def tokenize_shard(task: TokenizeTask, advance: Advance) -> TokenizeResult:
    """Encode the documents of one shard; the plain way when samples show that the fast one is not exact."""
    if task.tokenizer_folder not in _encoders:
        forget_encoders()
        tokenizer = load_tokenizer(task.tokenizer_folder)
        _encoders[task.tokenizer_folder] = encoder_for(tokenizer), ReferenceEncoder(tokenizer)
    encoder, reference = _encoders[task.tokenizer_folder]
    with parallel_tokenizers(parallel=False), without_garbage_collection():
        try:
            return _write_shard(task, encoder, reference, advance)
        except _DiffersError:
            return _write_shard(task, reference, reference, advance)


def _write_shard(
    task: TokenizeTask,
    encoder: CachedEncoder | ReferenceEncoder,
    reference: ReferenceEncoder,
    advance: Advance,
) -> TokenizeResult:
    with TokenShardWriter(task.folder, task.name, task.vocabulary_size) as writer:
        return _write_documents(task, encoder, reference, advance, writer)


def _write_documents(
    task: TokenizeTask,
    encoder: CachedEncoder | ReferenceEncoder,
    reference: ReferenceEncoder,
    advance: Advance,
    writer: TokenShardWriter,
) -> TokenizeResult:
    hashes = task.shard.hashes()
    num_documents = num_tokens = 0
    for number, batch in enumerate(read_texts(task.shard, kept_documents(task.shard, task.duplicates))):
        if encoder is not reference:
            _compare(encoder, reference, batch, COMPARED_PER_BATCH if number else COMPARED_FIRST)
        encoded = encoder.encode(batch.texts)
        writer.append(encoded.token_ids, encoded.word_starts, encoded.lengths, hashes[batch.documents])
        num_tokens += len(encoded.token_ids)
        num_documents += len(batch.texts)
        advance(batch.size_bytes)
    return TokenizeResult(writer.close(), num_documents, num_tokens, encoder is reference)


def _compare(
    encoder: CachedEncoder | ReferenceEncoder, reference: ReferenceEncoder, batch: TextBatch, count: int
) -> None:
    step = max(1, len(batch.texts) // count)
    sample = [text[:COMPARED_CHARACTERS] for text in itertools.islice(batch.texts, 0, None, step)]
    if sample and differs(encoder.encode(sample), reference.encode(sample)):
        raise _DiffersError
