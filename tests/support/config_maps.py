"""The ConfigMaps of an API server, in memory."""

import asyncio
from typing import TYPE_CHECKING, Any

from trainyard_operator.cluster import Resource
from trainyard_operator.errors import AlreadyExistsError, ConflictError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable

Object = dict[str, Any]


class PlayedConfigMaps:
    """ConfigMaps with resource versions; `interfere` runs once before the next write."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str], Object] = {}
        self.writes: list[str] = []
        self.num_reads = 0
        self.interfere: Callable[[], None] | None = None

    async def get(self, resource: Resource, namespace: str, name: str) -> Object:
        assert resource.plural == "configmaps"
        self.num_reads += 1
        await asyncio.sleep(0)  # others go on while an answer is on its way
        if (namespace, name) not in self.objects:
            raise NotFoundError("not found")
        return self.objects[namespace, name]

    async def create(self, resource: Resource, namespace: str, body: Object) -> Object:
        assert resource.plural == "configmaps"
        self._before_write()
        key = namespace, body["metadata"]["name"]
        if key in self.objects:
            raise AlreadyExistsError("exists")
        return self._store(key, body, 1)

    async def replace(self, resource: Resource, namespace: str, body: Object) -> Object:
        assert resource.plural == "configmaps"
        self._before_write()
        key = namespace, body["metadata"]["name"]
        if self.objects[key]["metadata"]["resourceVersion"] != body["metadata"]["resourceVersion"]:
            raise ConflictError("changed")
        return self._store(key, body, int(body["metadata"]["resourceVersion"]) + 1)

    def bundle(self, namespace: str) -> str:
        """What the ConfigMap `trust` of a namespace holds."""
        return str(self.objects[namespace, "trust"]["data"]["ca.crt"])

    def _before_write(self) -> None:
        interfere, self.interfere = self.interfere, None
        if interfere is not None:
            interfere()

    def _store(self, key: tuple[str, str], body: Object, version: int) -> Object:
        self.writes.append(key[0])
        metadata = {**body["metadata"], "resourceVersion": str(version)}
        self.objects[key] = {**body, "metadata": metadata}
        return self.objects[key]
