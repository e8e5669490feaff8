"""The API server, as far as the operator uses it: the only place that calls it.

Objects are plain dicts. Errors are those of `errors.py`, whatever the client raises.
"""

import asyncio
import copy
import json
import os
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, Self
from urllib.parse import quote, urlencode

import aiohttp
from kubernetes.aio.client import ApiClient, Configuration
from kubernetes.aio.config import ConfigException, load_incluster_config, load_kube_config

from trainyard_api.names import API_VERSION, FIELD_MANAGER, PLURAL
from trainyard_api.redact import redact
from trainyard_operator.errors import (
    AlreadyExistsError,
    ClusterError,
    ConflictError,
    ForbiddenError,
    InvalidError,
    NotFoundError,
    ThrottledError,
    UnavailableError,
)
from trainyard_operator.settings import Settings
from trainyard_operator.token_bucket import TokenBucket

Object = dict[str, Any]

PAGE_SIZE = 500
"""Objects per page of a list."""
JSON = "application/json"
METADATA = f"{JSON};as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
METADATA_LIST = f"{JSON};as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
"""Media types of the API server's answers."""
URGENT_CONCURRENCY = 4
"""Requests that may be open beside all others."""


@dataclass(frozen=True, slots=True)
class Resource:
    """A kind of object at the API server."""

    api_version: str
    """Group and version."""
    plural: str
    """Name in paths."""
    namespaced: bool = True
    """Whether its objects lie in namespaces."""
    metadata_only: bool = False
    """Whether the metadata of its objects is all that lists and watches are asked for."""


RUNS = Resource(API_VERSION, PLURAL)
PODS = Resource("v1", "pods")
SERVICES = Resource("v1", "services", metadata_only=True)
CONFIG_MAPS = Resource("v1", "configmaps", metadata_only=True)
CLAIMS = Resource("v1", "persistentvolumeclaims")
EVENTS = Resource("v1", "events")
JOBS = Resource("batch/v1", "jobs")
LEASES = Resource("coordination.k8s.io/v1", "leases")
TOKEN_REVIEWS = Resource("authentication.k8s.io/v1", "tokenreviews", namespaced=False)


@dataclass(frozen=True, slots=True)
class Deletion:
    """How an object is deleted."""

    uid: str | None = None
    """Only the object with this UID, not another one of its name."""
    grace_seconds: int | None = None
    """Seconds that pods get to end; None leaves it to the pods."""
    orphan_nothing: bool = True
    """Whether what it owns goes with it, in the background."""

    def body(self) -> Object:
        """The DeleteOptions."""
        body: Object = {"apiVersion": "v1", "kind": "DeleteOptions"}
        if self.uid is not None:
            body["preconditions"] = {"uid": self.uid}
        if self.grace_seconds is not None:
            body["gracePeriodSeconds"] = self.grace_seconds
        if self.orphan_nothing:
            body["propagationPolicy"] = "Background"
        return body


class Cluster(Protocol):
    """What the operator asks of the API server; `tests/support/fake_cluster.py` stands in for it."""

    async def get(self, resource: Resource, namespace: str, name: str) -> Object:
        """An object; NotFoundError when it is not there."""

    def pages(
        self, resource: Resource, namespace: str | None, label_selector: str = ""
    ) -> AsyncIterator[list[Object]]:
        """All objects of a kind in a namespace, or in all, page by page; see `Resource.metadata_only`."""

    async def create(
        self, resource: Resource, namespace: str, body: Object, *, dry_run: bool = False
    ) -> Object:
        """Create an object, or only ask whether it would be; AlreadyExistsError when its name is taken."""

    async def apply(self, resource: Resource, namespace: str, body: Object) -> Object:
        """Create an object or bring the fields in `body` to its values (server-side apply)."""

    async def replace(self, resource: Resource, namespace: str, body: Object) -> Object:
        """Replace an object; ConflictError when its resourceVersion is no longer the one in `body`."""

    async def patch_status(self, resource: Resource, namespace: str, name: str, patch: Object) -> Object:
        """Merge into the status; ConflictError when `patch` names another resourceVersion or UID."""

    async def delete(self, resource: Resource, namespace: str, name: str, deletion: Deletion) -> None:
        """Delete an object; NotFoundError or ConflictError (UID) when it is not there."""

    async def delete_all(
        self, resource: Resource, namespace: str, label_selector: str, deletion: Deletion
    ) -> None:
        """Delete the objects with some labels in one request."""


