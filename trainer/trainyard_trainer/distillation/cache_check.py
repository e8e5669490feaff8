"""Whether the content of a cache is what was written: each rank looks at a part of it before training."""

from trainyard_api.errors import DataError
from trainyard_trainer.distillation.cache_files import shard_damage
from trainyard_trainer.distillation.cache_place import CachePlace
from trainyard_trainer.distributed import Ranks

_REMEDY = "Delete that folder and start the run again: the stage Cache makes what is missing"


def check_shards_together(place: CachePlace, ranks: Ranks) -> None:
    """Read every shard once and compare its hashes; a collective.

    Every rank is told what any of them found, so that all of them leave with the same error.

    Raises:
        DataError: a shard is missing, damaged, or made from something else.
    """
    own = range(ranks.rank, len(place.shards), ranks.world_size)
    found = ranks.texts(next((problem for number in own if (problem := _problem(place, number))), ""))
    for told in found:
        if told:
            raise DataError(str(place.folder), told, _REMEDY)


def _problem(place: CachePlace, number: int) -> str:
    """What is wrong with a shard, with its name; empty when nothing is."""
    folder = place.shard_folder(number)
    try:
        damage = shard_damage(folder, place.key)
    except DataError as error:
        return f"{folder.name}: {error.problem}"
    return "" if damage is None else f"{folder.name}: {damage}"
