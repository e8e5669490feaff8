"""Where the test cluster keeps its programs and its state: in Trainyard's cache, never in the repository."""

import os
from collections.abc import Mapping
from pathlib import Path

from tools.cache import cache_root

SOURCES = Path(__file__).parent / "sources"
STAGES = Path(__file__).parent / "stages"
REPOSITORY = Path(__file__).parents[2]


def cluster_cache(environment: Mapping[str, str] = os.environ) -> Path:
    """`testcluster` in Trainyard's cache."""
    return cache_root(environment) / "testcluster"


def programs_folder() -> Path:
    """Folder of all built programs, one folder in it per recipe and version."""
    return cluster_cache() / "bin"


def states_folder() -> Path:
    """Folder of the states of running clusters."""
    return cluster_cache() / "state"