class KubernetesCluster:
    """The real API server: paced, with time-outs, and counted.

    Args:
        client: an API client that knows address and credentials.
        settings: rates and time-outs.
        on_request: told verb, resource, status code (0: no answer) and seconds of each request.
    """

    def __init__(
        self, client: ApiClient, settings: Settings, on_request: Callable[[str, str, int, float], None]
    ) -> None:
        self._client = client
        self._timeout = aiohttp.ClientTimeout(total=settings.request_timeout_seconds)
        self._bucket = TokenBucket(settings.requests_per_second, settings.request_burst)
        self._slots = asyncio.Semaphore(settings.request_concurrency)
        self._may_write: Callable[[], None] = _always
        self._on_request = on_request

    def fenced(self, may_write: Callable[[], None]) -> Self:
        """The same API server and the same pace, but each write first asks whether this replica may.

        Args:
            may_write: raises NotLeadingError when it must not.
        """
        view = copy.copy(self)
        view._may_write = may_write  # noqa: SLF001 - a copy of this very object
        return view

    def urgent(self) -> Self:
        """The same API server for the few requests that must not wait behind others, such as a lease's."""
        view = copy.copy(self)
        view._bucket = TokenBucket(  # noqa: SLF001 - a copy of this very object
            URGENT_CONCURRENCY, URGENT_CONCURRENCY
        )
        view._slots = asyncio.Semaphore(URGENT_CONCURRENCY)  # noqa: SLF001
        return view

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def get(self, resource: Resource, namespace: str, name: str) -> Object:
        """See Cluster."""
        return await self._request("GET", resource, _path(resource, namespace, name))

    async def pages(
        self, resource: Resource, namespace: str | None, label_selector: str = ""
    ) -> AsyncIterator[list[Object]]:
        """See Cluster."""
        query = {"limit": str(PAGE_SIZE), "labelSelector": label_selector}
        path, accept = _path(resource, namespace), METADATA_LIST if resource.metadata_only else JSON
        while True:
            page = await self._request("GET", resource, path, query=query, accept=accept, verb="LIST")
            yield page.get("items") or []
            following = page.get("metadata", {}).get("continue")
            if not following:
                return
            query["continue"] = following

    async def create(
        self, resource: Resource, namespace: str, body: Object, *, dry_run: bool = False
    ) -> Object:
        """See Cluster."""
        query = {**_MANAGED, "dryRun": "All" if dry_run else ""}
        return await self._request("POST", resource, _path(resource, namespace), body=body, query=query)

    async def apply(self, resource: Resource, namespace: str, body: Object) -> Object:
        """See Cluster."""
        path = _path(resource, namespace, body["metadata"]["name"])
        query = {**_MANAGED, "force": "true"}
        return await self._request(
            "PATCH",
            resource,
            path,
            body=body,
            query=query,
            content_type="application/apply-patch+yaml",
            verb="APPLY",
        )

    async def replace(self, resource: Resource, namespace: str, body: Object) -> Object:
        """See Cluster."""
        path = _path(resource, namespace, body["metadata"]["name"])
        return await self._request("PUT", resource, path, body=body, query=_MANAGED)

    async def patch_status(self, resource: Resource, namespace: str, name: str, patch: Object) -> Object:
        """See Cluster."""
        path = f"{_path(resource, namespace, name)}/status"
        return await self._request(
            "PATCH",
            resource,
            path,
            body=patch,
            query=_MANAGED,
            content_type="application/merge-patch+json",
        )

    async def delete(self, resource: Resource, namespace: str, name: str, deletion: Deletion) -> None:
        """See Cluster."""
        await self._request("DELETE", resource, _path(resource, namespace, name), body=deletion.body())

    async def delete_all(
        self, resource: Resource, namespace: str, label_selector: str, deletion: Deletion
    ) -> None:
        """See Cluster.

        Raises:
            ValueError: no selector is given; that would delete everything.
        """
        if not label_selector:
            raise ValueError("a selector is needed to delete several objects")
        query = {"labelSelector": label_selector}
        await self._request(
            "DELETE",
            resource,
            _path(resource, namespace),
            body=deletion.body(),
            query=query,
            verb="DELETECOLLECTION",
        )

    async def review_token(self, token: str, audience: str) -> Object:
        """The `status` of a TokenReview: whose the token is, if it is good for the audience."""
        body = {
            "apiVersion": TOKEN_REVIEWS.api_version,
            "kind": "TokenReview",
            "spec": {"token": token, "audiences": [audience]},
        }
        review = await self._request("POST", TOKEN_REVIEWS, _path(TOKEN_REVIEWS, None), body=body)
        status: Object = review.get("status") or {}
        return status

    async def _request(  # noqa: PLR0913 - the parts of a request
        self,
        method: str,
        resource: Resource,
        path: str,
        *,
        body: Object | None = None,
        query: Mapping[str, str] | None = None,
        content_type: str = JSON,
        accept: str = JSON,
        verb: str = "",
    ) -> Object:
        """Send one request and return the object of the answer.

        Raises:
            ClusterError: the answer is no success.
            NotLeadingError: it would write and this replica does not lead.
        """
        async with self._slots:
            await self._bucket.take()
            if method != "GET":
                self._may_write()
            loop = asyncio.get_running_loop()
            started = loop.time()
            code = 0
            try:
                headers = {"Content-Type": content_type, "Accept": accept}
                code, text, retry_after = await self._send(method, path, body, query or {}, headers)
            finally:
                self._on_request(verb or method, resource.plural, code, loop.time() - started)
        if code >= 300:
            raise error_of(code, text, retry_after, is_create=method == "POST")
        return _decoded(text)

    async def _send(
        self, method: str, path: str, body: Object | None, query: Mapping[str, str], headers: dict[str, str]
    ) -> tuple[int, bytes, str]:
        """Status code, body and Retry-After of the answer to a request."""
        configuration = self._client.configuration
        used = {key: value for key, value in query.items() if value}
        url = configuration.host + path + (f"?{urlencode(used)}" if used else "")
        headers["User-Agent"] = self._client.user_agent
        await self._client.update_params_for_auth(headers, [], ["BearerToken"], path, method, body)
        try:
            answer = await self._client.rest_client.request(
                method, url, headers=headers, body=body, _request_timeout=self._timeout
            )
            return answer.status, await answer.read(), answer.headers.get("Retry-After", "")
        except (aiohttp.ClientError, TimeoutError, ssl.SSLError) as error:
            cause = str(error) or type(error).__name__
            raise UnavailableError(f"{method} {path}: no answer from the API server ({cause})") from error


