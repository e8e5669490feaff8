"""The share of one process among several that read the sources of a run, before `prepare` needs all of it.

Which units a shard reads is a function of their sizes alone, so no process has to ask another one.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from typing import Any

from trainyard_api.plan import RunPlan
from trainyard_trainer.data.labelled.prepare import source_place
from trainyard_trainer.data.progress import StepProgress
from trainyard_trainer.data.sources import HASH_CACHE, FileHashes, InputFile, LaterHashes, list_files
from trainyard_trainer.data.steps import StepStore
from trainyard_trainer.data.unit_steps import UnitReader, UnitWork, unit_bytes
from trainyard_trainer.data.units import Unit, divide

WorkOf = Callable[[int, Sequence[InputFile], Mapping[int, Unit]], UnitWork[Any, Any]]
"""What is to be done with units, by their numbers, of a source and its files."""


def read_share(  # noqa: PLR0913, PLR0917 - the parts of a preparation
    plan: RunPlan, shard: int, store: StepStore, reader: UnitReader, progress: StepProgress, work_of: WorkOf
) -> None:
    """Make or find the units of one shard; only the files that they are parts of are hashed.

    Args:
        plan: the run.
        shard: number of the shard, from 0.
        store: the prepared folder.
        reader: makes units.
        progress: told about the work done.
        work_of: what is to be done with units.

    Raises:
        as `prepare`.
    """
    sources = plan.spec.data.sources
    advance = progress.start("list", None, "bytes")
    cached = FileHashes(store.root, advance)
    hashes = LaterHashes(cached)
    files = [
        list_files(source, source_place(number), plan.mounts, hashes, advance)
        for number, source in enumerate(sources)
    ]
    units = [divide(found, source) for found, source in zip(files, sources, strict=True)]
    for number, own in enumerate(share_of(units, reader.num_shards, shard)):
        wanted = {part.uri for unit in own.values() for part in unit}
        hashed = [hashes.hashed(file) for file in files[number] if file.uri in wanted]
        work = work_of(number, hashed, own)
        total = sum(unit_bytes(unit) for unit in own.values())
        reader.make(work, progress.start(f"{work.name} {sources[number].name}", total, "bytes"))
    with store.locked(HASH_CACHE):
        cached.save()


def shards_of(sizes: Sequence[int], num_shards: int) -> list[int]:
    """Which shard reads each unit: neighbours together, because they are often parts of one file.

    Args:
        sizes: bytes of each unit, of all sources one after the other.
        num_shards: how many share them; each gets about as many bytes.
    """
    twice_total = 2 * sum(sizes) or 1
    middles = (2 * end - size for end, size in zip(accumulate(sizes), sizes, strict=True))
    return [min(num_shards - 1, middle * num_shards // twice_total) for middle in middles]


def share_of(sources: Sequence[Sequence[Unit]], num_shards: int, shard: int) -> list[dict[int, Unit]]:
    """The units of each source that a shard reads, by their numbers in the source."""
    numbered = [(source, number) for source, units in enumerate(sources) for number in range(len(units))]
    sizes = [unit_bytes(sources[source][number]) for source, number in numbered]
    share: list[dict[int, Unit]] = [{} for _ in sources]
    for (source, number), owner in zip(numbered, shards_of(sizes, num_shards), strict=True):
        if owner == shard:
            share[source][number] = sources[source][number]
    return share
