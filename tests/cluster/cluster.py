"""A running cluster as tests and benchmarks see it."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tests.cluster.audit import AuditLog
from tests.cluster.build import build_programs, prepare_real_node
from tests.cluster.keeper import DOWN, START_REAL_NODE, Options
from tests.cluster.kubectl import Kubectl
from tests.cluster.locations import REPOSITORY
from tests.cluster.recipes import CONTROL_PLANE
from tests.cluster.state import State
from trainyard_api.errors import TrainyardError


class ClusterError(TrainyardError):
    """The test cluster does not come up, or a part of it ended early."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """How to reach a cluster."""

    kubeconfig: Path
    """Kubeconfig of an administrator."""
    kubectl: Kubectl
    """kubectl as an administrator."""
    audit: AuditLog | None
    """Record of all writes; None for a cluster that is not ours."""
    state: State | None
    """Where its state and its logs lie; None for a cluster that is not ours."""
    keeper: "KeeperProcess | None" = None
    """What keeps it; None for a cluster that is not ours."""

    @classmethod
    def existing(cls, environment: Mapping[str, str] = os.environ) -> "Cluster":
        """The cluster that KUBECONFIG names.

        Raises:
            ClusterError: it names no file.
        """
        kubeconfig = Path(environment.get("KUBECONFIG", ""))
        if not kubeconfig.is_file():
            raise ClusterError(
                "KUBECONFIG", f"{str(kubeconfig)!r} is no file", "Set it to the file of a cluster"
            )
        return cls(kubeconfig=kubeconfig, kubectl=Kubectl(kubeconfig), audit=None, state=None)

    @classmethod
    def at(cls, folder: Path) -> "Cluster":
        """A cluster of ours, by its state folder."""
        state = State(folder)
        return cls(
            kubeconfig=state.kubeconfig("admin"),
            kubectl=state.kubectl(),
            audit=AuditLog(state.audit_log),
            state=state,
        )

    def start_real_node(self) -> None:
        """Add the real node, once; needs root.

        Raises:
            ClusterError: it does not come up, or this cluster is not ours.
        """
        if self.keeper is None:
            raise ClusterError("the real node", "this cluster is not ours", "Run without --cluster=existing")
        prepare_real_node()
        self.keeper.ask(START_REAL_NODE)


class KeeperProcess:
    """The process that keeps a cluster, and the pipe that ties the cluster to this process.

    Args:
        options: what kind of cluster.
    """

    def __init__(self, options: Options) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.cluster.keeper", options.to_json()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=REPOSITORY,
            text=True,
            start_new_session=True,  # Ctrl-C is for this process, which then takes the cluster down in order
        )

    @property
    def process_id(self) -> int:
        """The keeper's process."""
        return self._process.pid

    def answer(self) -> dict[str, Any]:
        """The next answer of the keeper.

        Raises:
            ClusterError: it could not do what was asked.
        """
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise ClusterError("the keeper", "it ended without an answer", "Read what it wrote above")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise ClusterError(*answer["error"])
        return answer

    def ask(self, command: str) -> dict[str, Any]:
        """Have a command done."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{command}\n")
        self._process.stdin.flush()
        return self.answer()

    def release(self) -> None:
        """Let go of a detached keeper."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()

    def stop(self) -> None:
        """Take the cluster down and wait for that.

        Raises:
            ClusterError: a program of it had ended early.
        """
        farewell, _ = self._process.communicate(f"{DOWN}\n")
        problems = json.loads(farewell.splitlines()[-1]).get("problems") if farewell else None
        if problems:
            raise ClusterError("the test cluster", "; ".join(problems), "Look for what ended it")


@contextlib.contextmanager
def running_cluster(options: Options | None = None) -> Iterator[Cluster]:
    """A cluster of our own, which is gone when the block ends or this process does.

    Args:
        options: what kind of cluster; a small one by default.

    Raises:
        UnavailableError: there is no Go to build it with.
        ClusterError: it does not come up.
    """
    build_programs(CONTROL_PLANE)
    keeper = KeeperProcess(options or Options())
    try:
        folder = Path(keeper.answer()["folder"])
        yield replace(Cluster.at(folder), keeper=keeper)
    finally:
        keeper.stop()


def start_detached(options: Options) -> Cluster:
    """A cluster that stays up when this process ends, until its keeper gets a SIGTERM.

    Raises:
        UnavailableError: there is no Go to build it with.
        ClusterError: it does not come up.
    """
    build_programs(CONTROL_PLANE)
    if options.real_node:
        prepare_real_node()
    keeper = KeeperProcess(replace(options, detached=True))
    cluster = Cluster.at(Path(keeper.answer()["folder"]))
    keeper.release()
    return cluster
