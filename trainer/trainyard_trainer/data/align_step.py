"""Step align: the text of a run in the tokens of a teacher whose tokenizer is another one.

Beside each token shard NAME of the run it writes NAME.ends (uint32 [n], at which character of its document
each of the run's tokens ends), NAME.teacher-tokens (ids of the teacher, no special ones), NAME.teacher-ends
(uint32 [m], as above) and NAME.teacher-offsets (int64 [documents + 1], where each document starts among the
teacher's tokens).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from trainyard_trainer.data.files import HashedFile, write_hashed
from trainyard_trainer.data.manifest import FileRecord, TokenizerManifest
from trainyard_trainer.data.parallel import Advance, Pool
from trainyard_trainer.data.progress import StepProgress
from trainyard_trainer.data.shards import OFFSETS, token_dtype
from trainyard_trainer.data.steps import FinishedStep, StepOutcome, StepStore
from trainyard_trainer.data.text_shards import TextShard, kept_documents, read_texts
from trainyard_trainer.data.tokenizer import parallel_tokenizers
from trainyard_trainer.data.tokenizer_step import describe_tokenizer, load_tokenizer

STEP = "align"
ENDS = np.dtype("<u4")


@dataclass(frozen=True)
class AlignTask:
    """What one call of `align_shard` does.

    Attributes:
        shard: text to read.
        name: of the token shard.
        duplicates: uint8 file of the step deduplicate, or None when all documents stay.
        tokenizer_folder: the run's tokenizer.
        teacher_folder: the teacher's tokenizer.
        vocabulary_size: the largest id of the teacher's plus one.
        folder: where to write.
    """

    shard: TextShard
    name: str
    duplicates: Path | None
    tokenizer_folder: Path
    teacher_folder: Path
    vocabulary_size: int
    folder: Path


@dataclass(frozen=True)
class AlignedText:
    """The text of a run.

    Attributes:
        shards: all of it.
        duplicates: uint8 file of the step deduplicate, or None when all documents stay.
        key: of the step that told which documents stay.
    """

    shards: Sequence[TextShard]
    duplicates: Path | None
    key: str


@dataclass(frozen=True)
class Alignment:
    """The text in the tokens of the teacher.

    Attributes:
        step: the step align.
        tokenizer: the teacher's tokenizer.
    """

    step: FinishedStep
    tokenizer: TokenizerManifest


def align_tokens(
    text: AlignedText,
    tokenizers: tuple[FinishedStep, FinishedStep],
    store: StepStore,
    pool: Pool,
    progress: StepProgress,
) -> Alignment:
    """Make or reuse the step.

    Args:
        text: what is read.
        tokenizers: the steps with the tokenizers of the run and of its teacher.
        store: the prepared folder.
        pool: reads the shards.
        progress: told about the work done.
    """
    own, teacher = (describe_tokenizer(step) for step in tokenizers)

    def body(folder: Path) -> StepOutcome:
        tasks = [
            AlignTask(
                shard=shard,
                name=f"{number:06d}",
                duplicates=text.duplicates,
                tokenizer_folder=tokenizers[0].folder,
                teacher_folder=tokenizers[1].folder,
                vocabulary_size=teacher.vocabulary_size,
                folder=folder,
            )
            for number, shard in enumerate(text.shards)
        ]
        advance = progress.start(STEP, sum(shard.size_bytes for shard in text.shards), "bytes")
        files = pool.run(align_shard, tasks, advance)
        written = tuple(file for found in files for file in found)
        return StepOutcome(written, {"shards": len(tasks)}, {"shards": [task.name for task in tasks]})

    inputs = {"text": text.key, "tokenizer": own.hash, "teacher": teacher.hash}
    return Alignment(store.run(STEP, inputs, body), teacher)


def align_shard(task: AlignTask, advance: Advance) -> tuple[FileRecord, ...]:
    """Write the files of one shard."""
    own, teacher = _plain(task.tokenizer_folder), _plain(task.teacher_folder)
    names = (f"{task.name}.{kind}" for kind in ("ends", "teacher-tokens", "teacher-ends"))
    lengths = [np.zeros(1, dtype=np.int64)]
    with (
        parallel_tokenizers(parallel=False),
        HashedFile(task.folder, next(names)) as ends,
        HashedFile(task.folder, next(names)) as tokens,
        HashedFile(task.folder, next(names)) as teacher_ends,
    ):
        for batch in read_texts(task.shard, kept_documents(task.shard, task.duplicates)):
            for text in batch.texts:
                ends.write(ends_of(own, text)[1])
                ids, found = ends_of(teacher, text)
                tokens.write(ids.astype(token_dtype(task.vocabulary_size)))
                teacher_ends.write(found)
                lengths.append(np.array([len(ids)], dtype=np.int64))
            advance(batch.size_bytes)
        files = ends.close(), tokens.close(), teacher_ends.close()
    offsets = np.cumsum(np.concatenate(lengths)).astype(OFFSETS)
    return (*files, write_hashed(task.folder, f"{task.name}.teacher-offsets", offsets))


def ends_of(tokenizer: Tokenizer, text: str) -> tuple[NDArray[np.int64], NDArray[np.uint32]]:
    """The tokens of a text and at which character each ends, int64 [n] and ascending uint32 [n]."""
    encoding = tokenizer.encode(text, add_special_tokens=False)
    ends = np.fromiter((end for _, end in encoding.offsets), dtype=ENDS, count=len(encoding.ids))
    return np.array(encoding.ids, dtype=np.int64), np.maximum.accumulate(ends)


def _plain(folder: Path) -> Tokenizer:
    """A tokenizer that takes text which spells a special token for text, as the step tokenize does."""
    tokenizer = load_tokenizer(folder)
    tokenizer.encode_special_tokens = True
    return tokenizer
