"""The steps that have a committed checkpoint, by the names of their folders: without loading torch."""

from pathlib import Path

MANIFEST = "manifest.json"
"""The file whose presence under the final name is the commit."""


def checkpoint_name(step: int) -> str:
    """Name of the folder of a step's checkpoint; names sort by step."""
    return f"step-{step:08d}"


def committed_steps(folder: Path) -> list[int]:
    """Steps with a committed checkpoint, ascending."""
    return sorted(int(manifest.parent.name[5:]) for manifest in folder.glob(f"step-[0-9]*/{MANIFEST}"))


def latest_committed_step(folder: Path) -> int | None:
    """The newest of `committed_steps`; None when there is none."""
    return max(committed_steps(folder), default=None)
