"""From watch events and lists to the store and the queue: nothing is decided here."""

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from trainyard_api.errors import ConfigurationError
from trainyard_api.names import FIELD_MANAGER, Label
from trainyard_operator.cluster import (
    CONFIG_MAPS,
    JOBS,
    PODS,
    RUNS,
    SERVICES,
    Cluster,
    Object,
    Resource,
)
from trainyard_operator.errors import ClusterError
from trainyard_operator.keys import RunKey
from trainyard_operator.observe import (
    ObservedRun,
    observe_job,
    observe_object,
    observe_pod,
    observe_run,
)
from trainyard_operator.store import Child, Store
from trainyard_operator.work_queue import WorkQueue

Observed = TypeVar("Observed")

LOGGER = logging.getLogger(__name__)

RETRY_BASE_SECONDS = 0.2
RETRY_CAP_SECONDS = 15.0

CHILD_SELECTOR = f"{Label.MANAGED_BY}={FIELD_MANAGER}"


class Intake:
    """Takes in what the API server tells.

    Args:
        store: gets it.
        queue: gets the runs that it is about.
        clock: Unix time in seconds.
    """

    def __init__(self, store: Store, queue: WorkQueue[RunKey], clock: Callable[[], float]) -> None:
        self._store = store
        self._queue = queue
        self._clock = clock

    def run_event(self, kind: str | None, raw: Object) -> None:
        """A TrainingRun was added, changed or deleted; `kind` is None when it was listed."""
        if kind != "DELETED" and self._store.has_run(raw["metadata"]):
            return  # mostly what the operator wrote itself, whose answer was read already
        run = self._run(raw)
        if run is not None:
            self._queue_all(
                self._store.remove_run(run.key) if kind == "DELETED" else self._store.put_run(run)
            )

    def pod_event(self, kind: str | None, raw: Object) -> None:
        """The same for a pod."""
        pod = observe_pod(raw, self._clock())
        if pod is not None:
            now = self._clock()
            self._queue_all(
                self._store.remove_pod(pod, now) if kind == "DELETED" else self._store.put_pod(pod)
            )

    def job_event(self, kind: str | None, raw: Object) -> None:
        """The same for a Job."""
        job = observe_job(raw)
        if job is not None:
            self._queue_all(self._store.remove_job(job) if kind == "DELETED" else self._store.put_job(job))

    def object_event(self, kind: str | None, raw: Object) -> None:
        """The same for a Service or a ConfigMap, of which the metadata is enough."""
        seen = observe_object(raw)
        if seen is not None:
            self._queue_all(
                self._store.remove_object(seen) if kind == "DELETED" else self._store.put_object(seen)
            )

    async def resync(self, cluster: Cluster, namespaces: Sequence[str]) -> None:
        """Compare everything with the API server; finds what watches lost, above all deletions.

        Args:
            cluster: the API server.
            namespaces: those that are served; all when empty.

        Raises:
            ClusterError: a list could not be had; nothing is compared then.
        """
        before = self._store.versions()
        runs: list[ObservedRun] = []
        children: list[Child] = []
        now = self._clock()
        for namespace in namespaces or (None,):
            runs += await _listed(cluster, RUNS, namespace, "", self._run)
            children += await _listed(
                cluster, PODS, namespace, CHILD_SELECTOR, lambda raw: observe_pod(raw, now)
            )
            children += await _listed(cluster, JOBS, namespace, CHILD_SELECTOR, observe_job)
            children += await _listed(cluster, SERVICES, namespace, CHILD_SELECTOR, observe_object)
            children += await _listed(cluster, CONFIG_MAPS, namespace, CHILD_SELECTOR, observe_object)
        self._queue_all(self._store.compare(runs, children, before, now))

    async def resync_until_done(self, cluster: Cluster, namespaces: Sequence[str]) -> None:
        """The same, again and again until it works: nothing may be decided from half a picture."""
        delay = RETRY_BASE_SECONDS
        while True:
            try:
                await self.resync(cluster, namespaces)
            except ClusterError as error:
                LOGGER.warning("The lists could not be had: %s; again in %.1f s", error, delay)
                await asyncio.sleep(delay)
                delay = min(2.0 * delay, RETRY_CAP_SECONDS)
            else:
                return

    def queue_everything(self) -> None:
        """Have every run looked at."""
        self._queue_all(self._store.all_keys())

    def _run(self, raw: Object) -> ObservedRun | None:
        """A run; None for one whose status is broken, which is left alone."""
        try:
            return observe_run(raw)
        except ConfigurationError as error:
            metadata = raw["metadata"]
            LOGGER.error("%s/%s is left alone: %s", metadata["namespace"], metadata["name"], error)  # noqa: TRY400 - the message says it all
            return None

    def _queue_all(self, keys: Iterable[RunKey]) -> None:
        for key in keys:
            self._queue.add(key)


async def _listed(
    cluster: Cluster,
    resource: Resource,
    namespace: str | None,
    selector: str,
    observe: Callable[[Object], Observed | None],
) -> list[Observed]:
    """What is kept of all objects of a kind; the objects themselves go page by page."""
    found = []
    async for page in cluster.pages(resource, namespace, selector):
        found += [seen for raw in page if (seen := observe(raw)) is not None]
    return found
