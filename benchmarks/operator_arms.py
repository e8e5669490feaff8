"""The arms of the operator's benchmark: each makes the pods of many gangs, or the first pod of one.

A run is measured as its user has it: it prepares its data before its gang starts, which no bare arm does.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from operator_api import JOBS, PODS, RUNS, SERVICES, TRAINS_ON, Api, bare_gang, bare_job, run_document
from operator_audit import (
    JOB_CONTROLLER,
    OPERATOR,
    BenchmarkError,
    Recording,
    is_gang_pod,
    is_new_pod,
    seconds_between,
)
from operator_cluster import Ground, poll

from tests.cluster.audit import Write

TRAINYARD = "Trainyard"
PREPARED = "Trainyard, prepared before"
DEFAULT_JOB = "Job, 20 requests/s"
RAISED_JOB = "Job, 1,000 requests/s"
LOADER = "loader"
RAISED_LIMIT = 1000


@dataclass(frozen=True)
class Load:
    """How many gangs of how many pods."""

    runs: int
    nodes: int

    @property
    def pods(self) -> int:
        """Pods of all gangs."""
        return self.runs * self.nodes

    @property
    def names(self) -> list[str]:
        """Names of the gangs."""
        return [f"run-{number}" for number in range(self.runs)]


def burst_arms(ground: Ground, load: Load) -> dict[str, Callable[[], float]]:
    """Each makes all gangs at once; seconds from the first request to the answer of the last pod's."""
    return {
        TRAINYARD: lambda: _trainyard_burst(ground, load),
        PREPARED: lambda: _resumed_burst(ground, load),
        DEFAULT_JOB: lambda: _job_burst(ground, load, None),
        RAISED_JOB: lambda: _job_burst(ground, load, RAISED_LIMIT),
        LOADER: lambda: _loader_burst(ground, load),
    }


def _trainyard_burst(ground: Ground, load: Load) -> float:
    with ground.namespace() as namespace, ground.operator():
        recording = Recording.begin(ground.audit, namespace)

        async def create() -> None:
            async with Api(ground.kubeconfig) as api:
                documents = [run_document(name, load.nodes, TRAINS_ON) for name in load.names]
                await api.create_all(RUNS.format(namespace), documents)

        asyncio.run(create())
        recording.wait_for_pods(load.pods, marker="-t0-")
        return _span(recording.writes(), is_gang_pod)


def _resumed_burst(ground: Ground, load: Load) -> float:
    """The same runs once more: suspended when they train, and resumed at once.

    Their data is prepared, so that this is about gangs alone, as the bare arms are.
    """
    with ground.namespace() as namespace, ground.operator():
        recording = Recording.begin(ground.audit, namespace)
        path = RUNS.format(namespace)

        async def create_and_suspend() -> None:
            async with Api(ground.kubeconfig) as api:
                documents = [run_document(name, load.nodes, TRAINS_ON) for name in load.names]
                await api.create_all(path, documents)
                await asyncio.to_thread(recording.wait_for_pods, load.pods, marker="-t0-")
                await api.merge_all(path, load.names, {"spec": {"suspend": True}})

                async def are_suspended() -> bool:
                    runs = await api.items(path)
                    return all(run.get("status", {}).get("phase") == "Suspended" for run in runs)

                await poll(are_suspended, "all runs are suspended")

        async def resume() -> None:
            async with Api(ground.kubeconfig) as api:
                await api.merge_all(path, load.names, {"spec": {"suspend": False}})

        asyncio.run(create_and_suspend())
        resumed = Recording.begin(ground.audit, namespace)
        asyncio.run(resume())
        resumed.wait_for_pods(load.pods, marker="-t1-")
        return _span(resumed.writes(), is_new_pod)


def _job_burst(ground: Ground, load: Load, limit: int | None) -> float:
    with ground.namespace() as namespace:
        ground.run_job_controller(limit)
        recording = Recording.begin(ground.audit, namespace)
        parts = [bare_job(namespace, name, load.nodes, TRAINS_ON) for name in load.names]

        async def create() -> None:
            async with Api(ground.kubeconfig) as api:
                await asyncio.gather(
                    api.create_all(SERVICES.format(namespace), [service for service, _ in parts]),
                    api.create_all(JOBS.format(namespace), [job for _, job in parts]),
                )

        asyncio.run(create())
        recording.wait_for_pods(load.pods)
        return _span(recording.writes(), is_new_pod)


