"""Which replica acts: a Lease that one holds, renews and gives back, and the fence in front of the others.

Times on other machines are not trusted: a replica takes a lease over when it has not seen it change for the
lease's duration, by its own clock. The holder stops acting some time before that, counted from the start of
its last successful renewal, so that two never act at once however late an answer comes.

A takeover comes at the latest one look (`lease_retry_seconds`) and one duration after the holder's death: the
last renewal may be seen one look late, and from then on the end of the lease is waited for to the moment.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

from trainyard_operator.cluster import LEASES, Cluster, Object
from trainyard_operator.errors import (
    AlreadyExistsError,
    ClusterError,
    ConflictError,
    NotFoundError,
    NotLeadingError,
)
from trainyard_operator.settings import Settings

LOGGER = logging.getLogger(__name__)


class Leadership:
    """Whether this replica may act, and the loop that sees to it.

    Args:
        cluster: the API server; leases are not behind the fence, nor behind what others wait for.
        settings: names and times.
        clock: seconds that never jump, such as time.monotonic.
        wall_clock: Unix time in seconds, for people who read the lease.
    """

    def __init__(
        self,
        cluster: Cluster,
        settings: Settings,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
    ) -> None:
        self._cluster = cluster
        self._settings = settings
        self._clock = clock
        self._wall_clock = wall_clock
        self._holds_until = float("-inf")
        self._own: Object | None = None
        self._seen: tuple[str, str] | None = None
        self._free_at = float("inf")

    def is_leading(self) -> bool:
        """Whether this replica may act now."""
        return self._clock() < self._holds_until

    def check(self) -> None:
        """The fence in front of each write.

        Raises:
            NotLeadingError: this replica may not write.
        """
        if not self.is_leading():
            raise NotLeadingError("this replica does not lead")

    async def run(
        self, on_started: Callable[[], Awaitable[None]], on_stopped: Callable[[], Awaitable[None]]
    ) -> None:
        """Try to hold the lease until cancelled; then give it back.

        A renewal that came late, after this replica had stopped acting for a while, counts as an end and a
        new beginning: what was to be done meanwhile was dropped.

        Args:
            on_started: called when this replica begins to lead.
            on_stopped: called when it no longer does.
        """
        was_leading = False
        try:
            while True:
                asked_at, held_until = self._clock(), self._holds_until
                await self.try_once()
                if was_leading and self.is_leading() and self._clock() >= held_until:
                    LOGGER.warning("%s renewed its lease late and takes over again", self._settings.identity)
                    await on_stopped()
                    await on_started()
                elif self.is_leading() != was_leading:
                    was_leading = not was_leading
                    LOGGER.info("%s %s", self._settings.identity, "leads" if was_leading else "leads no more")
                    await (on_started() if was_leading else on_stopped())
                await asyncio.sleep(self._pause(asked_at))
        finally:
            await self.release()

    async def try_once(self) -> None:
        """Renew the lease, take it if it is free, or learn who has it.

        A try that hangs is given up in time for another before the renew deadline.
        """
        asked_at = self._clock()
        try:
            async with asyncio.timeout(self._settings.lease_renew_deadline_seconds / 2.0):
                held = await self._renew_or_take()
        except (ClusterError, TimeoutError) as error:
            cause = str(error) or type(error).__name__
            LOGGER.warning("The lease could not be read or renewed: %s", cause)
            return
        self._holds_until = asked_at + self._settings.lease_renew_deadline_seconds if held else float("-inf")

    async def release(self) -> None:
        """Stop acting, and let another replica act at once."""
        was_leading, self._holds_until = self.is_leading(), float("-inf")
        if not was_leading:
            return
        try:
            lease = await self._cluster.get(
                LEASES, self._settings.operator_namespace, self._settings.lease_name
            )
            if lease["spec"].get("holderIdentity") == self._settings.identity:
                lease["spec"] = {**lease["spec"], "holderIdentity": "", "leaseDurationSeconds": 1}
                await self._cluster.replace(LEASES, self._settings.operator_namespace, lease)
        except ClusterError as error:
            LOGGER.warning("The lease could not be given back: %s; another replica waits for its end", error)

    def _pause(self, asked_at: float) -> float:
        """Seconds until the next try: at a steady pace, and at once when another's lease ends.

        Args:
            asked_at: when the last try began.
        """
        due = asked_at + self._settings.lease_retry_seconds
        if asked_at < self._free_at:
            due = min(due, self._free_at)
        return max(0.0, due - self._clock())

    async def _renew_or_take(self) -> bool:
        """Whether this replica holds the lease now."""
        if self._own is not None and self.is_leading():
            # The lease is as this replica wrote it, unless somebody else did: then this is a conflict.
            lease, self._own = self._own, None
            if await self._write(self._cluster.replace, self._renewed(lease, self._settings.identity)):
                return True
        namespace, name = self._settings.operator_namespace, self._settings.lease_name
        try:
            lease = await self._cluster.get(LEASES, namespace, name)
        except NotFoundError:
            return await self._write(self._cluster.create, self._new_lease())
        spec = lease.get("spec") or {}
        holder = spec.get("holderIdentity") or ""
        if holder not in ("", self._settings.identity) and not self._has_expired(lease):
            return False
        return await self._write(self._cluster.replace, self._renewed(lease, holder))

    async def _write(self, verb: Callable[..., Awaitable[Object]], lease: Object) -> bool:
        """Write the lease, unless another replica was faster."""
        try:
            self._own = await verb(LEASES, self._settings.operator_namespace, lease)
        except (AlreadyExistsError, ConflictError, NotFoundError):
            return False
        self._seen, self._free_at = None, float("inf")
        return True

    def _has_expired(self, lease: Object) -> bool:
        """Whether a lease of another replica has not changed for its duration, by this clock."""
        record = (str(lease["metadata"].get("resourceVersion")), str(lease["spec"].get("holderIdentity")))
        if record != self._seen:
            duration = lease["spec"].get("leaseDurationSeconds") or self._settings.lease_duration_seconds
            self._seen, self._free_at = record, self._clock() + float(duration)
        return self._clock() >= self._free_at

    def _new_lease(self) -> Object:
        """The first lease."""
        now = self._now()
        return {
            "apiVersion": LEASES.api_version,
            "kind": "Lease",
            "metadata": {
                "name": self._settings.lease_name,
                "namespace": self._settings.operator_namespace,
            },
            "spec": {**self._terms(), "acquireTime": now, "renewTime": now, "leaseTransitions": 0},
        }

    def _renewed(self, lease: Object, holder: str) -> Object:
        """A lease with this replica as its holder."""
        now, spec = self._now(), lease.get("spec") or {}
        taken = {}
        if holder != self._settings.identity:
            taken = {"acquireTime": now, "leaseTransitions": (spec.get("leaseTransitions") or 0) + 1}
        return {**lease, "spec": {**spec, **self._terms(), **taken, "renewTime": now}}

    def _terms(self) -> Object:
        """Who holds the lease, for how long."""
        return {
            "holderIdentity": self._settings.identity,
            "leaseDurationSeconds": max(1, round(self._settings.lease_duration_seconds)),
        }

    def _now(self) -> str:
        """Now, with the microseconds that leases have."""
        return datetime.fromtimestamp(self._wall_clock(), UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class AlwaysLeading:
    """Stands in for Leadership where there is a single replica."""

    def is_leading(self) -> bool:
        """Yes."""
        return True

    def check(self) -> None:
        """Nothing is held back."""

    async def run(
        self, on_started: Callable[[], Awaitable[None]], on_stopped: Callable[[], Awaitable[None]]
    ) -> None:
        """Lead until cancelled."""
        await on_started()
        try:
            await asyncio.Event().wait()
        finally:
            await on_stopped()
