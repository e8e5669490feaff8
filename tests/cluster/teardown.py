"""Removal of what a cluster leaves behind, also of one whose keeper was killed."""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from tests.cluster.addresses import DNS_ADDRESS, NODE_ADDRESS

BRIDGE = "trainyard0"
NETWORK = "trainyard-testcluster"
"""Names of the pods' network: as an interface of the machine, and for CNI."""
NODE_MARK = "real-node"
"""File in a state folder that says that the machine's network was changed for it."""

_END_SECONDS = 60.0
_CGROUPS = Path("/sys/fs/cgroup")


def remove_state(folder: Path) -> None:
    """End every process of the cluster, undo what it did to the machine, and remove its folder."""
    _end_processes(folder)
    _unmount_below(folder)
    if (folder / NODE_MARK).exists():
        _undo_node(folder)
    shutil.rmtree(folder)


def _end_processes(folder: Path) -> None:
    """Kill the programs that have the folder in their command lines, and all their children."""
    deadline = time.monotonic() + _END_SECONDS
    while found := list(processes_of(folder)):
        for process in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        if time.monotonic() > deadline:
            message = f"processes {found} of {folder} do not end"
            raise TimeoutError(message)
        time.sleep(0.05)


def processes_of(folder: Path) -> Iterator[int]:
    """Programs of the cluster, by their command lines, and their descendants: the containers."""
    parents: dict[int, int] = {}
    roots = set()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            command = (entry / "cmdline").read_bytes().split(b"\0")
            state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if state == "Z":
            continue
        parents[int(entry.name)] = int(parent)
        if _is_program_of(command, os.fsencode(folder)):
            roots.add(int(entry.name))
    for process in parents:
        ancestor = process
        while ancestor in parents and ancestor not in roots:
            ancestor = parents[ancestor]
        if ancestor in roots:
            yield process


def _is_program_of(command: list[bytes], folder: bytes) -> bool:
    """Whether a command line is one of the cluster's programs: editors and pagers of its files are not."""
    name = os.path.basename(command[0])  # noqa: PTH119 - bytes
    known = name.startswith((b"kube", b"etcd", b"kwok", b"coredns", b"containerd"))
    return known and any(folder in argument for argument in command[1:])


def _unmount_below(folder: Path) -> None:
    """Unmount everything below the folder, the innermost first."""
    mounts = Path("/proc/self/mounts").read_text().splitlines()
    points = [line.split()[1].replace("\\040", " ") for line in mounts]
    for point in sorted((point for point in points if point.startswith(f"{folder}/")), reverse=True):
        # A failure is an error: removing the folder would remove what is mounted in it.
        subprocess.run(["umount", "--lazy", point], check=True)


def _undo_node(folder: Path) -> None:
    """Remove the real node's addresses, bridge, kube-proxy's tables, control groups and records."""
    for command in (
        ["ip", "link", "delete", BRIDGE],
        ["ip", "address", "delete", f"{DNS_ADDRESS}/32", "dev", "lo"],
        ["ip", "address", "delete", f"{NODE_ADDRESS}/32", "dev", "lo"],
        ["nft", "delete", "table", "ip", "kube-proxy"],
        ["nft", "delete", "table", "ip6", "kube-proxy"],
    ):
        # What was never made cannot be deleted, which is as good.
        subprocess.run(command, stderr=subprocess.DEVNULL, check=False)
    for group in [_CGROUPS / "kubepods", *_CGROUPS.glob("*/kubepods")]:
        for inner, _, _ in os.walk(group, topdown=False):
            with contextlib.suppress(OSError):
                Path(inner).rmdir()
    for result in Path("/var/lib/cni/results").glob("*"):
        if str(folder) in result.read_text():
            result.unlink()
    listening = Path("/proc/net/unix").read_text()
    for socket in Path("/run/containerd/s").glob("*"):
        if str(socket) not in listening:
            socket.unlink()
    for link in Path("/var/log/containers").glob("*.log"):
        if link.is_symlink() and link.readlink().is_relative_to(folder):
            link.unlink()
