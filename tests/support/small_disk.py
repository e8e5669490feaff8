"""A file system of a chosen size, so that a disk is full for real."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class SmallDisk:
    """A mounted tmpfs."""

    path: Path

    def resize(self, size_bytes: int) -> None:
        """Change how much fits, also below what is used."""
        subprocess.run(["mount", "-o", f"remount,size={size_bytes}", str(self.path)], check=True)

    @property
    def used_bytes(self) -> int:
        """What lies on it."""
        figures = os.statvfs(self.path)
        return (figures.f_blocks - figures.f_bfree) * figures.f_frsize


@contextmanager
def small_disk(path: Path, size_bytes: int) -> Iterator[SmallDisk]:
    """Mount a tmpfs; the test is skipped where that is not allowed."""
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "trainyard-test", str(path)]
    mounted = subprocess.run(command, check=False, capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.strip()}")
    try:
        yield SmallDisk(path)
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)
