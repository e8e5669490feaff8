"""The operator as a whole: what it is made of, and how it starts, leads, hands over and stops."""

import asyncio
import logging
import time
from collections.abc import Callable
from pathlib import Path

from trainyard_operator.act import Actor
from trainyard_operator.authentication import Authenticator
from trainyard_operator.certificates import CertificateFiles
from trainyard_operator.cluster import KubernetesCluster, connect
from trainyard_operator.controller import Controller
from trainyard_operator.errors import ClusterError, NotLeadingError
from trainyard_operator.gather import Gatherer
from trainyard_operator.handlers import WATCHED, build_registry, watch_settings
from trainyard_operator.intake import Intake
from trainyard_operator.keys import RunKey
from trainyard_operator.leases import AlwaysLeading, Leadership
from trainyard_operator.metrics import OperatorMetrics
from trainyard_operator.metrics_server import MetricsServer
from trainyard_operator.pod_directory import ObservedPods
from trainyard_operator.progress_server import ProgressEndpoint
from trainyard_operator.progress_service import ProgressAddress, ProgressService
from trainyard_operator.progress_store import ProgressStore
from trainyard_operator.reconcile import Listeners, Reconciler
from trainyard_operator.resources import WorkerDefaults
from trainyard_operator.resync import Resync
from trainyard_operator.settings import Settings
from trainyard_operator.steps import StepWatch
from trainyard_operator.store import Store
from trainyard_operator.watches import Watches
from trainyard_operator.work_queue import WorkQueue

LOGGER = logging.getLogger(__name__)


async def run_operator(settings: Settings, stop: asyncio.Event, install_signals: Callable[[], None]) -> None:
    """Run the operator until it is told to stop.

    Args:
        settings: the settings.
        stop: set to stop it.
        install_signals: puts the handlers in place that set it; called again when kopf has replaced them.

    Raises:
        ClusterError: there are no credentials for a cluster.
        OSError: a port is in use.
    """
    progress = ProgressStore()
    metrics = OperatorMetrics(progress)
    cluster = await connect(settings, metrics.observe_api_request)
    application = Application(settings, cluster, progress, metrics, install_signals)
    try:
        await application.run(stop)
    finally:
        await cluster.close()


