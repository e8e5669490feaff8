"""Where the cache of a run lies, what it is called, and how its rows are divided into shards."""

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from trainyard_api.errors import ConfigurationError
from trainyard_api.plan import RunPlan
from trainyard_trainer.data.dataset import PreparedData
from trainyard_trainer.data.manifest import DataManifest, hash_of
from trainyard_trainer.distillation.cache_files import PredictionCache
from trainyard_trainer.distillation.cache_layout import CacheInputs, CacheLayout, cache_key, cache_layout

FOLDER = "teacher-cache"
"""Folder of all caches below the prepared folder, which the runs of one storage share."""
KEY_LENGTH = 32
"""Digits of the key in a folder's name, as of the other prepared folders."""
SHARD_BYTES = 64 * 2**20
"""What a shard should hold: small enough to be made again after a stop, and for many processes to share."""
FEWEST_SHARDS, MOST_SHARDS = 16, 256
"""Bounds of their number; each is a file that training keeps open."""

_ROW_STEPS = ("tokenizer", "tokenize", "pack")
"""Steps of the preparation that decide which tokens stand in which row."""


@dataclass(frozen=True)
class CachePlace:
    """The cache that a run needs.

    Attributes:
        folder: holds a folder for each shard.
        key: hash of everything that decides its content.
        layout: what is kept of each place.
        of_tokens: whether every token is a place, or only what the data has to predict.
        shards: numbers of the rows of each shard; the same for any number of processes.
    """

    folder: Path
    key: str
    layout: CacheLayout
    of_tokens: bool
    shards: tuple[range, ...]

    def shard_folder(self, number: int) -> Path:
        """Where a shard lies."""
        return self.folder / f"shard-{number:05}"

    def open(self) -> PredictionCache:
        """The cache, mapped into memory after its files' sizes were checked.

        Raises:
            DataError: a shard is missing, damaged, or made from something else.
        """
        folders = [self.shard_folder(number) for number in range(len(self.shards))]
        return PredictionCache(folders, self.key, check=False)


def cache_place(plan: RunPlan, data: PreparedData) -> CachePlace | None:
    """The cache of a run on its prepared data; None where it has none.

    Raises:
        ConfigurationError: a place would take more than 100 bytes.
    """
    distillation, modeling = plan.spec.distillation, plan.spec.language_modeling
    teacher = data.manifest.teacher
    if distillation is None or distillation.teacher_cache is None:
        return None
    if distillation.losses.logits is None or modeling is None or teacher is None:
        raise ConfigurationError(
            "spec.distillation.teacherCache",
            "it holds the predictions of a language model, and the run has no loss on them",
            "Set losses.logits and train a language model, or remove teacherCache",
        )
    spec, logits, manifest = plan.spec, distillation.losses.logits, data.manifest
    layout = cache_layout(
        distillation.teacher_cache,
        vocabulary_size=manifest.tokenizer.vocabulary_size,
        temperature=logits.temperature,
    )
    is_masked = modeling.objective == "MaskedLM"
    inputs = CacheInputs(
        teacher=teacher.hash,
        tokenizer=manifest.tokenizer.hash,
        data=rows_hash(manifest),
        objective=modeling.objective,
        masking=modeling.masking if is_masked else None,
        masking_seed=spec.training.seed if is_masked else None,
        sampling_seed=spec.training.seed,
        positions=logits.positions,
        isolate_documents=spec.data.packing.isolate_documents,
        precision=spec.training.precision,
    )
    key = cache_key(inputs, layout)
    row_bytes = manifest.sequence_length * layout.record.itemsize
    return CachePlace(
        folder=data.prepared / FOLDER / key[:KEY_LENGTH],
        key=key,
        layout=layout,
        of_tokens=logits.positions == "All",
        shards=shards_of(len(data.train), row_bytes),
    )


def rows_hash(manifest: DataManifest) -> str:
    """Hash of the rows alone: runs that start from other models share a cache."""
    return hash_of([[step.name, step.content_hash] for step in manifest.steps if step.name in _ROW_STEPS])


def shards_of(num_rows: int, row_bytes: int) -> tuple[range, ...]:
    """Divide rows into shards of nearly equal size, a function of their number and size alone.

    Args:
        num_rows: all rows.
        row_bytes: most bytes of the records of a row.
    """
    wanted = num_rows * row_bytes // SHARD_BYTES
    num_shards = max(1, min(num_rows, MOST_SHARDS, max(FEWEST_SHARDS, wanted)))
    bounds = [num_rows * number // num_shards for number in range(num_shards + 1)]
    return tuple(range(first, last) for first, last in pairwise(bounds))
