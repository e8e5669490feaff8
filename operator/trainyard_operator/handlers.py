"""kopf's part: it watches, and these handlers pass on what it sees. Nothing else happens here.

No handler for creation, update or deletion, hence no finalizer, no annotation and no patch of kopf's.
"""

from collections.abc import Callable, Iterable
from typing import Any

import kopf

from trainyard_api.names import API_VERSION, PLURAL
from trainyard_operator.cluster import CONFIG_MAPS, JOBS, PODS, RUNS, SERVICES
from trainyard_operator.intake import CHILD_SELECTOR, Intake
from trainyard_operator.settings import Settings
from trainyard_operator.watch_login import WatchLogin

CHILDREN = (PODS, JOBS, SERVICES, CONFIG_MAPS)
WATCHED = (RUNS, *CHILDREN)

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


def build_registry(
    intake: Intake, on_event: Callable[[str], None], login: WatchLogin
) -> kopf.OperatorRegistry:
    """The handlers.

    Args:
        intake: takes in what they are told.
        on_event: told the plural of each event's object.
        login: makes kopf's connections.
    """
    registry = kopf.OperatorRegistry()

    @kopf.on.login(registry=registry)
    async def log_in(**kwargs: Any) -> kopf.AiohttpSession | None:
        return await login.login(**kwargs)

    @kopf.on.event(API_VERSION, PLURAL, registry=registry)
    async def run_changed(event: Any, **_: Any) -> None:
        on_event(RUNS.plural)
        intake.run_event(event["type"], event["object"])

    @kopf.on.event("v1", PODS.plural, registry=registry)
    async def pod_changed(event: Any, **_: Any) -> None:
        on_event(PODS.plural)
        intake.pod_event(event["type"], event["object"])

    @kopf.on.event(JOBS.api_version, JOBS.plural, registry=registry)
    async def job_changed(event: Any, **_: Any) -> None:
        on_event(JOBS.plural)
        intake.job_event(event["type"], event["object"])

    @kopf.on.event("v1", SERVICES.plural, registry=registry)
    async def service_changed(event: Any, **_: Any) -> None:
        on_event(SERVICES.plural)
        intake.object_event(event["type"], event["object"])

    @kopf.on.event("v1", CONFIG_MAPS.plural, registry=registry)
    async def config_map_changed(event: Any, **_: Any) -> None:
        on_event(CONFIG_MAPS.plural)
        intake.object_event(event["type"], event["object"])

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
    for resource in CHILDREN:
        kopf_settings.watching.label_selectors[resource.plural] = CHILD_SELECTOR
    return kopf_settings