def _loader_burst(ground: Ground, load: Load) -> float:
    with ground.namespace() as namespace:
        recording = Recording.begin(ground.audit, namespace)
        pods = [pod for name in load.names for pod in bare_gang(namespace, name, load.nodes, TRAINS_ON)[1]]

        async def create() -> None:
            async with Api(ground.kubeconfig) as api:
                await api.create_all(PODS.format(namespace), pods)

        asyncio.run(create())
        recording.wait_for_pods(load.pods)
        return _span(recording.writes(), is_new_pod)


def _span(writes: list[Write], is_last: Callable[[Write], bool]) -> float:
    """Seconds from the first request for a run, a Job or a pod to the answer of the last pod."""
    begin = [write for write in writes if write.resource in {"trainingruns", "jobs", "pods"}]
    first = min(begin, key=lambda write: write.received_at)
    last = max(filter(is_last, writes), key=lambda write: write.answered_at)
    return seconds_between(first, last)


@dataclass(frozen=True)
class FirstPods:
    """Seconds from requests at an idle cluster."""

    to_pod: list[float]
    """To the answer of the request for the first pod."""
    to_write: list[float]
    """To the answer of the controller's first write of any kind."""


def first_pod_arms(ground: Ground, namespace: str) -> dict[str, Callable[[str, int, float], FirstPods]]:
    """Each creates runs or Jobs one by one; it gets a part of their names, their number and a pause."""

    def measure(prefix: str, kind: str, creates: int, pause_seconds: float) -> FirstPods:
        recording = Recording.begin(ground.audit, namespace)
        names = [f"{prefix}-{number}" for number in range(creates)]
        asyncio.run(_create_slowly(ground, namespace, kind, names, pause_seconds))
        controllers = (OPERATOR, JOB_CONTROLLER) if kind == "trainingruns" else (JOB_CONTROLLER,)
        return _first_pods(recording.writes(), kind, names, controllers)

    return {
        TRAINYARD: lambda repeat, creates, pause: measure(f"run-{repeat}", "trainingruns", creates, pause),
        DEFAULT_JOB: lambda repeat, creates, pause: measure(f"job-{repeat}", "jobs", creates, pause),
    }


async def _create_slowly(
    ground: Ground, namespace: str, kind: str, names: list[str], pause_seconds: float
) -> None:
    """Create runs, or Services and Jobs, with a pause after each."""
    async with Api(ground.kubeconfig) as api:
        for name in names:
            if kind == "trainingruns":
                await api.create_all(RUNS.format(namespace), [run_document(name, 2, {})])
            else:
                service, job = bare_job(namespace, name, 2, {})
                await api.create_all(SERVICES.format(namespace), [service])
                await api.create_all(JOBS.format(namespace), [job])
            await asyncio.sleep(pause_seconds)


def _first_pods(writes: list[Write], kind: str, names: list[str], controllers: tuple[str, ...]) -> FirstPods:
    """What followed each request before the next one came.

    Raises:
        BenchmarkError: a request had no pod by then.
    """
    writes = sorted(writes, key=lambda write: write.received_at)
    starts = [
        index
        for index, write in enumerate(writes)
        if write.verb == "create"
        and write.resource == kind
        and write.name in names
        and write.user not in controllers
    ]
    to_pod, to_write = [], []
    for start, end in zip(starts, [*starts[1:], len(writes)], strict=True):
        own = [write for write in writes[start + 1 : end] if write.user in controllers]
        pods = [write for write in own if is_new_pod(write)]
        if not pods:
            raise BenchmarkError(f"{writes[start].name}: no pod before the next {kind} was created")
        to_pod.append(min(seconds_between(writes[start], pod) for pod in pods))
        to_write.append(min(seconds_between(writes[start], write) for write in own))
    return FirstPods(to_pod, to_write)
