"""A thousand runs that train: what the operator holds, uses and writes, at rest and while all report."""

import asyncio
import json
import ssl
import time
from collections import deque
from dataclasses import dataclass, field

from operator_api import PODS, RUNS, TRAINS_ON, Api, run_document
from operator_audit import OPERATOR, BenchmarkError, Recording
from operator_cluster import NAMESPACE, PROGRESS_SERVICE, Ground, Operator

from tests.cluster.addresses import LOOPBACK
from trainyard_api.names import PROGRESS_AUDIENCE, Label, progress_path
from trainyard_api.timestamps import format_timestamp

INTERVAL_SECONDS = 5.0
"""Between two reports of a run."""
_START_SECONDS = 300.0
_CATCH_UP_SECONDS = 20.0


def start_runs(ground: Ground, namespace: str, number: int) -> None:
    """Create runs of one pod and wait until all of them train and the operator has told so.

    Raises:
        BenchmarkError: they do not.
    """
    recording = Recording.begin(ground.audit, namespace)

    async def create_and_wait() -> None:
        async with Api(ground.kubeconfig) as api:
            documents = [run_document(f"run-{index}", 1, TRAINS_ON) for index in range(number)]
            await api.create_all(RUNS.format(namespace), documents)
            await asyncio.to_thread(recording.wait_for_pods, number, marker="-t0-", seconds=_START_SECONDS)
            deadline = time.monotonic() + _START_SECONDS
            while (running := await _num_training(api, namespace)) < number:
                if time.monotonic() > deadline:
                    raise BenchmarkError(f"{running} of {number} runs train")
                await asyncio.sleep(2)

    asyncio.run(create_and_wait())


async def _num_training(api: Api, namespace: str) -> int:
    """How many runs are known to train."""
    runs = await api.items(RUNS.format(namespace))
    return sum(
        any(
            condition["type"] == "Running"
            and condition["status"] == "True"
            and "Train" in condition["message"]
            for condition in run.get("status", {}).get("conditions", ())
        )
        for run in runs
    )


@dataclass(frozen=True)
class Calm:
    """A time in which nothing happened."""

    writes: int
    """Of the operator, its Lease apart."""
    cpu_percent: float
    """Of one core."""
    resident_megabytes: float


def stay_calm(ground: Ground, operator: Operator, seconds: float) -> Calm:
    """Watch the operator while nothing happens."""
    since, used = ground.audit.position(), operator.cpu_seconds
    time.sleep(seconds)
    used = operator.cpu_seconds - used
    writes = sum(
        1 for write in ground.audit.writes(since) if write.user == OPERATOR and write.resource != "leases"
    )
    return Calm(writes, 100.0 * used / seconds, operator.resident_megabytes)


@dataclass
class Reporting:
    """What became of the reports of all runs."""

    staleness: list[float] = field(default_factory=list)
    """Of each report: seconds from its acceptance until the status had it, or a newer one."""
    refused: list[str] = field(default_factory=list)
    """Why reports were not accepted; the next one follows at its time, as the trainer's does."""
    unseen: int = 0
    """Reports that no status ever had."""
    posts_per_second: float = 0.0
    patches_per_second: float = 0.0
    cpu_percent: float = 0.0
    """The operator's, of one core."""
    _waiting: dict[str, deque[tuple[int, float]]] = field(default_factory=dict)

    def accepted(self, name: str, step: int, now: float) -> None:
        """The operator took a report."""
        self._waiting.setdefault(name, deque()).append((step, now))

    def shown(self, name: str, step: int, now: float) -> None:
        """A status has this step."""
        waiting = self._waiting.get(name, deque())
        while waiting and waiting[0][0] <= step:
            self.staleness.append(max(0.0, now - waiting.popleft()[1]))

    def close(self) -> None:
        """Nothing more is waited for."""
        self.unseen = sum(map(len, self._waiting.values()))


def report_progress(ground: Ground, operator: Operator, namespace: str, seconds: float) -> Reporting:
    """Have every run of a namespace report over TLS with its pod's token, each POST by a new connection."""
    return asyncio.run(_report_progress(ground, operator, namespace, seconds))


