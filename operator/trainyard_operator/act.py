"""The second third of a pass: make what a decision wants true. Every step may be repeated after a crash."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from trainyard_api.names import Label, Reason, Stage
from trainyard_api.plan import RunPlan
from trainyard_api.spec import TrainingRun
from trainyard_operator.cluster import CONFIG_MAPS, JOBS, PODS, RUNS, SERVICES, Cluster, Deletion, Object
from trainyard_operator.errors import (
    AlreadyExistsError,
    ClusterError,
    ConflictError,
    ForbiddenError,
    InvalidError,
    NotFoundError,
)
from trainyard_operator.facts import Begin, Decision, Stop
from trainyard_operator.keys import RunKey
from trainyard_operator.observe import observe_job, observe_object, observe_pod
from trainyard_operator.resources import (
    Owner,
    WorkerDefaults,
    build_plan_config_map,
    build_read_job,
    build_service,
    build_stage,
    config_map_name,
    plan_for_cluster,
    service_name,
)
from trainyard_operator.store import Store
from trainyard_operator.stored_plan import plan_in

LOGGER = logging.getLogger(__name__)

REPEAT_SECONDS = 5.0
"""How long a deletion is given to show before it is sent again."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """The cluster does not take an object; it may later."""

    reason: Reason
    message: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a decision."""

    begun: bool = False
    """Whether all objects of the stage are there now."""
    refusal: Refusal | None = None
    """Why they are not."""


