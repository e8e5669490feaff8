"""Builds the programs of the test cluster into the cache, and installs the packages of a real node.

    python -m tests.cluster.build

About a quarter of an hour on 2 cores the first time, then nothing. Two builds at once wait for each other.
"""

import fcntl
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.cluster.debian import install_node_packages, missing_node_packages
from tests.cluster.go_tool import GoTool, find_go
from tests.cluster.locations import cluster_cache
from tests.cluster.needs import missing_for_control_plane, missing_for_real_node
from tests.cluster.recipes import (
    BATCH_QUEUE,
    CONTROL_PLANE,
    MONITORING,
    REAL_NODE,
    missing_programs,
    program_path,
    recipe_of,
)
from trainyard_api.errors import UnavailableError


def build_programs(programs: Sequence[str]) -> None:
    """Build what is missing of the programs.

    Raises:
        UnavailableError: there is no Go.
        TransientError: a module cannot be fetched or built.
    """
    if not missing_programs(programs):
        return
    cache = cluster_cache()
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "build.lock").open("w") as lock:
        _acquire(lock.fileno())
        go = _require_go()
        for program in missing_programs(programs):
            started = time.monotonic()
            _say(f"building {program} ({recipe_of(program).key})")
            _build(go, program)
            _say(f"built {program} in {time.monotonic() - started:.0f} s")


def prepare_real_node() -> None:
    """Build and install what a real node needs: its programs, and Debian's packages when they are missing."""
    build_programs(REAL_NODE)
    if missing := missing_node_packages():
        _say(f"installing {' '.join(missing)}")
        install_node_packages(missing)


def _build(go: GoTool, program: str) -> None:
    """Build one program under a temporary name and rename it, so that it is whole or absent."""
    target = program_path(program)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{program}-", dir=target.parent) as temporary:
        work = Path(temporary) / "work"
        work.mkdir()
        built = Path(temporary) / program
        recipe_of(program).build(go, work, program, built)
        built.rename(target)


def _acquire(lock: int) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        _say("waiting for another build of the test cluster")
        fcntl.flock(lock, fcntl.LOCK_EX)


def _require_go() -> GoTool:
    go = find_go()
    if go is None:
        raise UnavailableError(
            "go",
            "the test cluster is built from Go modules, and this machine has no Go",
            "Run `make init`, which installs one into .venv, or put Go on PATH",
        )
    return go


def _say(text: str) -> None:
    """One line of progress; to standard error, since others read standard output."""
    sys.stderr.write(f"test cluster: {text}\n")
    sys.stderr.flush()


def main() -> None:
    """Build what this machine can run, and say why it cannot run the rest."""
    if problem := missing_for_control_plane():
        _say(problem)
        return
    build_programs([*CONTROL_PLANE, *MONITORING, *BATCH_QUEUE])
    if problem := missing_for_real_node():
        _say(problem)
        return
    prepare_real_node()


if __name__ == "__main__":
    main()
