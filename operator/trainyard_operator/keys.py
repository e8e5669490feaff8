"""Identities inside the operator."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class RunKey:
    """One TrainingRun; a run that was deleted and created again under its name is another one."""

    namespace: str
    """Namespace of the run."""
    name: str
    """Name of the run."""
    uid: str
    """UID that the API server gave it."""

    def __str__(self) -> str:
        """Namespace and name, as people write them."""
        return f"{self.namespace}/{self.name}"
