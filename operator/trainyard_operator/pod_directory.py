"""Whose pod posts progress, by what the operator has seen."""

from trainyard_operator.authentication import PodIdentity
from trainyard_operator.keys import RunKey
from trainyard_operator.progress_server import PodOwner
from trainyard_operator.store import Store


class ObservedPods:
    """Looks pods up in the store: one that was deleted may post no more, whatever its token says.

    Args:
        store: everything that was seen.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def owner_of(self, identity: PodIdentity) -> PodOwner | None:
        """The run and attempt of a pod that exists; None when it does not, or belongs to no run."""
        key = self._store.run_of_pod(identity.namespace, identity.pod_name, identity.pod_uid)
        if key is None:
            return None
        attempts = (pod.attempt for pod in self._store.pods(key) if pod.uid == identity.pod_uid)
        attempt = next(attempts, None)
        return None if attempt is None else PodOwner(key, attempt)

    def knows(self, key: RunKey) -> bool:
        """Whether the run exists."""
        return self._store.run(key) is not None
