"""Where the parts of one cluster's state lie."""

from dataclasses import dataclass
from pathlib import Path

from tests.cluster.kubectl import Kubectl


@dataclass(frozen=True, slots=True)
class State:
    """Where the parts of a cluster's state lie."""

    folder: Path

    @property
    def pki(self) -> Path:
        """Keys and certificates."""
        return self.folder / "pki"

    @property
    def logs(self) -> Path:
        """A log file of each program."""
        return self.folder / "logs"

    @property
    def audit_log(self) -> Path:
        """The API server's record of writes, a JSON document a line."""
        return self.logs / "audit.jsonl"

    def kubeconfig(self, identity: str) -> Path:
        """The kubeconfig of an identity."""
        return self.folder / f"{identity}.kubeconfig"

    def kubectl(self) -> Kubectl:
        """kubectl as the administrator."""
        return Kubectl(self.kubeconfig("admin"), cache=self.folder / "kubectl-cache")
