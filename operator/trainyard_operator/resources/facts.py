"""What the operator knows and a TrainingRun does not say: who owns the children, and its settings."""

from dataclasses import dataclass
from typing import Any

Object = dict[str, Any]
"""A Kubernetes object as the API takes it; builders share parts among their results, so treat it as
frozen."""


@dataclass(frozen=True, slots=True)
class Owner:
    """The TrainingRun that its children point to."""

    name: str
    """Its name."""
    namespace: str
    """Its namespace, and its children's."""
    uid: str
    """Its UID: names are made of it, so that a later run of the same name never meets these children."""


@dataclass(frozen=True, slots=True)
class WorkerDefaults:
    """Settings of the operator that shape worker pods."""

    image: str
    """Image of the workers where the run names none."""
    default_claim_name: str
    """PersistentVolumeClaim of the run's namespace where the run names none."""
    progress_url: str
    """Scheme, host and port of the operator's progress server."""
    ca_config_map: str
    """ConfigMap of the run's namespace with the authority of that server under `ca.crt`; pods start without
    it, and report once it is there."""
    cluster_domain: str = ""
    """Ends rank 0's host name; when empty, the resolver's search list completes it, in every domain."""
    termination_grace_seconds: int = 120
    """How long a pod may save a checkpoint after SIGTERM."""
    python: str = "python"
    """Interpreter of the image."""
    user_id: int = 65532
    """User, group and file-system group of the processes; not root."""
