"""kopf's part: it watches, and these handlers pass on what it sees. Nothing else happens here.

No handler for creation, update or deletion, hence no finalizer, no annotation and no patch of kopf's.
"""

from collections.abc import Callable, Iterable
from typing import Any

import kopf

from trainyard_api.names import API_VERSION, PLURAL
from trainyard_operator.cluster import JOBS, PODS, RUNS
from trainyard_operator.intake import CHILD_SELECTOR, Intake
from trainyard_operator.settings import Settings

MAXIMUM_EVENTS_AT_WORK = 1_000
"""Objects whose events kopf handles at the same time."""
IDLE_SECONDS = 0.05
"""How long kopf keeps a task for an object without events; with the limit above, 20,000 objects a second."""
RETRY_SECONDS = (1.0, 1.0, 1.0)
"""Pauses between tries of a request; a server that is back after an outage is found within a second."""
LIST_CHUNK = 500
"""Objects per page when kopf lists."""


class NoDifferences(kopf.DiffBaseStorage):
    """Keeps kopf from copying each object that it sees, for differences that no handler here asks for.

    The copies took a fifth of the operator's time when many pods changed at once.
    """

    def build(
        self, *, body: kopf.Body, extra_fields: Iterable[kopf.FieldSpec] | None = None
    ) -> kopf.BodyEssence:
        """Nothing of an object counts."""
        del body, extra_fields
        return kopf.BodyEssence()

    def fetch(self, *, body: kopf.Body) -> None:
        """Nothing was stored."""
        del body

    def store(self, *, body: kopf.Body, patch: kopf.Patch, essence: kopf.BodyEssence) -> None:
        """Nothing is stored."""
        del body, patch, essence


def build_registry(intake: Intake, on_event: Callable[[str, str | None], None]) -> kopf.OperatorRegistry:
    """The handlers.

    Args:
        intake: takes in what they are told.
        on_event: told the plural and the type of each event; the type is None when kopf has listed.
    """
    registry = kopf.OperatorRegistry()

    @kopf.on.login(registry=registry)
    def login(**kwargs: Any) -> kopf.ConnectionInfo | None:
        """By the pod's service account, or a person's kubeconfig."""
        return kopf.login_with_service_account(**kwargs) or kopf.login_with_kubeconfig(**kwargs)

    @kopf.on.event(API_VERSION, PLURAL, registry=registry)
    async def run_changed(event: Any, **_: Any) -> None:
        on_event(RUNS.plural, event["type"])
        intake.run_event(event["type"], event["object"])

    @kopf.on.event("v1", PODS.plural, registry=registry)
    async def pod_changed(event: Any, **_: Any) -> None:
        on_event(PODS.plural, event["type"])
        intake.pod_event(event["type"], event["object"])

    @kopf.on.event(JOBS.api_version, JOBS.plural, registry=registry)
    async def job_changed(event: Any, **_: Any) -> None:
        on_event(JOBS.plural, event["type"])
        intake.job_event(event["type"], event["object"])

    return registry


def watch_settings(settings: Settings) -> kopf.OperatorSettings:
    """What kopf may do: watch only, notice dead streams, and leave objects, signals and logs alone."""
    kopf_settings = kopf.OperatorSettings()
    kopf_settings.posting.enabled = False
    kopf_settings.scanning.disabled = True
    kopf_settings.peering.standalone = True
    kopf_settings.process.ultimate_exiting_timeout = None
    kopf_settings.persistence.diffbase_storage = NoDifferences()
    kopf_settings.queueing.worker_limit = MAXIMUM_EVENTS_AT_WORK
    kopf_settings.queueing.idle_timeout = IDLE_SECONDS
    kopf_settings.watching.inactivity_timeout = settings.watch_inactivity_seconds
    kopf_settings.watching.connect_timeout = settings.request_timeout_seconds
    kopf_settings.watching.chunk_size = LIST_CHUNK
    kopf_settings.networking.request_timeout = settings.request_timeout_seconds * 3
    kopf_settings.networking.connect_timeout = settings.request_timeout_seconds
    kopf_settings.networking.error_backoffs = RETRY_SECONDS
    for resource in (PODS, JOBS):
        kopf_settings.watching.label_selectors[resource.plural] = CHILD_SELECTOR
    return kopf_settings
