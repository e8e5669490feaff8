"""An HTTP server that speaks as much of the Kubernetes API as watches need, and misbehaves on demand."""

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from aiohttp import web

Object = dict[str, Any]

GROUPS = {
    "v1": [
        ("pods", "Pod"),
        ("services", "Service"),
        ("configmaps", "ConfigMap"),
        ("namespaces", "Namespace"),
    ],
    "trainyard.dev/v1alpha1": [("trainingruns", "TrainingRun")],
    "batch/v1": [("jobs", "Job")],
}


class ApiServer:
    """Answers discovery, lists and watches.

    Attributes:
        objects: what lists return, by plural.
        watch: what a watch does: gets the plural and the stream, and returns when the stream ends.
        requests: how many lists and watches were made, such as `list pods`.
    """

    def __init__(self, watch: Callable[[str, web.StreamResponse], Any] | None = None) -> None:
        self.objects: dict[str, list[Object]] = {}
        self.watch = watch or silent
        self.requests: Counter[str] = Counter()
        self.answers: dict[tuple[str, str], web.Response] = {}
        """Answers to single requests, by method and path; else discovery, lists and watches."""
        self.bodies: list[tuple[str, str, dict[str, str], Any]] = []
        """Requests that the answers above were given to: method, path and query, headers, body."""
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(application, shutdown_timeout=0.1)
        self.selectors: dict[str, str] = {}
        """Label selector of the newest list or watch, by plural."""
        self.accepted: dict[str, str] = {}
        """Media type that the newest `list pods` and such asked for."""
        self.url = ""

    async def start(self, port: int = 0) -> None:
        """Listen on loopback."""
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", port).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def stop(self) -> None:
        """Stop listening."""
        await self._runner.cleanup()

    def kubeconfig(self, folder: Path) -> Path:
        """Write a kubeconfig for it."""
        path = folder / "kubeconfig"
        path.write_text(
            yaml.safe_dump(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "current-context": "test",
                    "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
                    "clusters": [{"name": "test", "cluster": {"server": self.url}}],
                    "users": [{"name": "test", "user": {"token": "not-a-secret"}}],
                }
            ),
            encoding="utf-8",
        )
        return path

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        given = self.answers.get((request.method, request.path))
        if given is not None:
            body = await request.read()
            headers = dict(request.headers)
            self.bodies.append(
                (request.method, str(request.rel_url), headers, json.loads(body) if body else None)
            )
            return web.Response(status=given.status, headers=dict(given.headers), body=given.body)
        discovered = _discovery(request.path)
        if discovered is not None:
            return web.json_response(discovered)
        plural = request.path.rsplit("/", 1)[-1]
        self.selectors[plural] = request.query.get("labelSelector", "")
        if request.query.get("watch") != "true":
            self.requests[f"list {plural}"] += 1
            self.accepted[f"list {plural}"] = request.headers.get("Accept", "")
            items: list[Object] | None = self.objects.get(plural, [])
            if "PartialObjectMetadataList" in self.accepted[f"list {plural}"]:
                items = items or None  # as the real one has it
            return web.json_response({"metadata": {"resourceVersion": "1"}, "items": items})
        self.requests[f"watch {plural}"] += 1
        self.accepted[f"watch {plural}"] = request.headers.get("Accept", "")
        stream = web.StreamResponse(headers={"Content-Type": "application/json"})
        await stream.prepare(request)
        await self.watch(plural, stream)
        return stream


async def silent(plural: str, stream: web.StreamResponse) -> None:
    """A stream on which nothing ever comes, as on a dead connection."""
    del plural, stream
    await asyncio.sleep(3_600)


async def send(stream: web.StreamResponse, kind: str, body: Object) -> None:
    """Send an event."""
    await stream.write(json.dumps({"type": kind, "object": body}).encode() + b"\n")


def _discovery(path: str) -> Object | None:
    """What the API server tells of its kinds."""
    if path == "/api":
        return {"kind": "APIVersions", "versions": ["v1"]}
    if path == "/apis":
        groups = [version.split("/") for version in GROUPS if "/" in version]
        return {
            "kind": "APIGroupList",
            "groups": [
                {
                    "name": group,
                    "versions": [{"groupVersion": f"{group}/{version}", "version": version}],
                    "preferredVersion": {"groupVersion": f"{group}/{version}", "version": version},
                }
                for group, version in groups
            ],
        }
    version = path.removeprefix("/apis/").removeprefix("/api/")
    if version not in GROUPS:
        return None
    return {
        "kind": "APIResourceList",
        "groupVersion": version,
        "resources": [
            {
                "name": plural,
                "singularName": kind.lower(),
                "kind": kind,
                "namespaced": plural != "namespaces",
                "verbs": ["list", "watch", "get", "create", "patch", "delete"],
            }
            for plural, kind in GROUPS[version]
        ],
    }
