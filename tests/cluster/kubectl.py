"""kubectl as tests use it."""

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tests.cluster.recipes import program_path

_TIMEOUT_SECONDS = 240


class KubectlError(AssertionError):
    """A command of kubectl failed, with what it said; a failure of the test that gave it."""


@dataclass(frozen=True, slots=True)
class Kubectl:
    """Commands of kubectl against one cluster.

    Args:
        kubeconfig: the cluster and the user.
        namespace: namespace of the commands; the kubeconfig's own when empty.
        user: user to act for, such as system:serviceaccount:trainyard:operator.
        cache: folder of what kubectl learnt of the cluster; in the home folder when None, where it would be
            found again by a new cluster at the same port.
    """

    kubeconfig: Path
    namespace: str = ""
    user: str = ""
    cache: Path | None = None

    def attempt(
        self, *arguments: str, documents: object = None, timeout_seconds: float = _TIMEOUT_SECONDS
    ) -> subprocess.CompletedProcess[str]:
        """Run a command, whatever comes of it.

        Args:
            arguments: the command; with `-f -` it reads `documents`.
            documents: text, an object, or a list of objects.
            timeout_seconds: after how long it is killed.
        """
        command = [_program(), f"--kubeconfig={self.kubeconfig}"]
        if self.namespace:
            command.append(f"--namespace={self.namespace}")
        if self.user:
            command.append(f"--as={self.user}")
        if self.cache is not None:
            command.append(f"--cache-dir={self.cache}")
        return subprocess.run(
            [*command, *arguments],
            input=_as_text(documents),
            stdin=subprocess.DEVNULL if documents is None else None,
            capture_output=True,
            text=True,
            timeout=timeout_seconds,
            env={**os.environ, "NO_COLOR": "1"},
            check=False,
        )

    def run(
        self, *arguments: str, documents: object = None, timeout_seconds: float = _TIMEOUT_SECONDS
    ) -> str:
        """Run a command that must succeed, and return what it printed.

        Raises:
            KubectlError: it failed.
        """
        done = self.attempt(*arguments, documents=documents, timeout_seconds=timeout_seconds)
        if done.returncode != 0:
            raise KubectlError(f"kubectl {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout

    def apply(self, documents: object, *arguments: str) -> str:
        """Apply text, an object, or a list of objects."""
        return self.run("apply", "-f", "-", *arguments, documents=documents)

    def get(self, *arguments: str) -> dict[str, Any]:
        """Get an object, or a List of them."""
        document: dict[str, Any] = json.loads(self.run("get", *arguments, "--output=json"))
        return document

    def list(self, kind: str, *arguments: str) -> list[dict[str, Any]]:
        """Get the objects of a kind."""
        items: list[dict[str, Any]] = self.get(kind, *arguments)["items"]
        return items

    def raw(self, path: str) -> dict[str, Any]:
        """Get a path of the API server."""
        document: dict[str, Any] = json.loads(self.run("get", "--raw", path))
        return document

    def wait(self, condition: str, *what: str, timeout_seconds: int = 150) -> None:
        """Wait for a condition, such as `condition=Ready`, `delete` or `jsonpath=...`."""
        limit = f"--timeout={timeout_seconds}s"
        self.run("wait", f"--for={condition}", limit, *what, timeout_seconds=timeout_seconds + 10)

    def in_namespace(self, namespace: str) -> "Kubectl":
        """The same in another namespace."""
        return replace(self, namespace=namespace)

    def as_user(self, user: str) -> "Kubectl":
        """The same for another user."""
        return replace(self, user=user)


def _program() -> str:
    """The kubectl that is built with the cluster, or where there is none, the one of this machine."""
    built = program_path("kubectl")
    found = None if built.is_file() else shutil.which("kubectl")
    return found or str(built)


def _as_text(documents: object) -> str | None:
    if documents is None or isinstance(documents, str):
        return documents
    if isinstance(documents, Mapping):
        return json.dumps(documents)
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": documents})
