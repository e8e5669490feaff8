"""The operator's core on a fake cluster in virtual time: everything but kopf and a real API server."""

import asyncio
import copy
import itertools
from collections.abc import Callable, Coroutine
from typing import Any

import yaml

from tests.support.fake_cluster import Call, FakeCluster
from tests.support.fake_nodes import FakeNodes, LifeOf, ordinary_life
from tests.support.virtual_time import run_in_virtual_time
from trainyard_api.progress import ProgressReport
from trainyard_api.spec import to_document
from trainyard_api.status import TrainingRunStatus
from trainyard_api.validation import validate_document
from trainyard_operator.act import Actor
from trainyard_operator.cluster import (
    CLAIMS,
    CONFIG_MAPS,
    JOBS,
    PODS,
    RUNS,
    SERVICES,
    Object,
    Resource,
)
from trainyard_operator.controller import Controller
from trainyard_operator.gather import Gatherer
from trainyard_operator.intake import Intake
from trainyard_operator.keys import RunKey
from trainyard_operator.progress_store import ProgressStore
from trainyard_operator.reconcile import Listeners, Reconciler
from trainyard_operator.resources import WorkerDefaults
from trainyard_operator.settings import Settings
from trainyard_operator.steps import StepWatch
from trainyard_operator.store import Store
from trainyard_operator.work_queue import WorkQueue

NAMESPACE = "research"
EPOCH = 1_800_000_000.0
DEFAULTS = WorkerDefaults(
    image="trainyard-trainer:test",
    default_claim_name="trainyard",
    progress_url="https://operator.test:8443",
    ca_config_map="trainyard-progress-ca",
)

MANIFEST = """
apiVersion: trainyard.dev/v1alpha1
kind: TrainingRun
metadata: {name: speeches}
spec:
  pretraining: {objective: MaskedLM}
  model: {architecture: {preset: bert-mini}}
  tokenizer: {train: {algorithm: WordPiece, vocabularySize: 8192}}
  data:
    sources:
    - {name: speeches, uri: "file:///data/speeches/*.jsonl.gz", format: JsonLines}
  training:
    budget: {steps: 200}
    globalBatchSize: 64
    microBatchSize: 8
    optimizer: {learningRate: 0.0005}
    precision: FP32
  workers: {nodes: 2}
"""


class CrashError(BaseException):
    """The operator's process dies."""


def run_document(name: str = "speeches", **spec: Any) -> Object:
    """A valid run, as the API server holds it with its defaults; `spec` replaces or adds fields."""
    document = yaml.safe_load(MANIFEST)
    document["metadata"] = {"name": name, "namespace": NAMESPACE}
    written = to_document(validate_document(document))
    for field, value in spec.items():
        known = written["spec"].get(field)
        written["spec"][field] = {**known, **value} if isinstance(known, dict) else value
    return written


def sharded_document(num_shards: int = 2) -> Object:
    """A run whose sources are read in shards, and so by a Job."""
    return run_document(data={"preparation": {"shards": num_shards}})


class Operator:
    """One life of the operator's process."""

    def __init__(self, cluster: FakeCluster, settings: Settings) -> None:
        clock = cluster.clock
        self.cluster = cluster
        self.store = Store()
        self.queue: WorkQueue[RunKey] = WorkQueue()
        self.steps = StepWatch()
        self.progress = ProgressStore()
        self.intake = Intake(self.store, self.queue, clock)
        self.results: list[str] = []
        gatherer = Gatherer(
            store=self.store,
            cluster=cluster,
            progress=self.progress,
            steps=self.steps,
            defaults=DEFAULTS,
            clock=clock,
        )
        self.reconciler = Reconciler(
            cluster=cluster,
            store=self.store,
            queue=self.queue,
            gatherer=gatherer,
            actor=Actor(cluster, self.store, DEFAULTS, clock),
            listeners=Listeners(on_gone=[self.steps.forget, self.progress.forget]),
            settings=settings,
            clock=clock,
        )
        self.progress.on_change = self.reconciler.progress_changed
        self.controller = Controller(
            self.queue,
            self.reconciler,
            lambda: True,
            lambda result, _: self.results.append(result),
            lambda *_: None,
        )

    async def run(self) -> None:
        """Look at what is there, then follow the watch until the end."""
        self.cluster.watchers.append(self._see)
        try:
            await self.intake.resync_until_done(self.cluster, ())
            self.intake.queue_everything()
            await self.controller.run(4)
        finally:
            self.cluster.watchers.remove(self._see)

    def _see(self, resource: Resource, kind: str, stored: Object) -> None:
        handlers = {
            RUNS: self.intake.run_event,
            PODS: self.intake.pod_event,
            JOBS: self.intake.job_event,
            SERVICES: self.intake.object_event,
            CONFIG_MAPS: self.intake.object_event,
        }
        if resource in handlers:
            handlers[resource](kind, stored)


