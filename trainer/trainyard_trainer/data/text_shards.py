"""Reading of the text shards that the step extract wrote, with the documents that are kept."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trainyard_trainer.data.files import map_array
from trainyard_trainer.data.steps import FinishedStep

LENGTHS = np.dtype("<u4")
HASHES = np.dtype("<u8")
READ_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class TextShard:
    """One text shard and its place among all documents.

    Attributes:
        folder: folder of the step that wrote it.
        name: name of the shard.
        source: number of the source.
        first_document: number of its first document among those of all sources.
        num_documents: documents in it.
        size_bytes: bytes of its text.
    """

    folder: Path
    name: str
    source: int
    first_document: int
    num_documents: int
    size_bytes: int

    def hashes(self) -> NDArray[np.uint64]:
        """Hashes of its documents, uint64 [documents, 2]."""
        return map_array(self.folder / f"{self.name}.hashes", HASHES).reshape(-1, 2)


@dataclass(frozen=True, slots=True)
class TextBatch:
    """Some documents of a shard.

    Attributes:
        texts: the documents.
        documents: int64 [d], their numbers in the shard.
        size_bytes: bytes that were read, those of skipped documents included.
    """

    texts: list[str]
    documents: NDArray[np.int64]
    size_bytes: int


def list_shards(extracted: list[FinishedStep]) -> list[TextShard]:
    """All text shards of all sources, in order."""
    shards: list[TextShard] = []
    first = 0
    for source, step in enumerate(extracted):
        sizes = {file.name: file.size_bytes for file in step.manifest.files}
        documents = step.manifest.details["shards"]
        assert isinstance(documents, dict)  # noqa: S101 - narrows the type; the step extract writes it so
        for name, count in documents.items():
            assert isinstance(count, int)  # noqa: S101 - as above
            shards.append(TextShard(step.folder, name, source, first, count, sizes[f"{name}.text"]))
            first += count
    return shards


def kept_documents(shard: TextShard, duplicates: Path | None) -> NDArray[np.bool_]:
    """Whether each document of a shard stays, bool [documents]."""
    if duplicates is None or not shard.num_documents:
        return np.ones(shard.num_documents, dtype=np.bool_)
    marks = np.fromfile(duplicates, dtype=np.uint8, count=shard.num_documents, offset=shard.first_document)
    kept: NDArray[np.bool_] = marks == 0
    return kept


def read_texts(shard: TextShard, wanted: NDArray[np.bool_]) -> Iterator[TextBatch]:
    """The wanted documents of a shard, in batches of about READ_BYTES.

    Args:
        shard: the shard.
        wanted: bool [documents].
    """
    lengths = map_array(shard.folder / f"{shard.name}.lengths", LENGTHS).astype(np.int64)
    ends = np.cumsum(lengths)
    with (shard.folder / f"{shard.name}.text").open("rb") as file:
        first = 0
        while first < len(lengths):
            begin = int(ends[first] - lengths[first])
            end = max(first + 1, int(np.searchsorted(ends, begin + READ_BYTES, side="right")))
            data = file.read(int(ends[end - 1]) - begin)
            chosen = first + np.flatnonzero(wanted[first:end])
            places = zip(
                (ends[chosen] - lengths[chosen] - begin).tolist(),
                (ends[chosen] - begin).tolist(),
                strict=True,
            )
            yield TextBatch([data[start:stop].decode() for start, stop in places], chosen, len(data))
            first = end
