"""The progress endpoint as the operator runs it: certificates, server, and the address that pods reach it by.

Every replica listens, and only the leader can use what it hears. So the leader writes its own address into
the EndpointSlice of the endpoint's Service, which has no selector: pods reach the leader and nobody else,
whatever the readiness of the other replicas, and a takeover moves them by one write. ADR 8 has the
alternatives.
"""

import asyncio
import ipaddress
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from trainyard_operator.certificate_bundle import (
    MANAGED_BY_LABEL,
    BundlePublisher,
    ConfigMaps,
)
from trainyard_operator.certificates import CertificateFiles, ServingCertificate
from trainyard_operator.cluster import Resource
from trainyard_operator.errors import ClusterError, NotLeadingError
from trainyard_operator.progress_server import ProgressEndpoint, ProgressServer

ENDPOINT_SLICES = Resource("discovery.k8s.io/v1", "endpointslices")
PORT_NAME = "progress"
REFRESH_SECONDS = 60.0
"""Seconds between two looks at certificate files, at the own certificate's age and at the bundle."""

Object = dict[str, Any]
logger = logging.getLogger(__name__)


class ServiceCluster(ConfigMaps, Protocol):
    """What is asked of the API server; `trainyard_operator.cluster.Cluster` does it."""

    async def apply(self, resource: Resource, namespace: str, body: Object) -> Object:
        """Create an object or bring its fields to these values."""
        ...


@dataclass(frozen=True)
class ProgressAddress:
    """Where the endpoint is."""

    namespace: str
    """The operator's namespace."""
    service: str
    """Name of its Service, which has no selector."""
    pod_address: str
    """Address of this replica, as pods reach it."""
    host: str = ""
    """Address to listen on; empty for all."""
    port: int = 8443
    """Port to listen on."""
    cluster_domain: str = "cluster.local"
    """DNS domain of the cluster."""
    ca_config_map: str = "trainyard-progress-ca"
    """Name of the ConfigMaps with the authorities."""

    @property
    def names(self) -> tuple[str, ...]:
        """What the certificate is for."""
        service = f"{self.service}.{self.namespace}.svc"
        return (
            service,
            f"{service}.{self.cluster_domain}",
            f"{self.service}.{self.namespace}",
            self.pod_address,
        )


def build_endpoint_slice(address: ProgressAddress, port: int) -> Object:
    """The EndpointSlice that sends the Service's clients to this replica."""
    version = ipaddress.ip_address(address.pod_address).version
    return {
        "apiVersion": ENDPOINT_SLICES.api_version,
        "kind": "EndpointSlice",
        "metadata": {
            "name": f"{address.service}-leader",
            "namespace": address.namespace,
            "labels": {
                **MANAGED_BY_LABEL,
                "kubernetes.io/service-name": address.service,
                "endpointslice.kubernetes.io/managed-by": "trainyard",
            },
        },
        "addressType": f"IPv{version}",
        "endpoints": [{"addresses": [address.pod_address], "conditions": {"ready": True}}],
        "ports": [{"name": PORT_NAME, "port": port, "protocol": "TCP"}],
    }


class ProgressService:
    """Starts and keeps everything that pods need to report.

    Args:
        address: where it is.
        endpoint: answers the POSTs.
        cluster: the API server, also for followers, see BundlePublisher.
        fenced: the API server for what only the leader may write.
        clock: Unix time in seconds.
        files: a certificate that somebody else keeps; None makes one.
        on_expiry: told when the certificate ends, in Unix time, at each refresh.

    Raises:
        OSError: a certificate file cannot be read.
        ssl.SSLError: a certificate file is none.
    """

    def __init__(  # noqa: PLR0913 - its collaborators
        self,
        address: ProgressAddress,
        endpoint: ProgressEndpoint,
        cluster: ServiceCluster,
        fenced: ServiceCluster,
        *,
        clock: Callable[[], float],
        files: CertificateFiles | None = None,
        on_expiry: Callable[[float], None] | None = None,
    ) -> None:
        self._on_expiry = on_expiry
        self._address = address
        self._fenced = fenced
        self.certificate = ServingCertificate(address.names, clock, files)
        self.server = ProgressServer(endpoint, self.certificate.context, address.host, address.port)
        self.bundle = BundlePublisher(
            cluster, fenced, namespace=address.namespace, name=address.ca_config_map, clock=clock
        )
        self._keeper: asyncio.Task[None] | None = None
        self._is_leading = False

    async def start(self) -> None:
        """Publish the authority and listen.

        Raises:
            OSError: the port is in use.
        """
        await self.server.start()
        try:
            await self.refresh()
        except ClusterError as error:
            # Without the bundle pods cannot report, but runs go on; the keeper tries again.
            logger.warning("The authority of the progress endpoint is not published yet: %s", error)
        self._keeper = asyncio.create_task(self._keep(), name="progress-keeper")

    async def stop(self) -> None:
        """Stop listening."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        await self.server.stop()

    async def lead(self) -> None:
        """Send pods here, as this replica leads now.

        Raises:
            ClusterError: the API server does not let us.
            NotLeadingError: this replica leads no more.
        """
        self._is_leading = True
        await self._fenced.apply(
            ENDPOINT_SLICES, self._address.namespace, build_endpoint_slice(self._address, self.server.port)
        )

    def follow(self) -> None:
        """Stop copying the bundle, as another replica leads."""
        self._is_leading = False

    async def refresh(self) -> None:
        """Renew what is old: the certificate, the bundle, and its copies.

        Raises:
            ClusterError: the API server does not let us.
            NotLeadingError: this replica leads no more.
            OSError: a certificate file cannot be read.
        """
        self.certificate.refresh()
        if self._on_expiry is not None:
            self._on_expiry(self.certificate.expires_at)
        if self.certificate.is_own:
            await self.bundle.publish(self.certificate.authority_pem)
        else:
            self.bundle.use(self.certificate.authority_pem)
        if self._is_leading:
            await self.bundle.ensure_everywhere()

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(REFRESH_SECONDS)
            try:
                await self.refresh()
            except (ClusterError, NotLeadingError, OSError) as error:
                logger.warning(
                    "The progress endpoint could not be refreshed, next try in a minute: %s", error
                )