class World:
    """A cluster, its nodes, and an operator that is started again whenever it dies."""

    def __init__(
        self,
        life_of: LifeOf = ordinary_life,
        settings: Settings | None = None,
    ) -> None:
        loop = asyncio.get_running_loop()
        self.cluster = FakeCluster(clock=lambda: EPOCH + loop.time())
        self.nodes = FakeNodes(self.cluster, life_of)
        self.settings = settings or Settings()
        self.starts = 0
        self.operator = Operator(self.cluster, self.settings)
        claim = {
            "metadata": {"name": "trainyard", "namespace": NAMESPACE},
            "spec": {"accessModes": ["ReadWriteMany"]},
        }
        self.cluster.put_new(CLAIMS, NAMESPACE, claim)
        self._task = loop.create_task(self._keep_running())

    async def _keep_running(self) -> None:
        for self.starts in itertools.count(1):
            try:
                await self.operator.run()
            except BaseExceptionGroup as group:
                if not group.subgroup(CrashError):
                    raise
            except CrashError:
                pass
            self.operator = Operator(self.cluster, self.settings)

    async def close(self) -> None:
        """End everything."""
        self.nodes.stop()
        self._task.cancel()
        try:
            await self._task
        except asyncio.CancelledError:
            return

    async def after(self, seconds: float) -> None:
        """Let time pass; an operator that broke for good fails the test."""
        await asyncio.sleep(seconds)
        if self._task.done():
            self._task.result()

    def create(self, document: Object | None = None) -> RunKey:
        """Create a run."""
        stored = self.cluster.put_new(RUNS, NAMESPACE, copy.deepcopy(document or run_document()))
        return RunKey(NAMESPACE, stored["metadata"]["name"], stored["metadata"]["uid"])

    def edit(self, name: str = "speeches", **spec: Any) -> None:
        """Change fields of a run's spec."""

        def edit(stored: Object) -> None:
            for field, value in spec.items():
                known = stored["spec"].get(field)
                stored["spec"][field] = {**known, **value} if isinstance(known, dict) else value

        self.cluster.change(RUNS, NAMESPACE, name, edit)

    def delete(self, name: str = "speeches") -> None:
        """Delete a run."""
        self.cluster.remove(RUNS, NAMESPACE, name)

    def status(self, name: str = "speeches") -> TrainingRunStatus:
        """What the API server holds of a run's status."""
        stored = self.cluster.stored(RUNS, NAMESPACE, name)
        return TrainingRunStatus.model_validate(stored.get("status", {}))

    def condition(self, kind: str, name: str = "speeches") -> tuple[str, str, str]:
        """Status, reason and message of a condition; empty when it was never set."""
        for condition in self.status(name).conditions:
            if condition.type == kind:
                return condition.status, condition.reason, condition.message
        return "", "", ""

    def pods(self, stage: str = "", name: str = "speeches") -> list[Object]:
        """The pods of a run."""
        return [
            pod
            for pod in self.cluster.objects(PODS)
            if pod["metadata"]["labels"]["trainyard.dev/run"] == name
            and stage in ("", pod["metadata"]["labels"]["trainyard.dev/stage"])
        ]

    def report(
        self,
        key: RunKey,
        attempt: int,
        step: int,
        checkpoint_step: int | None = None,
        detail: str = "",
        *,
        stage: str = "Train",
    ) -> None:
        """The trainer tells of its progress."""
        now = "2027-01-15T08:00:00Z"
        document: Object = {
            "attempt": attempt,
            "progress": {
                "stage": stage,
                "step": step,
                "totalSteps": 200,
                "detail": detail,
                "updatedAt": now,
            },
        }
        if checkpoint_step is not None:
            document["checkpoint"] = {"step": checkpoint_step, "uri": "file:///data/c", "committedAt": now}
        report = ProgressReport.model_validate(document)
        clock = self.cluster.clock()
        self.operator.steps.record(key, report, clock)
        self.operator.progress.record(key, report, clock)


def play(scenario: Callable[[World], Coroutine[Any, Any, None]], **world: Any) -> World:
    """Play a scenario in virtual time, and return the world at its end."""

    async def played() -> World:
        made = World(**world)
        try:
            await scenario(made)
        finally:
            await made.close()
        return made

    return run_in_virtual_time(played())


def crash_at(number: int, *, committed: bool) -> Callable[[Call, bool], None]:
    """A fault that kills the operator at its n-th request, before or after it takes effect."""
    count = itertools.count(1)

    def fault(call: Call, is_committed: bool) -> None:
        del call
        if is_committed == committed and next(count) == number:
            raise CrashError

    return fault
