"""From the numbers of rows to what a cache keeps of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from trainyard_api.errors import DataError
from trainyard_trainer.distillation.cache_entries import CachedPredictions, read_predictions
from trainyard_trainer.distillation.cache_files import PredictionCache
from trainyard_trainer.distillation.cache_place import CachePlace

_CPU = torch.device("cpu")


class Places(Protocol):
    """What decides how many places some rows have.

    Attributes:
        num_labels: predictions to make.
        num_tokens: tokens, padding not counted.
    """

    @property
    def num_labels(self) -> int: ...  # noqa: D102 - see the class
    @property
    def num_tokens(self) -> int: ...  # noqa: D102


@dataclass(frozen=True)
class CachedRows:
    """A cache that training reads.

    Attributes:
        place: which one.
        cache: its records.
    """

    place: CachePlace
    cache: PredictionCache

    def of_rows(self, numbers: Sequence[int], places: Places) -> CachedPredictions:
        """What is kept at the places of some rows, one row after the other, on the CPU.

        Raises:
            DataError: it is kept of another number of places.
        """
        records = np.concatenate([self.cache.row(number) for number in numbers])
        expected = places.num_tokens if self.place.of_tokens else places.num_labels
        if len(records) != expected:
            raise DataError(
                str(self.place.folder),
                f"rows {', '.join(map(str, numbers))} have {expected} places and the cache {len(records)}",
                "Delete the folder and run again to make the cache anew",
            )
        return read_predictions(records, _CPU)
