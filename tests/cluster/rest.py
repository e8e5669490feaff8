"""The API server as scenarios see it: plain dicts, many threads, and waiting by watches."""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlencode

import urllib3
from kubernetes.config import new_client_from_config

from trainyard_api.names import API_VERSION, PLURAL

Object = dict[str, Any]
Found = TypeVar("Found")

MERGE_PATCH = "application/merge-patch+json"
_ANSWER_SECONDS = 60.0
_GROUPS = {
    PLURAL: f"/apis/{API_VERSION}",
    "jobs": "/apis/batch/v1",
    "leases": "/apis/coordination.k8s.io/v1",
    "endpointslices": "/apis/discovery.k8s.io/v1",
    "workloads": "/apis/kueue.x-k8s.io/v1beta2",
}


class AnswerError(AssertionError):
    """The API server did not do as it was asked; a failure of the test that asked.

    Args:
        code: HTTP status code.
        message: what it said.
    """

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


def path_of(plural: str, namespace: str = "", name: str = "", subresource: str = "") -> str:
    """Path of a collection, an object, or a part of one."""
    root = _GROUPS.get(plural, "/api/v1")
    place = f"/namespaces/{namespace}" if namespace else ""
    return "/".join([f"{root}{place}/{plural}", *(part for part in (name, subresource) if part)])


class Rest:
    """Requests to the API server; may be used by several threads at once.

    Args:
        kubeconfig: the cluster and the user.
    """

    def __init__(self, kubeconfig: Path) -> None:
        self._client = new_client_from_config(str(kubeconfig))
        self._host: str = self._client.configuration.host
        self._pool: urllib3.PoolManager = self._client.rest_client.pool_manager

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def send(
        self, method: str, path: str, body: object = None, content_type: str = "application/json"
    ) -> Object:
        """Send a request and return the object of the answer.

        Raises:
            AnswerError: the answer is no success.
        """
        answer = self._pool.request(
            method,
            self._host + path,
            body=None if body is None else json.dumps(body),
            headers={"Content-Type": content_type, "Accept": "application/json"},
            timeout=_ANSWER_SECONDS,
            retries=False,
        )
        if answer.status >= 300:
            raise AnswerError(answer.status, answer.data.decode())
        document: Object = json.loads(answer.data)
        return document

    def get(self, plural: str, namespace: str, name: str) -> Object:
        """An object."""
        return self.send("GET", path_of(plural, namespace, name))

    def find(self, plural: str, namespace: str, name: str) -> Object | None:
        """An object; None when it is not there."""
        try:
            return self.get(plural, namespace, name)
        except AnswerError as error:
            if error.code != 404:
                raise
            return None

    def list(self, plural: str, namespace: str = "") -> list[Object]:
        """All objects of a kind in a namespace, or in all."""
        items: list[Object] = self.send("GET", path_of(plural, namespace))["items"]
        return items

    def create(self, plural: str, namespace: str, body: Mapping[str, Any]) -> Object:
        """Create an object."""
        return self.send("POST", path_of(plural, namespace), body)

    def merge(self, plural: str, namespace: str, name: str, patch: Mapping[str, Any]) -> Object:
        """Merge a patch into an object."""
        return self.send("PATCH", path_of(plural, namespace, name), patch, MERGE_PATCH)

    def delete(self, plural: str, namespace: str, name: str, grace_seconds: int | None = None) -> None:
        """Delete an object, and in the background what it owns."""
        options: Object = {"propagationPolicy": "Background"}
        if grace_seconds is not None:
            options["gracePeriodSeconds"] = grace_seconds
        self.send("DELETE", path_of(plural, namespace, name), options)

    def watch(self, path: str, version: str, seconds: float, selector: str = "") -> Iterator[Object]:
        """The events of a collection after a version, for some time.

        Raises:
            AnswerError: the API server refuses the watch.
        """
        query = {
            "watch": "true",
            "resourceVersion": version,
            "timeoutSeconds": str(max(1, int(seconds))),
            "labelSelector": selector,
        }
        answer = self._pool.request(
            "GET",
            f"{self._host}{path}?{urlencode(query)}",
            preload_content=False,
            timeout=urllib3.Timeout(connect=_ANSWER_SECONDS, read=seconds + _ANSWER_SECONDS),
            retries=False,
        )
        try:
            if answer.status >= 300:
                raise AnswerError(answer.status, answer.read().decode())
            rest = b""
            for chunk in answer.stream(65_536):
                *lines, rest = (rest + chunk).split(b"\n")
                yield from (json.loads(line) for line in lines)
        finally:
            answer.release_conn()
            answer.close()

    def wait(
        self,
        plural: str,
        namespace: str,
        found: Callable[[Sequence[Object]], Found],
        seconds: float,
        what: str = "",
    ) -> Found:
        """Wait until something true is found among the objects of a collection, and return that.

        Args:
            plural: the kind.
            namespace: the namespace.
            found: looks at all objects, at first and after each change.
            seconds: how long that may take.
            what: what is waited for, for the failure's message.

        Raises:
            AssertionError: it is not found in time, with the objects as they are then.
        """
        deadline = time.monotonic() + seconds
        path = path_of(plural, namespace)
        objects: dict[str, Object] = {}
        while (left := deadline - time.monotonic()) > 0.0:
            listing = self.send("GET", path)
            objects = {each["metadata"]["uid"]: each for each in listing["items"]}
            if result := found(list(objects.values())):
                return result
            for event in self.watch(path, listing["metadata"]["resourceVersion"], left):
                if event["type"] == "ERROR":
                    break
                each = event["object"]
                if event["type"] == "DELETED":
                    objects.pop(each["metadata"]["uid"], None)
                else:
                    objects[each["metadata"]["uid"]] = each
                if result := found(list(objects.values())):
                    return result
                if time.monotonic() > deadline:
                    break
        raise AssertionError(f"not within {seconds:.0f} s: {what}; {plural} now: {_short(objects.values())}")


def _short(objects: Sequence[Object] | Any) -> str:
    """What tells most of objects."""
    return json.dumps([{"name": each["metadata"]["name"], **each.get("status", {})} for each in objects])[
        :6_000
    ]
