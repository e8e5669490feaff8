"""Processes that the kernel killed because memory ran out, told from others by its own counters.

A process that gets SIGKILL cannot say who sent it. The kernel counts its own kills: by control group, which
is exact, or by machine where there is no group (proc(5), `vmstat`; the kernel's documents on cgroups).
"""

import signal
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from trainyard_api.policy.failure import ProcessEnd, normalized_exit_code

KILLED = 128 + signal.SIGKILL
COUNTER = "oom_kill"


def count_memory_kills(root: Path = Path("/")) -> int | None:
    """How many processes of this one's control group, or of the machine, were killed for memory so far.

    Args:
        root: where `proc` and `sys` are.

    Returns:
        The narrowest count that the machine gives, or None where it gives none.
    """
    for path in [
        *group_files(root, version_1="memory.oom_control", version_2="memory.events"),
        root / "proc/vmstat",
    ]:
        if path.is_file():
            for line in path.read_text(encoding="utf-8").splitlines():
                name, _, value = line.partition(" ")
                if name == COUNTER:
                    return int(value)
    return None


def group_files(root: Path, *, version_1: str, version_2: str) -> Iterable[Path]:
    """Where a file of the own memory group may be; in a container its group is mounted as the root one.

    Args:
        root: where `proc` and `sys` are.
        version_1: name of the file in control groups of version 1.
        version_2: name of the file in those of version 2.
    """
    groups = root / "proc/self/cgroup"
    if not groups.is_file():
        return
    for line in groups.read_text(encoding="utf-8").splitlines():
        _, controllers, group = line.split(":", 2)
        if controllers == "memory":
            mount, name = root / "sys/fs/cgroup/memory", version_1
        elif not controllers:
            mount, name = root / "sys/fs/cgroup", version_2
        else:
            continue
        yield mount / group.lstrip("/") / name
        yield mount / name


def with_memory_kills(ends: Iterable[ProcessEnd], before: int | None, after: int | None) -> list[ProcessEnd]:
    """The ends, with those marked that the kernel killed for memory.

    Args:
        ends: how processes ended; those that nobody stopped and that SIGKILL ended are candidates.
        before: the count when they were started.
        after: the count now; the earliest candidates are marked, as many as it has grown by.
    """
    listed = list(ends)
    num_kills = 0 if before is None or after is None else max(0, after - before)
    candidates = [
        index
        for index, end in enumerate(listed)
        if normalized_exit_code(end.exit_code) == KILLED and not end.stopped
    ]
    for index in sorted(candidates, key=lambda index: listed[index].ended_at)[:num_kills]:
        listed[index] = replace(listed[index], out_of_memory=True)
    return listed
