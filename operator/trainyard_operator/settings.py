"""The operator's settings, from environment variables; `trainyard-operator --help` lists them."""

from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from trainyard_operator.errors import SettingsError

PREFIX = "TRAINYARD_"

Seconds = Annotated[float, Field(gt=0.0, le=86_400.0)]
Port = Annotated[int, Field(ge=0, le=65_535)]


class Settings(BaseModel):
    """Everything that an installation may change; each field is a variable, such as TRAINYARD_NAMESPACES."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    namespaces: tuple[str, ...] = ()
    """Namespaces to serve, separated by commas; the whole cluster when empty."""
    identity: str = "trainyard-operator"
    """Name of this replica in the lease and in events; the pod's name on a cluster."""
    operator_namespace: str = "trainyard"
    """Namespace that the operator itself runs in; the lease is there."""
    worker_image: str = "trainyard-trainer:latest"
    """Container image of runs whose workers.image is empty."""
    default_claim_name: str = "trainyard"
    """PersistentVolumeClaim of runs whose storage names none."""
    cluster_domain: str = "cluster.local"
    """DNS domain of the cluster."""
    termination_grace_seconds: Annotated[int, Field(ge=0, le=86_400)] = 120
    """Seconds that pods get to save a checkpoint when they are stopped."""
    fault_grace_seconds: Annotated[int, Field(ge=0, le=86_400)] = 10
    """Seconds that the rest of a gang gets once a part of it has failed; it cannot save without that part."""

    leader_election: bool = True
    """Whether a lease decides which replica acts; off is right for a single replica only."""
    lease_name: str = "trainyard-operator"
    """Name of the lease."""
    lease_duration_seconds: Seconds = 15.0
    """Seconds after its last renewal from which another replica may take the lease."""
    lease_renew_deadline_seconds: Seconds = 10.0
    """Seconds without a renewal after which the leader stops acting; less than the duration."""
    lease_retry_seconds: Seconds = 2.0
    """Seconds between two renewals, or two tries to take the lease."""

    requests_per_second: Annotated[float, Field(gt=0.0, le=100_000.0)] = 400.0
    """Requests to the API server per second, watches apart."""
    request_burst: Annotated[int, Field(ge=1, le=100_000)] = 800
    """Requests that may be sent at once after a pause."""
    request_concurrency: Annotated[int, Field(ge=1, le=10_000)] = 64
    """Requests that may be open at the same time."""
    request_timeout_seconds: Seconds = 10.0
    """Seconds that a request may take."""
    workers: Annotated[int, Field(ge=1, le=1_000)] = 32
    """Runs that are reconciled at the same time."""

    resync_seconds: Seconds = 300.0
    """Seconds between two comparisons of everything in memory with the API server."""
    watch_inactivity_seconds: Seconds = 20.0
    """Seconds without an event after which a watch is opened again, so that a dead one is noticed."""
    settle_seconds: Annotated[float, Field(ge=0.0, le=60.0)] = 1.0
    """Seconds in which evidence is collected after a first failure whose cause is not clear."""
    status_seconds: Annotated[float, Field(ge=0.0, le=60.0)] = 2.0
    """Seconds between two status writes that tell of no end and no decision."""
    progress_seconds: Annotated[float, Field(ge=0.0, le=3_600.0)] = 10.0
    """Seconds between status writes of progress alone; if many runs report, until a report is written."""

    progress_port: Port = 8443
    """Port of the progress endpoint (HTTPS)."""
    pod_address: str = ""
    """Address of this replica's pod; the progress endpoint is off without it."""
    progress_service: str = "trainyard-operator"
    """Name of the Service of the progress endpoint, in the operator's namespace; it has no selector."""
    certificate_file: str = ""
    """Certificate of the progress endpoint that somebody else keeps; when empty the operator makes one."""
    certificate_key_file: str = ""
    """Key of that certificate."""
    certificate_authority_file: str = ""
    """Authority of that certificate."""
    progress_url: str = "https://trainyard-operator.trainyard.svc:8443"
    """Where pods reach it."""
    ca_config_map: str = "trainyard-progress-ca"
    """ConfigMap, in the namespace of each run, with the certificates that pods verify it with."""
    metrics_port: Port = 8080
    """Port of /metrics, /healthz and /readyz."""
    log_level: Annotated[str, Field(pattern="^(DEBUG|INFO|WARNING|ERROR)$")] = "INFO"
    """DEBUG, INFO, WARNING or ERROR."""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Self:
        """Read the settings; other variables with our prefix belong to others and are left alone.

        Raises:
            SettingsError: a value is wrong; the first one is named.
        """
        values: dict[str, Any] = {
            name: environment[variable]
            for name in cls.model_fields
            if environment.get(variable := PREFIX + name.upper())
        }
        if "namespaces" in values:
            values["namespaces"] = tuple(
                part for item in values["namespaces"].split(",") if (part := item.strip())
            )
        try:
            settings = cls.model_validate(values)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            name = str(first["loc"][0])
            raise SettingsError(
                PREFIX + name.upper(),
                f"{first['msg']}, found {first['input']!r}",
                f"It means: {cls.model_fields[name].description}",
            ) from error
        _check_lease(settings)
        return settings

    @classmethod
    def help_text(cls) -> str:
        """One paragraph per setting: its variable, its default and what it means."""
        return "\n".join(
            f"  {PREFIX}{name.upper()} (default {_shown(field.default)})\n      {field.description}"
            for name, field in cls.model_fields.items()
        )


def _check_lease(settings: Settings) -> None:
    """Hold the times of the lease against each other.

    Raises:
        SettingsError: two replicas could act at once, or a single failed renewal would end a leader's term.
    """
    deadline = settings.lease_renew_deadline_seconds
    if deadline >= settings.lease_duration_seconds:
        raise SettingsError(
            f"{PREFIX}LEASE_RENEW_DEADLINE_SECONDS",
            f"{deadline} is not less than the lease's duration, {settings.lease_duration_seconds}, "
            "so two replicas could act at once",
            "Set it to two thirds of the duration",
        )
    if settings.lease_retry_seconds > deadline / 2.0:
        raise SettingsError(
            f"{PREFIX}LEASE_RETRY_SECONDS",
            f"{settings.lease_retry_seconds} is more than half of the renew deadline, {deadline}, "
            "so a leader would stop acting after one failed renewal",
            "Set it to a fifth of the deadline",
        )


def _shown(value: object) -> str:
    """A default for people."""
    return "empty" if value in ("", ()) else str(value)
