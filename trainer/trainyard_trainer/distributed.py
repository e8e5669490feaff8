"""The process group of a gang: who this process is, and what the ranks tell each other."""

import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed

from trainyard_api.plan import RunPlan
from trainyard_trainer.devices import given_devices, select_device

COLLECTIVE_TIMEOUT = timedelta(minutes=10)
"""How long a rank waits for the others before it fails.

The longest waits: between two looks of an evaluation at the stop flag, for the slowest rank's own file at a
save, and for it again at a resume, where ranks meet after every file (`resume.newest_sound`). A rank's file
holds its share of weights and optimizer state, 12 bytes for each parameter of its share under AdamW, so at
0.5 GB/s of reading and hashing up to 300 GB or 25 billion parameters per rank fit.
"""

SINGLE_PROCESS_ENVIRONMENT = {
    "RANK": "0",
    "WORLD_SIZE": "1",
    "LOCAL_RANK": "0",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "0",
}
"""What a process that no agent started assumes; port 0 lets the system choose."""


@dataclass(frozen=True)
class Ranks:
    """This process among the processes of the gang."""

    rank: int
    """Global number."""
    local_rank: int
    """Number on its node."""
    world_size: int
    """Processes of the gang."""
    device: torch.device
    """Where it computes."""

    @property
    def is_first(self) -> bool:
        """Whether this process writes what is written once."""
        return self.rank == 0

    def sums(self, values: Sequence[float]) -> list[float]:
        """Element-wise sums over all ranks, in fp64; a collective."""
        tensor = torch.tensor(values, dtype=torch.float64, device=self.device)
        if self.world_size > 1:
            torch.distributed.all_reduce(tensor)
        return [float(value) for value in tensor.tolist()]

    def from_first(self, value: int) -> int:
        """The value that rank 0 has; a collective."""
        return round(self.sums([float(value) if self.is_first else 0.0])[0])

    def texts(self, text: str) -> list[str]:
        """What every rank says, by rank; a collective."""
        content = text.encode()
        own_lengths = [len(content) if rank == self.rank else 0 for rank in range(self.world_size)]
        lengths = [round(length) for length in self.sums(own_lengths)]
        ends = list(itertools.accumulate(lengths))
        joined = torch.zeros(ends[-1], dtype=torch.uint8, device=self.device)
        own = torch.tensor(list(content), dtype=torch.uint8, device=self.device)
        joined[ends[self.rank] - len(content) : ends[self.rank]] = own
        if self.world_size > 1 and ends[-1]:
            torch.distributed.all_reduce(joined)
        whole = bytes(joined.tolist())
        return [whole[end - length : end].decode() for end, length in zip(ends, lengths, strict=True)]

    def barrier(self) -> None:
        """Wait for all ranks; a collective."""
        self.sums([0.0])


def set_threads(threads_per_process: int, local_world_size: int) -> None:
    """Give this process its share of the cores; more threads than cores make every operation slower."""
    available = len(os.sched_getaffinity(0))
    torch.set_num_threads(threads_per_process or max(1, available // local_world_size))


def join_gang(plan: RunPlan) -> Ranks:
    """Read rank and rendezvous from the environment that torchrun's agent set, and meet the others.

    DeepSpeed asks for its accelerator at import and for LOCAL_SIZE on a CPU, so both are set before it is
    imported.

    Raises:
        TrainyardError: the devices that the pod was given cannot be used.
    """
    rank = int(os.environ.get("RANK", "0"))
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    local_world_size = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    for name, default in SINGLE_PROCESS_ENVIRONMENT.items():
        os.environ.setdefault(name, default)
    device = select_device(local_rank, given_devices(plan.spec.workers, os.environ))
    if device.type == "cpu":
        os.environ["DS_ACCELERATOR"] = "cpu"
        os.environ["LOCAL_SIZE"] = str(local_world_size)
    set_threads(plan.threads_per_process, local_world_size)
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group(
            backend=torch.distributed.get_default_backend_for_device(device),
            timeout=COLLECTIVE_TIMEOUT,
            device_id=None if device.type == "cpu" else device,
        )
    return Ranks(
        rank=rank,
        local_rank=local_rank,
        world_size=torch.distributed.get_world_size(),
        device=device,
    )


def leave_gang() -> None:
    """Close the process group in order, so that no peer sees a broken connection."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
