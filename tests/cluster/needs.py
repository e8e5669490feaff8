"""What this machine must have for a cluster of our own, and what to do where it is missing."""

import os
import platform
import shutil
import sys

from tests.cluster.debian import missing_node_packages
from tests.cluster.go_tool import find_go
from tests.cluster.images import ARCHITECTURES
from tests.cluster.recipes import CONTROL_PLANE, REAL_NODE, missing_programs

_OTHERWISE = "or name a cluster by KUBECONFIG and --cluster=existing"


def missing_for_control_plane() -> str | None:
    """Why this machine cannot run a control plane of its own, and the remedy; None when it can."""
    if not sys.platform.startswith("linux"):
        return f"a cluster of our own needs Linux: use a Linux machine, {_OTHERWISE}"
    for program in ("openssl", "setpriv"):
        if shutil.which(program) is None:
            return f"a cluster of our own needs {program}: install it, {_OTHERWISE}"
    if missing_programs(CONTROL_PLANE) and find_go() is None:
        return f"there is no Go to build the cluster with: run `make init` or install Go, {_OTHERWISE}"
    return None


def missing_for_real_node() -> str | None:
    """Why this machine cannot run a real node, and the remedy; None when it can."""
    if missing := missing_for_control_plane():
        return missing
    if os.geteuid() != 0:
        return "a real node needs root: run the tests as root in a container or a virtual machine"
    if platform.machine() not in ARCHITECTURES:
        return f"a real node needs one of {', '.join(ARCHITECTURES)}: use such a machine"
    packages = missing_node_packages()
    if packages and shutil.which("apt-get") is None:
        return f"a real node needs {', '.join(packages)}: install them"
    if missing_programs(REAL_NODE) and find_go() is None:
        return "there is no Go to build the real node with: run `make init` or install Go"
    return None
