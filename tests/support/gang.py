"""Gangs of real processes for tests: a program started once per rank, meeting on loopback."""

import os
import subprocess
import sys
from pathlib import Path

from trainyard_trainer.processes import free_port

PROGRAMS = Path(__file__).parent / "programs"
TIMEOUT_SECONDS = 240


def run_gang(program: str, world_size: int, *arguments: str) -> None:
    """Run `programs/<program>` on every rank and wait; fails with the ranks' output when one fails."""
    port = free_port()
    processes = [
        subprocess.Popen(
            [sys.executable, str(PROGRAMS / program), *arguments],
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(world_size),
                "LOCAL_WORLD_SIZE": str(world_size),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(world_size)
    ]
    try:
        outputs = [process.communicate(timeout=TIMEOUT_SECONDS)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    for rank, (process, output) in enumerate(zip(processes, outputs, strict=True)):
        assert process.returncode == 0, f"rank {rank} of {program} exited {process.returncode}:\n{output}"
