"""A bare client of the API server, and the objects that the benchmark of the operator creates with it."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp
from operator_audit import BenchmarkError

from tests.cluster.steering import ENDS_IN_STAGE, EXIT_CODE, EXIT_DELAY
from trainyard_api.names import API_VERSION, KIND, PLURAL, Label, Stage
from trainyard_api.spec import to_document
from trainyard_api.validation import validate_document
from trainyard_operator.resources import Owner, WorkerDefaults, build_gang, build_service, plan_for_cluster

Object = dict[str, Any]

RUNS = f"/apis/{API_VERSION}/namespaces/{{}}/{PLURAL}"
PODS = "/api/v1/namespaces/{}/pods"
SERVICES = "/api/v1/namespaces/{}/services"
JOBS = "/apis/batch/v1/namespaces/{}/jobs"
CONCURRENCY = 64
"""Requests at a time, as many as the operator has by default."""
CLAIM = "trainyard"
TRAINS_ON: Mapping[str, str] = {ENDS_IN_STAGE: "prepare"}
"""The data is prepared at once, and training goes on."""
ENDS_SOON: Mapping[str, str] = {EXIT_CODE: "0", EXIT_DELAY: "3s"}
"""Every pod ends well after three seconds, long enough for each state to be told."""
_LINE_BYTES = 4 * 1024 * 1024


class Api:
    """Requests as an administrator, with nothing between them and the socket.

    Args:
        kubeconfig: of the test cluster, which is JSON.
    """

    def __init__(self, kubeconfig: Path) -> None:
        config = json.loads(kubeconfig.read_text(encoding="utf-8"))
        cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        self._context = ssl.create_default_context(cafile=cluster["certificate-authority"])
        self._context.load_cert_chain(user["client-certificate"], user["client-key"])
        self._server = cluster["server"]

    async def __aenter__(self) -> Self:
        """Open the connections."""
        self._slots = asyncio.Semaphore(CONCURRENCY)
        self._session = aiohttp.ClientSession(
            self._server,
            connector=aiohttp.TCPConnector(ssl=self._context, limit=CONCURRENCY + 8),
            headers={"User-Agent": "benchmark"},
            read_bufsize=_LINE_BYTES,
            timeout=aiohttp.ClientTimeout(total=None),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close them."""
        await self._session.close()

    async def send(
        self, method: str, path: str, body: bytes | None = None, content_type: str = "application/json"
    ) -> Object:
        """One request.

        Raises:
            BenchmarkError: it failed.
        """
        headers = {"Content-Type": content_type}
        async with self._slots, self._session.request(method, path, data=body, headers=headers) as answer:
            content = await answer.read()
            if answer.status >= 300:
                raise BenchmarkError(f"{method} {path}: {answer.status} {content[:500]!r}")
        decoded: Object = json.loads(content)
        return decoded

    async def create_all(self, path: str, documents: Sequence[Object]) -> list[Object]:
        """Create objects, as many at a time as CONCURRENCY says."""
        bodies = [json.dumps(document).encode() for document in documents]
        return list(await asyncio.gather(*(self.send("POST", path, body) for body in bodies)))

    async def merge_all(self, path: str, names: Sequence[str], change: Object) -> None:
        """Change objects of a collection alike."""
        body, kind = json.dumps(change).encode(), "application/merge-patch+json"
        await asyncio.gather(*(self.send("PATCH", f"{path}/{name}", body, kind) for name in names))

    async def items(self, path: str, selector: str = "") -> list[Object]:
        """All objects of a collection."""
        listed = await self.send("GET", f"{path}?labelSelector={selector}")
        items: list[Object] = listed["items"]
        return items

    async def watch(self, path: str) -> AsyncIterator[Object]:
        """The objects of a collection, each again whenever it changes."""
        async with self._session.get(f"{path}?watch=true") as answer:
            async for line in answer.content:
                event = json.loads(line)
                if event["type"] == "ERROR":
                    raise BenchmarkError(f"the watch ended: {event['object']}")
                yield event["object"]


def run_document(name: str, nodes: int, annotations: Mapping[str, str]) -> Object:
    """A TrainingRun as a person writes it, whose pods the fake nodes steer."""
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {"name": name},
        "spec": {
            "pretraining": {"objective": "MaskedLM"},
            "model": {"architecture": {"preset": "bert-mini"}},
            "tokenizer": {"train": {"algorithm": "WordPiece", "vocabularySize": 8192}},
            "data": {
                "sources": [{"name": "speeches", "uri": "file:///data/*.jsonl.gz", "format": "JsonLines"}]
            },
            "training": {
                "budget": {"steps": 2000},
                "globalBatchSize": nodes * 8,
                "microBatchSize": 8,
                "optimizer": {"learningRate": 0.0005},
                "precision": "FP32",
            },
            "workers": {"nodes": nodes, "podTemplate": {"metadata": {"annotations": dict(annotations)}}},
            "storage": {"volumeClaim": {"claimName": CLAIM}},
        },
    }


def bare_gang(
    namespace: str, name: str, nodes: int, annotations: Mapping[str, str]
) -> tuple[Object, list[Object]]:
    """The headless Service and the very pods of a run's training, as nobody's children."""
    document = run_document(name, nodes, annotations)
    document["metadata"]["namespace"] = namespace
    run = validate_document(to_document(validate_document(document)))
    owner = Owner(name, namespace, f"uid-of-{name}")
    defaults = WorkerDefaults(
        image="trainyard-trainer:latest",
        default_claim_name=CLAIM,
        progress_url="https://trainyard-progress.trainyard.svc:8443",
        ca_config_map="trainyard-progress-ca",
    )
    plan = plan_for_cluster(run, owner, 0, defaults)
    service = _orphan(build_service(owner, 0))
    pods = [_orphan(pod) for pod in build_gang(run, owner, plan, Stage.TRAIN, defaults, {})]
    return service, pods


def bare_job(namespace: str, name: str, nodes: int, annotations: Mapping[str, str]) -> tuple[Object, Object]:
    """A headless Service and an Indexed Job with the same pods."""
    service, pods = bare_gang(namespace, name, nodes, annotations)
    metadata, spec = pods[0]["metadata"], dict(pods[0]["spec"])
    del spec["hostname"]
    job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name},
        "spec": {
            "completionMode": "Indexed",
            "completions": nodes,
            "parallelism": nodes,
            "backoffLimit": 0,
            "template": {
                "metadata": {"labels": metadata["labels"], "annotations": dict(annotations)},
                "spec": spec,
            },
        },
    }
    return service, job


def _orphan(child: Object) -> Object:
    """A child without its owner and without the label by which the operator finds its children."""
    metadata = {key: value for key, value in child["metadata"].items() if key != "ownerReferences"}
    metadata["labels"] = {
        key: value for key, value in metadata["labels"].items() if key != Label.MANAGED_BY.value
    }
    return {**child, "metadata": metadata}
