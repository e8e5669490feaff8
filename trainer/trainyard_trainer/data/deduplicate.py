"""Step deduplicate: of documents with equal hashes, the first in the order of the sources stays.

Hashes are scattered to partitions on disk by their leading bits, and each partition is sorted in memory, so
that memory is bounded whatever the number of documents.
"""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trainyard_trainer.data.files import HashedFile
from trainyard_trainer.data.steps import StepOutcome
from trainyard_trainer.data.text_shards import TextShard

DUPLICATES = "duplicates.u1"
PARTITION_DOCUMENTS = 4 << 20
MAXIMUM_PARTITIONS = 512
ENTRY = np.dtype([("first", "<u8"), ("second", "<u8"), ("document", "<i8")])


def deduplicate(
    shards: list[TextShard], num_sources: int, folder: Path, advance: Callable[[int], None]
) -> StepOutcome:
    """Mark the duplicates of all sources in one file, uint8 [documents], 1 for a duplicate.

    Args:
        shards: text shards of all sources, in order.
        num_sources: how many sources there are.
        folder: where to write.
        advance: told about the documents done; may raise to stop.
    """
    num_documents = sum(shard.num_documents for shard in shards)
    partitions = _scatter(shards, num_documents, folder, advance)
    marks_file = folder / "marks"
    marks: NDArray[np.uint8] = np.memmap(
        marks_file, dtype=np.uint8, mode="w+", shape=(max(1, num_documents),)
    )
    for partition in partitions:
        marks[repeated_documents(np.fromfile(partition, dtype=ENTRY))] = 1
        partition.unlink()
    per_source = [0] * num_sources
    with HashedFile(folder, DUPLICATES) as file:
        for shard in shards:
            part = marks[shard.first_document : shard.first_document + shard.num_documents]
            per_source[shard.source] += int(part.sum())
            file.write(part)
        record = file.close()
    marks_file.unlink()
    counts = {"documents": num_documents, "duplicates": sum(per_source)}
    return StepOutcome((record,), counts, {"perSource": list(per_source)})


def repeated_documents(entries: NDArray[np.void]) -> NDArray[np.int64]:
    """Numbers of the documents whose hash another document with a smaller number has.

    Args:
        entries: ENTRY [n], by document number.
    """
    order = np.lexsort((entries["second"], entries["first"]))
    sorted_entries = entries[order]
    first, second = sorted_entries["first"], sorted_entries["second"]
    repeated = (first[1:] == first[:-1]) & (second[1:] == second[:-1])
    documents: NDArray[np.int64] = sorted_entries["document"][1:][repeated]
    return documents


def _scatter(
    shards: list[TextShard], num_documents: int, folder: Path, advance: Callable[[int], None]
) -> list[Path]:
    """Write hashes and document numbers to partitions by the leading bits of the hash."""
    bits = 0
    while num_documents >> bits > PARTITION_DOCUMENTS and 1 << bits < MAXIMUM_PARTITIONS:
        bits += 1
    paths = [folder / f"partition-{number:03d}" for number in range(1 << bits)]
    with ExitStack() as stack:
        files = [stack.enter_context(path.open("wb")) for path in paths]
        for shard in shards:
            hashes = shard.hashes()
            entries = np.empty(len(hashes), dtype=ENTRY)
            entries["first"], entries["second"] = hashes[:, 0], hashes[:, 1]
            entries["document"] = shard.first_document + np.arange(len(hashes))
            numbers = hashes[:, 0] >> np.uint64(64 - bits) if bits else np.zeros(len(hashes), dtype=np.uint64)
            for number in np.unique(numbers).tolist():
                entries[numbers == number].tofile(files[int(number)])
            advance(shard.num_documents)
    return paths