async def _report_progress(ground: Ground, operator: Operator, namespace: str, seconds: float) -> Reporting:
    reporting = Reporting()
    async with Api(ground.kubeconfig) as api:
        tokens = await _tokens(api, namespace)
        context = await _context(api, namespace)
        watching = asyncio.create_task(_watch(api, namespace, reporting))
        since, used, started = ground.audit.position(), operator.cpu_seconds, time.monotonic()
        end = started + seconds
        async with asyncio.TaskGroup() as group:
            for index, (name, token) in enumerate(tokens.items()):
                target = _Target(operator.progress_port, context, namespace, name, token)
                delay = INTERVAL_SECONDS * index / len(tokens)
                group.create_task(_report(target, started + delay, end, reporting))
        took = time.monotonic() - started
        reporting.cpu_percent = 100.0 * (operator.cpu_seconds - used) / took
        writes = [
            write
            for write in ground.audit.writes(since)
            if write.user == OPERATOR and "status" in write.resource
        ]
        reporting.patches_per_second = len(writes) / took
        await asyncio.sleep(_CATCH_UP_SECONDS)
        watching.cancel()
        await asyncio.wait({watching})
        if not watching.cancelled():
            watching.result()
    reporting.close()
    reporting.posts_per_second = (len(reporting.staleness) + reporting.unseen) / took
    return reporting


async def _tokens(api: Api, namespace: str) -> dict[str, str]:
    """A token for the pod of each run, by the run's name; what the kubelet would project."""
    pods = await api.items(PODS.format(namespace), f"{Label.STAGE}=train")

    async def token(name: str, uid: str) -> str:
        request = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {
                "audiences": [PROGRESS_AUDIENCE],
                "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid},
            },
        }
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/default/token"
        answer = await api.send("POST", path, json.dumps(request).encode())
        return str(answer["status"]["token"])

    made = await asyncio.gather(*(token(pod["metadata"]["name"], pod["metadata"]["uid"]) for pod in pods))
    return {pod["metadata"]["labels"][Label.RUN]: token for pod, token in zip(pods, made, strict=True)}


async def _context(api: Api, namespace: str) -> ssl.SSLContext:
    """Trust in the operator, by what it published to the namespace."""
    bundle = await api.send("GET", f"/api/v1/namespaces/{namespace}/configmaps/trainyard-progress-ca")
    return ssl.create_default_context(cadata=bundle["data"]["ca.crt"])


@dataclass(frozen=True)
class _Target:
    port: int
    context: ssl.SSLContext
    namespace: str
    name: str
    token: str

    async def post(self, step: int) -> None:
        """One report on a connection of its own, as the trainer does it."""
        progress = {
            "stage": "Train",
            "step": step,
            "totalSteps": 2000,
            "tokens": step * 16384,
            "percent": step / 20,
            "loss": 10.0 / (step + 1),
            "tokensPerSecond": 8000.0,
            "updatedAt": format_timestamp(time.time()),
        }
        body = json.dumps({"attempt": 0, "progress": progress}).encode()
        head = (
            f"POST {progress_path(self.namespace, self.name)} HTTP/1.1\r\nHost: {PROGRESS_SERVICE}\r\n"
            f"Authorization: Bearer {self.token}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        reader, writer = await asyncio.open_connection(
            LOOPBACK, self.port, ssl=self.context, server_hostname=f"{PROGRESS_SERVICE}.{NAMESPACE}.svc"
        )
        writer.write(head.encode() + body)
        answer = await reader.read()
        writer.close()
        if not answer.startswith(b"HTTP/1.1 200 "):
            raise BenchmarkError(f"{self.name}: {answer[:300]!r}")


async def _report(target: _Target, first: float, end: float, reporting: Reporting) -> None:
    """Report every INTERVAL_SECONDS."""
    step, due = 1, first
    while due < end:
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        try:
            await target.post(step)
        except (OSError, BenchmarkError) as error:
            reporting.refused.append(f"{type(error).__name__}: {error}")
        else:
            reporting.accepted(target.name, step, time.monotonic())
        step, due = step + 1, due + INTERVAL_SECONDS


async def _watch(api: Api, namespace: str, reporting: Reporting) -> None:
    """See every status."""
    async for run in api.watch(RUNS.format(namespace)):
        step = run.get("status", {}).get("progress", {}).get("step", 0)
        reporting.shown(run["metadata"]["name"], step, time.monotonic())