class Actor:
    """Creates and deletes the children of runs.

    Args:
        cluster: where they are.
        store: gets what the API server answers, so that the next pass sees it before the watch does.
        defaults: what pods get where the run says nothing.
        clock: Unix time in seconds.
        before_pods: makes a namespace ready for pods; they start without it, so it may fail.
    """

    def __init__(
        self,
        cluster: Cluster,
        store: Store,
        defaults: WorkerDefaults,
        clock: Callable[[], float],
        before_pods: Callable[[str], Awaitable[None]] | None = None,
    ) -> None:
        self._cluster = cluster
        self._store = store
        self._defaults = defaults
        self._clock = clock
        self._before_pods = before_pods
        self._stopped_at: dict[tuple[RunKey, int], float] = {}

    async def act(self, key: RunKey, run: TrainingRun | None, decision: Decision) -> Outcome:
        """Do what was decided.

        Raises:
            ClusterError: the API server did not answer as it should; what is done stays done.
        """
        if decision.delete_run:
            await self._ignore_gone(
                self._cluster.delete(RUNS, key.namespace, key.name, Deletion(uid=key.uid))
            )
            return Outcome()
        stops = [self._stop(key, stop) for stop in decision.stops if self._is_due(key, stop)]
        if decision.begin is None or run is None:
            looked_after = [] if run is None else self._look_after(key, run, decision)
            results = await _all([*looked_after, *stops])
            return Outcome(refusal=next((result for result in results if result is not None), None))
        begin = self._begin(key, run, decision.begin)
        refusal, *_ = await _all([begin, self._prepare_namespace(key.namespace), *stops])
        return Outcome(begun=refusal is None, refusal=refusal)

    def forget(self, key: RunKey) -> None:
        """Drop what is kept of a run that is gone."""
        for place in [place for place in self._stopped_at if place[0] == key]:
            del self._stopped_at[place]

    async def _begin(self, key: RunKey, run: TrainingRun, begin: Begin) -> Refusal | None:
        """Make the objects of a stage; the plan of an attempt is made once and then law."""
        owner = Owner(key.name, key.namespace, key.uid)
        if begin.stage in (Stage.READ, Stage.PREPARE) and begin.is_new:
            plan = plan_for_cluster(run, owner, begin.attempt, self._defaults)
            work = self._work(key, build_stage(run, owner, plan, begin.stage, self._defaults))
            return await _first_refusal(
                [self._stored_plan(owner, plan), self._service(run, owner, begin), work]
            )
        plan = await self._plan(run, owner, begin)
        work = self._work(key, build_stage(run, owner, plan, begin.stage, self._defaults))
        return await _first_refusal([self._service(run, owner, begin), work])

    async def _work(self, key: RunKey, bodies: Sequence[Object]) -> None:
        """Create the Job or the pods of a stage, those that are not there."""
        if bodies[0]["kind"] == "Job":
            await self._job(key.namespace, bodies[0])
            return
        known = {pod.name for pod in self._store.pods(key)}
        await self._pods(key, [body for body in bodies if body["metadata"]["name"] not in known])

    def _look_after(
        self, key: RunKey, run: TrainingRun, decision: Decision
    ) -> list[Coroutine[Any, Any, Refusal | None]]:
        """What is to be done for a stage that is at work."""
        tasks = []
        if decision.probe is not None:
            tasks.append(self._probe(key, run, decision.probe))
        if decision.repair is not None:
            tasks.append(self._repair(key, run, decision.repair))
        return tasks

    async def _repair(self, key: RunKey, run: TrainingRun, stage: Begin) -> Refusal | None:
        """Make the Service and the plan of a stage again, unless they went because the run is going."""
        try:
            metadata = (await self._cluster.get(RUNS, key.namespace, key.name))["metadata"]
        except NotFoundError:
            return None
        if metadata["uid"] != key.uid or "deletionTimestamp" in metadata:
            return None
        LOGGER.warning("%s: its Service or plan was deleted and is made again", key)
        owner = Owner(key.name, key.namespace, key.uid)
        return await _first_refusal([self._plan(run, owner, stage), self._service(run, owner, stage)])

    async def _probe(self, key: RunKey, run: TrainingRun, stage: Begin) -> Refusal | None:
        """Ask why a Job makes no pods: what is refused to its controller, the API server tells here too."""
        owner = Owner(key.name, key.namespace, key.uid)
        plan = await self._plan(run, owner, stage)
        job = build_read_job(run, owner, plan, self._defaults)
        template = job["spec"]["template"]
        metadata = {**template["metadata"], "name": f"{job['metadata']['name']}-0"}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}
        return await _first_refusal([self._cluster.create(PODS, key.namespace, pod, dry_run=True)])

    async def _prepare_namespace(self, namespace: str) -> None:
        """Bring what pods need in every namespace, while the run's own objects are made."""
        if self._before_pods is None:
            return
        try:
            await self._before_pods(namespace)
        except ClusterError as error:
            LOGGER.warning("namespace %s is not ready for progress reports: %s", namespace, error)

    async def _plan(self, run: TrainingRun, owner: Owner, begin: Begin) -> RunPlan:
        """The plan of an attempt: the stored one, or a new one that gets stored."""
        if not begin.is_new:
            try:
                return await self._plan_that_is_there(owner, begin.attempt)
            except NotFoundError:
                pass  # somebody deleted it; it is made again below
        return await self._stored_plan(owner, plan_for_cluster(run, owner, begin.attempt, self._defaults))

    async def _stored_plan(self, owner: Owner, plan: RunPlan) -> RunPlan:
        """Store a plan; when one is stored already, such as before a crash, that one holds."""
        body = build_plan_config_map(owner, plan)
        try:
            self._keep(await self._cluster.create(CONFIG_MAPS, owner.namespace, body))
        except AlreadyExistsError:
            return await self._plan_that_is_there(owner, plan.attempt)
        return plan

    async def _plan_that_is_there(self, owner: Owner, attempt: int) -> RunPlan:
        """The stored plan of an attempt.

        Raises:
            NotFoundError: there is none.
        """
        stored = await self._cluster.get(CONFIG_MAPS, owner.namespace, config_map_name(owner, attempt))
        self._keep(stored)
        return plan_in(stored)

    async def _service(self, run: TrainingRun, owner: Owner, begin: Begin) -> None:
        """See to it that the run's Service selects the gang of this attempt."""
        if begin.stage is Stage.EXPORT:
            return
        if not begin.is_new:
            try:
                self._keep(await self._cluster.get(SERVICES, owner.namespace, service_name(owner)))
            except NotFoundError:
                pass  # somebody deleted it; it is made again below
            else:
                return
        service = build_service(owner, begin.attempt, has_cache=run.spec.caches_teacher)
        self._keep(await self._cluster.apply(SERVICES, owner.namespace, service))

    def _keep(self, raw: Object) -> None:
        """Remember that a Service or a plan is there, before a watch tells of it."""
        seen = observe_object(raw)
        if seen is not None:
            self._store.put_object(seen)

    async def _job(self, namespace: str, body: Object) -> None:
        """Create the Job of a stage, unless it is there."""
        try:
            raw = await self._cluster.create(JOBS, namespace, body)
        except AlreadyExistsError:
            raw = await self._cluster.get(JOBS, namespace, body["metadata"]["name"])
        job = observe_job(raw)
        if job is not None:
            self._store.put_job(job)

    async def _pods(self, key: RunKey, bodies: Sequence[Object]) -> None:
        """Create the pods of a gang at once; after a first refusal no further one is asked for.

        Raises:
            ForbiddenError: a quota or admission refuses a pod.
            InvalidError: the API server refuses it.
        """
        refused = asyncio.Event()

        async def create(body: Object) -> None:
            if not refused.is_set():
                try:
                    await self._pod(key, body)
                except (ForbiddenError, InvalidError):
                    refused.set()
                    raise

        await _all([create(body) for body in bodies])

    async def _pod(self, key: RunKey, body: Object) -> None:
        """Create a pod, unless it is there."""
        name = body["metadata"]["name"]
        try:
            raw = await self._cluster.create(PODS, key.namespace, body)
        except AlreadyExistsError:
            raw = await self._cluster.get(PODS, key.namespace, name)
        pod = observe_pod(raw, self._clock())
        if pod is None or pod.run != key:
            raise InvalidError(f"pod {name} is not of this run; delete it, because the run needs its name")
        self._store.put_pod(pod)

    async def _stop(self, key: RunKey, stop: Stop) -> None:
        """Delete what is at work of an attempt."""
        self._stopped_at[key, stop.attempt] = self._clock()
        tasks: list[Coroutine[Any, Any, None]] = [
            self._ignore_gone(self._cluster.delete(JOBS, key.namespace, job.name, Deletion(uid=job.uid)))
            for job in stop.jobs
        ]
        if stop.stages:
            stages = ",".join(stage.lower() for stage in stop.stages)
            selector = f"{Label.RUN_UID}={key.uid},{Label.ATTEMPT}={stop.attempt},{Label.STAGE} in ({stages})"
            deletion = Deletion(grace_seconds=stop.grace_seconds)
            tasks.append(self._cluster.delete_all(PODS, key.namespace, selector, deletion))
        await _all(tasks)

    def _is_due(self, key: RunKey, stop: Stop) -> bool:
        """Whether a deletion is to be sent: not while the last one may still be on its way to the watch."""
        sent_at = self._stopped_at.get((key, stop.attempt))
        return sent_at is None or self._clock() - sent_at >= REPEAT_SECONDS

    @staticmethod
    async def _ignore_gone(request: Coroutine[Any, Any, None]) -> None:
        """Delete what may be gone, or be another object of the same name by now."""
        try:
            await request
        except (NotFoundError, ConflictError):
            return


async def _first_refusal(tasks: Sequence[Coroutine[Any, Any, Any]]) -> Refusal | None:
    """Do several things at once; what the cluster refuses is told, what it cannot answer is raised."""
    try:
        await _all(tasks)
    except ForbiddenError as error:
        reason = Reason.QUOTA_EXCEEDED if error.is_quota else Reason.ADMISSION_REFUSED
        return Refusal(reason, error.message)
    except InvalidError as error:
        return Refusal(Reason.ADMISSION_REFUSED, error.message)
    return None


async def _all(tasks: Sequence[Coroutine[Any, Any, Any]]) -> list[Any]:
    """Do several things at once, each to its end; the gravest error is raised, refusals last."""
    results = await asyncio.gather(*tasks, return_exceptions=True)
    errors = [result for result in results if isinstance(result, BaseException)]
    grave = [error for error in errors if not isinstance(error, ForbiddenError | InvalidError)]
    for error in (*grave, *errors):
        raise error
    return results
