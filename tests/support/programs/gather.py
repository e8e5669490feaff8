"""One rank: observe its part of 23 examples in uneven pieces, some of them twice, and store what arrives.

usage: gather.py OUTPUT.json; rank 0 writes it.
"""

import json
import os
import sys
from pathlib import Path

import torch
import torch.distributed

from trainyard_trainer.distributed import Ranks
from trainyard_trainer.evaluation.gather import Gatherer, Observations

NUM_EXAMPLES = 23


def main() -> None:
    """Add rows in two flushes, of which the first brings nothing from the last rank."""
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    torch.distributed.init_process_group("gloo")
    ranks = Ranks(rank=rank, local_rank=rank, world_size=world_size, device=torch.device("cpu"))
    gatherer = Gatherer(ranks, num_keys=1)
    own = torch.arange(rank, NUM_EXAMPLES, world_size).flip(0)
    is_last = rank == world_size - 1
    for part in (own[:0] if is_last else own[:5], own if is_last else own[3:]):
        gatherer.add(Observations(torch.stack([part, part * 10], dim=1), part[:, None] / 2.0))
        gatherer.flush()
    gathered = gatherer.all()
    if ranks.is_first:
        content = {"integers": gathered.integers.tolist(), "numbers": gathered.numbers.tolist()}
        Path(sys.argv[1]).write_text(json.dumps(content))
    else:
        assert len(gathered.integers) == 0, "only rank 0 may hold the rows of all"
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
