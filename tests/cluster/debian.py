"""Debian's packages that a real node needs."""

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from trainyard_api.errors import TransientError, UnavailableError

CNI_PLUGINS = Path("/usr/lib/cni")

_PROGRAMS = {
    "containerd": "containerd",
    "runc": "runc",
    "ip": "iproute2",
    "nft": "nftables",
    "conntrack": "conntrack",
}
"""Program to look for, and the package that brings it."""


def missing_node_packages() -> list[str]:
    """Packages whose programs are not on this machine."""
    missing = [package for program, package in _PROGRAMS.items() if shutil.which(program) is None]
    if not (CNI_PLUGINS / "bridge").is_file():
        missing.append("containernetworking-plugins")
    return missing


def install_node_packages(packages: Sequence[str]) -> None:
    """Install the packages with apt-get, without starting their services.

    Raises:
        UnavailableError: this is not root, or the machine has no apt-get.
        TransientError: apt-get failed.
    """
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise UnavailableError(
            "apt-get",
            f"a real node needs {', '.join(packages)}",
            "Install them, or run as root on Debian or Ubuntu",
        )
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    for command in (
        ["apt-get", "update", "--quiet"],
        ["apt-get", "install", "--quiet", "--yes", "--no-install-recommends", *packages],
    ):
        done = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise TransientError(
                " ".join(command),
                f"it failed: {(done.stdout + done.stderr).strip()[-1000:]}",
                "Check the package sources of this machine and try again",
            )
