"""How pods learn whom to trust: a ConfigMap with the authorities of all replicas, copied to where runs are.

Each replica adds its authority to the ConfigMap of the operator's namespace when it starts, long before it
may lead. The leader copies the bundle into the namespaces of runs, where pods mount it. So pods trust a new
leader from its first moment. What is published is public: certificates without keys. Authorities of dead
replicas do no harm, since nobody has their keys; the newest MAXIMUM_AUTHORITIES are kept.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Protocol

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from trainyard_operator.cluster import CONFIG_MAPS, Resource
from trainyard_operator.errors import AlreadyExistsError, ClusterError, ConflictError, NotFoundError

MAXIMUM_AUTHORITIES = 8
BUNDLE_KEY = "ca.crt"
PUBLISH_ATTEMPTS = 10
CHECK_SECONDS = 300.0
"""How long a namespace is trusted to hold what was copied there."""
MANAGED_BY_LABEL = {"app.kubernetes.io/managed-by": "trainyard"}

Object = dict[str, Any]
logger = logging.getLogger(__name__)


class ConfigMaps(Protocol):
    """What is asked of the API server; `trainyard_operator.cluster.Cluster` does it."""

    async def get(self, resource: Resource, namespace: str, name: str) -> Object:
        """An object; NotFoundError when it is not there."""
        ...

    async def create(self, resource: Resource, namespace: str, body: Object) -> Object:
        """Create an object; AlreadyExistsError when one of its name is there."""
        ...

    async def replace(self, resource: Resource, namespace: str, body: Object) -> Object:
        """Replace an object; ConflictError when it has changed since."""
        ...


def merged_bundle(bundle: str, authority: str, now: float) -> str:
    """A bundle with an authority in it, without those that have ended and the oldest of too many.

    Args:
        bundle: certificates as PEM.
        authority: certificate as PEM.
        now: Unix time in seconds.
    """
    known = {certificate.fingerprint(hashes.SHA256()): certificate for certificate in _certificates(bundle)}
    own = x509.load_pem_x509_certificate(authority.encode())
    known.pop(own.fingerprint(hashes.SHA256()), None)
    others = sorted(
        (certificate for certificate in known.values() if certificate.not_valid_after_utc.timestamp() > now),
        key=lambda certificate: (certificate.not_valid_before_utc, certificate.serial_number),
    )
    kept = [*others[-(MAXIMUM_AUTHORITIES - 1) :], own]
    kept.sort(key=lambda certificate: (certificate.not_valid_before_utc, certificate.serial_number))
    return "".join(certificate.public_bytes(serialization.Encoding.PEM).decode() for certificate in kept)


def config_map(namespace: str, name: str, bundle: str) -> Object:
    """The ConfigMap of a bundle."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": namespace, "labels": dict(MANAGED_BY_LABEL)},
        "data": {BUNDLE_KEY: bundle},
    }


class BundlePublisher:
    """Keeps the bundle, in the operator's namespace and in those of runs.

    Args:
        config_maps: the API server, also for followers: publishing the own authority is the one thing that
            a replica writes before it leads.
        fenced: the API server for what only the leader may write.
        namespace: the operator's namespace.
        name: name of the ConfigMap, the same everywhere.
        clock: Unix time in seconds.
    """

    def __init__(
        self,
        config_maps: ConfigMaps,
        fenced: ConfigMaps,
        *,
        namespace: str,
        name: str,
        clock: Callable[[], float],
    ) -> None:
        self._config_maps = config_maps
        self._fenced = fenced
        self._namespace = namespace
        self._name = name
        self._clock = clock
        self._checked_at: dict[str, float] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self.bundle = ""
        """The bundle as last seen or written."""

    async def publish(self, authority: str) -> None:
        """Add the own authority and learn of those of the other replicas; writes only when it is missing.

        Raises:
            ClusterError: the API server does not let us, or the ConfigMap changes all the time.
        """
        for _ in range(PUBLISH_ATTEMPTS - 1):
            try:
                await self._publish_once(authority)
            except (ConflictError, AlreadyExistsError, NotFoundError) as error:
                # Another replica was faster: read what it wrote.
                logger.debug("The bundle of authorities changed meanwhile: %s", error)
            else:
                return
        await self._publish_once(authority)

    async def _publish_once(self, authority: str) -> None:
        try:
            found = await self._config_maps.get(CONFIG_MAPS, self._namespace, self._name)
        except NotFoundError:
            bundle = merged_bundle("", authority, self._clock())
            await self._config_maps.create(
                CONFIG_MAPS, self._namespace, config_map(self._namespace, self._name, bundle)
            )
        else:
            existing = (found.get("data") or {}).get(BUNDLE_KEY, "")
            bundle = merged_bundle(existing, authority, self._clock())
            if bundle != existing:
                await self._config_maps.replace(CONFIG_MAPS, self._namespace, _with_bundle(found, bundle))
        self._take(bundle)

    def use(self, bundle: str) -> None:
        """Publish this to runs: the authority of a certificate that somebody else keeps."""
        self._take(bundle)

    def _take(self, bundle: str) -> None:
        if bundle != self.bundle:
            self._checked_at = dict.fromkeys(self._checked_at, float("-inf"))
        self.bundle = bundle

    async def ensure(self, namespace: str) -> None:
        """Make sure that a namespace has the bundle before pods are made there; mostly a look in memory.

        Raises:
            ClusterError: the API server does not let us.
            NotLeadingError: another replica leads.
        """
        # The runs of a burst come at once: the first looks, the others wait for what it finds.
        async with self._locks.setdefault(namespace, asyncio.Lock()):
            if self._clock() - self._checked_at.get(namespace, float("-inf")) >= CHECK_SECONDS:
                await self._copy_to(namespace)

    async def _copy_to(self, namespace: str) -> None:
        """See `ensure`; asks the API server."""
        try:
            found = await self._fenced.get(CONFIG_MAPS, namespace, self._name)
        except NotFoundError:
            body = config_map(namespace, self._name, self.bundle)
            await self._fenced.create(CONFIG_MAPS, namespace, body)
        else:
            if (found.get("data") or {}).get(BUNDLE_KEY) != self.bundle:
                await self._fenced.replace(CONFIG_MAPS, namespace, _with_bundle(found, self.bundle))
        self._checked_at[namespace] = self._clock()

    def forget(self, namespace: str) -> None:
        """Drop a namespace that is gone."""
        self._checked_at.pop(namespace, None)
        self._locks.pop(namespace, None)

    async def ensure_everywhere(self) -> None:
        """Copy a changed bundle to all namespaces that have had runs, however many of them refuse it.

        Raises:
            ClusterError: the API server does not let us, in the first such namespace.
            NotLeadingError: another replica leads.
        """
        errors: list[ClusterError] = []
        for namespace in list(self._checked_at):
            try:
                await self.ensure(namespace)
            except NotFoundError:
                self.forget(namespace)
            except ClusterError as error:
                errors.append(error)
        for refusal in errors:
            raise refusal


def _with_bundle(found: Object, bundle: str) -> Object:
    """The ConfigMap with another bundle; its resourceVersion makes the API server refuse a lost update."""
    return {
        **found,
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "data": {**(found.get("data") or {}), BUNDLE_KEY: bundle},
    }


def _certificates(bundle: str) -> list[x509.Certificate]:
    """The certificates of a bundle; one that somebody has spoilt counts as empty and is written anew."""
    try:
        return x509.load_pem_x509_certificates(bundle.encode()) if bundle.strip() else []
    except ValueError:
        logger.warning("The bundle of authorities is unreadable and is written anew")
        return []
