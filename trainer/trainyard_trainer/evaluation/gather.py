"""What the ranks observed of the held-out examples, brought to rank 0 in pieces of bounded size."""

from dataclasses import dataclass, field

import numpy as np
import torch
import torch.distributed
from numpy.typing import NDArray

from trainyard_trainer.distributed import Ranks


@dataclass(frozen=True)
class Observations:
    """One row for each thing that was predicted.

    Attributes:
        integers: keys first, then labels and predictions, int64 [m, a].
        numbers: losses and scores, float32 [m, b].
    """

    integers: torch.Tensor
    numbers: torch.Tensor


@dataclass(frozen=True)
class Gathered:
    """The rows of all ranks, each once, in ascending order of their keys, whatever the world size.

    Attributes:
        integers: int64 [m, a].
        numbers: float32 [m, b].
    """

    integers: NDArray[np.int64]
    numbers: NDArray[np.float32]


@dataclass
class Gatherer:
    """Collects observations; between two flushes a rank holds its own, and only rank 0 holds all.

    Attributes:
        ranks: the gang; every rank must add and flush equally often.
        num_keys: leading columns of the integers that tell rows apart.
    """

    ranks: Ranks
    num_keys: int
    _pending: list[Observations] = field(default_factory=list)
    _arrived: list[Observations] = field(default_factory=list)

    def add(self, observations: Observations) -> None:
        """Keep what this rank observed until the next flush."""
        self._pending.append(observations)

    def flush(self) -> None:
        """Bring what is pending to rank 0; a collective."""
        if not self._pending:
            return
        integers = torch.cat([part.integers for part in self._pending])
        numbers = torch.cat([part.numbers for part in self._pending])
        self._pending.clear()
        for part in zip(self._to_first(integers), self._to_first(numbers), strict=True):
            self._arrived.append(Observations(*part))

    def all(self) -> Gathered:
        """Everything that has arrived; on ranks other than 0 nothing has."""
        if not self._arrived:
            return Gathered(np.zeros((0, self.num_keys), np.int64), np.zeros((0, 0), np.float32))
        integers = torch.cat([part.integers for part in self._arrived]).numpy()
        numbers = torch.cat([part.numbers for part in self._arrived]).numpy()
        _, first = np.unique(integers[:, : self.num_keys], axis=0, return_index=True)
        return Gathered(integers[first], numbers[first])

    def _to_first(self, rows: torch.Tensor) -> list[torch.Tensor]:
        """The rows of every rank on rank 0, nothing elsewhere; all send equally many, so they are padded."""
        ranks = self.ranks
        if ranks.world_size == 1:
            return [rows.cpu()]
        sizes = torch.zeros(ranks.world_size, dtype=torch.int64, device=ranks.device)
        sizes[ranks.rank] = len(rows)
        torch.distributed.all_reduce(sizes)
        largest = int(sizes.max())
        padded = torch.zeros((largest, rows.shape[1]), dtype=rows.dtype, device=ranks.device)
        padded[: len(rows)] = rows.to(ranks.device)
        if not ranks.is_first:
            torch.distributed.gather(padded)
            return []
        received = [torch.empty_like(padded) for _ in range(ranks.world_size)]
        torch.distributed.gather(padded, received)
        return [part[:size].cpu() for part, size in zip(received, sizes.tolist(), strict=True)]