class Application:
    """One replica.

    Args:
        settings: the settings.
        cluster: the API server, without a fence.
        progress: what processes told.
        metrics: what /metrics shows.
        install_signals: puts the handlers of SIGTERM and SIGINT in place.
    """

    def __init__(
        self,
        settings: Settings,
        cluster: KubernetesCluster,
        progress: ProgressStore,
        metrics: OperatorMetrics,
        install_signals: Callable[[], None],
    ) -> None:
        self.settings = settings
        self.metrics = metrics
        self.progress = progress
        self.store = Store()
        self.steps = StepWatch()
        self.queue: WorkQueue[RunKey] = WorkQueue(metrics.set_queue_depth, metrics.observe_queue_wait)
        self.leadership = (
            Leadership(cluster.urgent(), settings, time.monotonic, time.time)
            if settings.leader_election
            else AlwaysLeading()
        )
        self.intake = Intake(self.store, self.queue, time.time)
        self.resync = Resync(self.intake, cluster, settings.namespaces, settings.resync_seconds)
        self.is_acting = False
        """Whether this replica leads and has seen everything since it began to."""
        fenced = cluster.fenced(self.leadership.check)
        self.progress_service = self._progress_service(cluster, fenced)
        self.reconciler = self._reconciler(fenced)
        self.controller = Controller(
            self.queue, self.reconciler, self._may_act, metrics.observe_reconcile, metrics.set_workers
        )
        self.watches = Watches(
            WATCHED,
            lambda login: build_registry(self.intake, metrics.watch_told, login),
            lambda: watch_settings(settings),
            settings.namespaces,
            self._watch_answered,
            install_signals,
        )
        self._group = asyncio.TaskGroup()
        self._taking_over: asyncio.Task[None] | None = None

    async def run(self, stop: asyncio.Event) -> None:
        """Run until told to stop: give the lease back first, so that another replica acts at once."""
        server = MetricsServer(
            self.metrics.registry,
            liveness={},
            readiness={"lists": lambda: None if self.resync.is_done_once else "nothing was listed yet"},
            host="",
            port=self.settings.metrics_port,
        )
        await server.start()
        if self.progress_service is not None:
            await self.progress_service.start()
        working = asyncio.create_task(self._work(), name="work")
        leading = asyncio.create_task(self._lead(), name="leadership")
        stopping = asyncio.create_task(_wait_for(stop), name="stop")
        tasks = (leading, working, stopping)
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
            await asyncio.wait({task})
        if self.progress_service is not None:
            await self.progress_service.stop()
        await server.stop()
        for task in done:
            task.result()

    async def _work(self) -> None:
        """Everything but the lease."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            await self.resync.now()
            group.create_task(self.watches.run())
            group.create_task(self.resync.run())
            group.create_task(self.controller.run(self.settings.workers))

    async def _lead(self) -> None:
        await self.leadership.run(self._start_leading, self._stop_leading)

    async def _start_leading(self) -> None:
        """Take over, beside the renewals of the lease; a leader that fails at it must not stay in office."""
        self.metrics.set_leader(is_leader=True)
        self._taking_over = self._group.create_task(self._take_over(), name="take over")

    async def _take_over(self) -> None:
        """See everything as it is now, and only then act: what watches told so far may be late."""
        await self.resync.now()
        self.is_acting = True
        self.intake.queue_everything()
        while self.progress_service is not None:
            try:
                await self.progress_service.lead()
            except ClusterError as error:
                LOGGER.warning("Pods cannot reach the progress endpoint yet: %s", error)
                await asyncio.sleep(self.settings.lease_retry_seconds)
            except NotLeadingError:
                return
            else:
                return

    async def _stop_leading(self) -> None:
        """Leave everything to another replica."""
        self.is_acting = False
        self.metrics.set_leader(is_leader=False)
        if self._taking_over is not None:
            self._taking_over.cancel()
        if self.progress_service is not None:
            self.progress_service.follow()
        for key in self.store.all_keys():
            self.metrics.forget_run(key)

    def _may_act(self) -> bool:
        return self.is_acting and self.leadership.is_leading()

    def _watch_answered(self, plural: str, is_list: bool) -> None:
        """A watch is open; after a list, deletions may be lost."""
        self.metrics.watch_told(plural)
        if is_list:
            self.resync.request()

    def _progress_told(self, key: RunKey) -> None:
        """The processes of a run told something."""
        received = self.progress.newest(key)
        run = self.store.run(key)
        if run is not None:
            self.steps.recall(run)
        if received is not None:
            self.steps.record(key, received.report, received.received_at)
        self.reconciler.progress_changed(key)

    def _reconciler(self, fenced: KubernetesCluster) -> Reconciler:
        """What makes passes, behind the fence."""
        settings = self.settings
        defaults = WorkerDefaults(
            image=settings.worker_image,
            default_claim_name=settings.default_claim_name,
            progress_url=settings.progress_url,
            ca_config_map=settings.ca_config_map,
            cluster_domain=settings.cluster_domain,
            termination_grace_seconds=settings.termination_grace_seconds,
        )
        gatherer = Gatherer(
            store=self.store,
            cluster=fenced,
            progress=self.progress,
            steps=self.steps,
            defaults=defaults,
            clock=time.time,
        )
        before_pods = None if self.progress_service is None else self.progress_service.bundle.ensure
        actor = Actor(fenced, self.store, defaults, time.time, before_pods)
        self.progress.on_change = self._progress_told
        return Reconciler(
            cluster=fenced,
            store=self.store,
            queue=self.queue,
            gatherer=gatherer,
            actor=actor,
            listeners=Listeners(
                on_status=[self.metrics.set_run],
                on_gone=[self.metrics.forget_run, self.progress.forget, self.steps.forget],
            ),
            settings=settings,
            clock=time.time,
        )

    def _progress_service(
        self, cluster: KubernetesCluster, fenced: KubernetesCluster
    ) -> ProgressService | None:
        """What takes progress; followers publish their certificate authority, too."""
        settings = self.settings
        if not settings.pod_address:
            LOGGER.warning("TRAINYARD_POD_ADDRESS is not set, so runs cannot report their progress")
            return None
        endpoint = ProgressEndpoint(
            store=self.progress,
            directory=ObservedPods(self.store),
            authenticator=Authenticator(cluster, time.time, self.metrics.observe_token_review),
            is_leading=self._may_act,
            observe=self.metrics.observe_progress_post,
        )
        address = ProgressAddress(
            namespace=settings.operator_namespace,
            service=settings.progress_service,
            pod_address=settings.pod_address,
            port=settings.progress_port,
            cluster_domain=settings.cluster_domain,
            ca_config_map=settings.ca_config_map,
        )
        files = (
            CertificateFiles(
                Path(settings.certificate_file),
                Path(settings.certificate_key_file),
                Path(settings.certificate_authority_file),
            )
            if settings.certificate_file
            else None
        )
        return ProgressService(address, endpoint, cluster, fenced, clock=time.time, files=files)


async def _wait_for(stop: asyncio.Event) -> None:
    """Return when told to stop."""
    await stop.wait()