def _always() -> None:
    """Nothing stands against a write."""


_MANAGED = {"fieldManager": FIELD_MANAGER}


async def connect(
    settings: Settings, on_request: Callable[[str, str, int, float], None]
) -> KubernetesCluster:
    """A connection by the pod's service account, or by the kubeconfig of a person.

    Raises:
        UnavailableError: there is neither.
    """
    configuration = Configuration()
    try:
        load_incluster_config(client_configuration=configuration)
    except ConfigException:
        try:
            # The client reads the variable when it is imported, and only then.
            await load_kube_config(os.environ.get("KUBECONFIG"), client_configuration=configuration)
        except ConfigException as error:
            raise UnavailableError(
                f"no credentials for a cluster ({error}); run in a pod with a service account, "
                "or set KUBECONFIG"
            ) from error
    configuration.connection_pool_maxsize = settings.request_concurrency + URGENT_CONCURRENCY
    # aiohttp would read ~/.netrc in a thread for each request; a proxy comes from the kubeconfig.
    configuration.client_session_kwargs = {"trust_env": False}
    client = ApiClient(configuration)
    client.user_agent = "trainyard-operator"
    return KubernetesCluster(client, settings, on_request)


def error_of(code: int, body: bytes, retry_after: str = "", *, is_create: bool = False) -> ClusterError:
    """The error that an answer means; the only place that knows status codes.

    Its message goes to the log as well as to the status, so it is cleared of secrets here: a webhook or a
    quota may repeat what a person wrote.

    Args:
        code: HTTP status code, not a success.
        body: the body, usually a Status object.
        retry_after: the Retry-After header, in seconds.
        is_create: whether the request was to create an object.
    """
    try:
        status = _decoded(body)
    except UnavailableError:
        status = {}
    told = str(status.get("message") or body[:500].decode("utf-8", "replace"))
    message = redact(told) or f"HTTP status {code}"
    reason = str(status.get("reason") or "")
    if code == 429:
        seconds = float(retry_after) if retry_after.isdigit() else 1.0
        return ThrottledError(message, reason, seconds)
    if code == 409:
        is_taken = reason == "AlreadyExists" or (is_create and not reason)
        return AlreadyExistsError(message, reason) if is_taken else ConflictError(message, reason)
    known = {
        400: InvalidError,
        403: ForbiddenError,
        404: NotFoundError,
        410: NotFoundError,
        422: InvalidError,
    }
    return known.get(code, UnavailableError)(message, reason)


def _decoded(text: bytes) -> Object:
    """The JSON object of an answer."""
    try:
        value = json.loads(text)
    except ValueError as error:
        raise UnavailableError("the API server's answer is no JSON") from error
    if not isinstance(value, dict):
        raise UnavailableError("the API server's answer is no JSON object")
    return value


def _path(resource: Resource, namespace: str | None, name: str = "") -> str:
    """Path of a collection or an object."""
    root = "/api" if "/" not in resource.api_version else "/apis"
    place = f"/namespaces/{quote(namespace, safe='')}" if resource.namespaced and namespace else ""
    leaf = f"/{quote(name, safe='')}" if name else ""
    return f"{root}/{resource.api_version}{place}/{resource.plural}{leaf}"
