"""The first third of a pass: everything that its decision depends on, from memory where that is enough."""

import json
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace

from pydantic import ValidationError

from trainyard_api.immutability import immutable_differences
from trainyard_api.names import Label, Reason, Stage
from trainyard_api.plan import RunPlan
from trainyard_api.policy.conditions import is_finished
from trainyard_api.policy.upstream import Obstacle, Upstream, needed_runs, obstacle, with_models
from trainyard_api.problems import InvalidRunError, Problem
from trainyard_api.spec import Metadata, TrainingRun
from trainyard_api.validation import validate_document
from trainyard_operator.cluster import CLAIMS, JOBS, PODS, Cluster
from trainyard_operator.errors import NotFoundError
from trainyard_operator.facts import Facts
from trainyard_operator.gang import gang_of
from trainyard_operator.keys import RunKey
from trainyard_operator.observe import ObservedRun, observe_job, observe_pod
from trainyard_operator.progress_store import ProgressStore
from trainyard_operator.resources import (
    Owner,
    WorkerDefaults,
    config_map_name,
    problems_of_templates,
    service_name,
)
from trainyard_operator.steps import StepWatch
from trainyard_operator.store import Store
from trainyard_operator.stored_plan import read_plan

KEPT_SPECS = 64
"""Validated specs in memory; reading one again takes about a millisecond."""
CLAIM_SECONDS = 60.0
"""How long a claim that was found counts as there."""

_SHARED = "ReadWriteMany"
"""Access mode of a claim that pods of several nodes may write to."""
_FATAL_OBSTACLES = {
    Reason.UPSTREAM_MISSING: "Create that TrainingRun, or name another one",
    Reason.UPSTREAM_CYCLE: "Delete one of them, and create it again with another model to start from",
}
"""Why a run cannot start as it is written, and what to do."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What a document says."""

    spec: TrainingRun | None
    """The run; None when it cannot be read at all."""
    problems: tuple[Problem, ...]
    """What is wrong with it, the cluster's state apart."""


class Gatherer:
    """Collects the facts of a run.

    Args:
        store: what was seen.
        cluster: asked about what no watch tells.
        progress: what the processes told.
        steps: when they last told of a step.
        defaults: what pods get where the run says nothing.
        clock: Unix time in seconds.
    """

    def __init__(  # noqa: PLR0913 - where facts come from
        self,
        *,
        store: Store,
        cluster: Cluster,
        progress: ProgressStore,
        steps: StepWatch,
        defaults: WorkerDefaults,
        clock: Callable[[], float],
    ) -> None:
        self._store = store
        self._cluster = cluster
        self._progress = progress
        self._steps = steps
        self._defaults = defaults
        self._clock = clock
        self._readings: OrderedDict[tuple[str, int], Reading] = OrderedDict()
        self._changes: dict[str, tuple[int, tuple[Problem, ...]]] = {}
        """What must not have been changed in the spec of a run, by UID, and of which generation."""
        self._claims: dict[tuple[str, str], tuple[float, tuple[str, ...]]] = {}

    async def gather(self, key: RunKey) -> Facts | None:
        """The facts of a run; None when it is gone or going."""
        run = self._store.run(key)
        if run is None or run.deleting:
            return None
        reading = self._read(run)
        if is_finished(run.status.conditions):
            return self._facts(run, reading.spec)
        reading = await self._compared(run, reading)
        attempts = run.status.attempts
        if attempts and attempts[-1].finished_at is None:
            await self._confirm_children(run)
            lacks_objects = self._lacks_objects(run)
            if lacks_objects:
                reading = await self._resolved_again(run, reading)
            spec = reading.spec or await self._planned_spec(run)
            return replace(self._facts(run, spec, problems=reading.problems), lacks_objects=lacks_objects)
        return await self._before_start(run, await self._resolved_before(run, reading))

    def forget(self, key: RunKey) -> None:
        """Drop what is kept of a run that is gone."""
        for place in [place for place in self._readings if place[0] == key.uid]:
            del self._readings[place]
        self._changes.pop(key.uid, None)

    async def _compared(self, run: ObservedRun, reading: Reading) -> Reading:
        """The spec of a run that has begun, compared with what it began with.

        The API server refuses such changes itself, but not all of them: it takes a free-form object for the
        same when only keys without a schema were renamed in it.
        """
        if run.generation == 1 or not run.status.attempts or reading.spec is None or reading.problems:
            return reading
        generation, problems = self._changes.get(run.key.uid, (0, ()))
        if generation != run.generation:
            plan = await self._newest_plan(run)
            problems = () if plan is None else _changes_since(plan, reading.spec)
            self._changes[run.key.uid] = (run.generation, problems)
        return replace(reading, problems=problems)

    async def _before_start(self, run: ObservedRun, reading: Reading) -> Facts:
        """The facts of a run that is about to begin an attempt."""
        problems, reason = await self._problems(run, reading)
        spec = reading.spec
        if spec is None or problems or not needed_runs(spec.spec):
            return self._facts(run, spec, problems=problems, reason=reason)
        found = self._obstacle(run)
        if found is None:
            spec = with_models(spec, self._lookup(run.key.namespace))
        return self._facts(run, spec, reason=reason, found=found)

    async def _resolved_before(self, run: ObservedRun, reading: Reading) -> Reading:
        """The spec with the models that an earlier attempt started from.

        They stay what they were: the run that made them may be gone by now, or have been made anew.
        """
        if reading.spec is None or not run.upstream_names:
            return reading
        plan = await self._newest_plan(run)
        if plan is None:
            return reading
        models = {"model": plan.spec.model, "distillation": plan.spec.distillation}
        spec = reading.spec.model_copy(update={"spec": reading.spec.spec.model_copy(update=models)})
        return replace(reading, spec=spec)

    async def _planned_spec(self, run: ObservedRun) -> TrainingRun | None:
        """What an open attempt was started with, when the spec cannot be read any more; None without a plan.

        Its pods live by the plan: their failures, deadlines and ends must not go unnoticed.
        """
        owner = Owner(run.key.name, run.key.namespace, run.key.uid)
        try:
            plan = await read_plan(self._cluster, owner, run.status.attempts[-1].number)
        except NotFoundError:
            return None
        metadata = Metadata(name=run.key.name, namespace=run.key.namespace)
        return TrainingRun(metadata=metadata, spec=plan.spec)

    async def _newest_plan(self, run: ObservedRun) -> RunPlan | None:
        """The plan of the last attempt, or of the one before, should somebody have deleted it."""
        owner = Owner(run.key.name, run.key.namespace, run.key.uid)
        for attempt in reversed(run.status.attempts[-2:]):
            try:
                return await read_plan(self._cluster, owner, attempt.number)
            except NotFoundError:
                continue
        return None

    async def _resolved_again(self, run: ObservedRun, reading: Reading) -> Reading:
        """The spec with the models of an open attempt, whose plan may have to be made again."""
        reading = await self._resolved_before(run, reading)
        spec = reading.spec
        if spec is None or reading.problems or not needed_runs(spec.spec) or self._obstacle(run) is not None:
            return reading
        return replace(reading, spec=with_models(spec, self._lookup(run.key.namespace)))

    def _lacks_objects(self, run: ObservedRun) -> bool:
        """Whether the plan of an open attempt is not there, or the Service, which training needs last."""
        attempt, owner = run.status.attempts[-1], Owner(run.key.name, run.key.namespace, run.key.uid)
        needed = [config_map_name(owner, attempt.number)]
        if attempt.stage != Stage.EXPORT:
            needed.append(service_name(owner))
        return not self._store.has_objects(run.key, needed)

    def _facts(
        self,
        run: ObservedRun,
        spec: TrainingRun | None,
        *,
        problems: tuple[Problem, ...] = (),
        reason: Reason = Reason.SPEC_INVALID,
        found: Obstacle | None = None,
    ) -> Facts:
        self._steps.recall(run)
        return Facts(
            run=run,
            spec=spec,
            problems=problems,
            problem_reason=reason,
            obstacle=found,
            pods=tuple(self._store.pods(run.key)),
            jobs=tuple(self._store.jobs(run.key)),
            report=self._progress.newest(run.key),
            first_step_at=self._steps.first_step_at(run.key, run.status.attempt),
            last_step_at=self._steps.last_step_at(run.key, run.status.attempt),
        )

    def _read(self, run: ObservedRun) -> Reading:
        """The spec and its problems, remembered by generation."""
        place = (run.key.uid, run.generation)
        reading = self._readings.get(place)
        if reading is None:
            reading = self._read_document(json.loads(run.document))
            self._readings[place] = reading
            while len(self._readings) > KEPT_SPECS:
                self._readings.popitem(last=False)
        self._readings.move_to_end(place)
        return reading

    def _read_document(self, document: object) -> Reading:
        try:
            spec = validate_document(document)
        except InvalidRunError as error:
            try:
                return Reading(TrainingRun.model_validate(document), error.problems)
            except ValidationError:
                return Reading(None, error.problems)
        return Reading(spec, tuple(problems_of_templates(spec, self._defaults)))

    async def _problems(self, run: ObservedRun, reading: Reading) -> tuple[tuple[Problem, ...], Reason]:
        """What is wrong with a run that is about to start, the state of the cluster included."""
        if reading.spec is None or reading.problems:
            return reading.problems, Reason.SPEC_INVALID
        for field, name in needed_runs(reading.spec.spec).items():
            found = obstacle(run.key.name, [name], self._lookup(run.key.namespace))
            if found is not None and found.reason in _FATAL_OBSTACLES:
                return (Problem(field, found.message, _FATAL_OBSTACLES[found.reason]),), found.reason
        elsewhere = self._storage_problem(run, reading.spec)
        if elsewhere is not None:
            return (elsewhere,), Reason.SPEC_INVALID
        claim = await self._claim_problem(reading.spec)
        return ((), Reason.SPEC_VALID) if claim is None else ((claim[0],), claim[1])

    def _storage_problem(self, run: ObservedRun, spec: TrainingRun) -> Problem | None:
        """The problem that a model lies on another claim than the one that the pods will have, if so."""
        claim = self._claim_name(spec)
        for name in run.upstream_names if needed_runs(spec.spec) else ():
            upstream = self._store.run_by_name(run.key.namespace, name)
            made = None if upstream is None else self._read(upstream).spec
            if made is not None and self._claim_name(made) != claim:
                return Problem(
                    "spec.storage.volumeClaim.claimName",
                    f"TrainingRun {name} keeps its model on claim {self._claim_name(made)}, which the pods "
                    f"of this run, with claim {claim}, cannot read",
                    f"Set it to {self._claim_name(made)}",
                )
        return None

    def _claim_name(self, spec: TrainingRun) -> str:
        """The claim that a run keeps its things on."""
        volume = spec.spec.storage.volume_claim
        return self._defaults.default_claim_name if volume is None else volume.claim_name

    async def _claim_problem(self, spec: TrainingRun) -> tuple[Problem, Reason] | None:
        """The problem that the run's claim does not exist, or cannot be shared as it has to be, if so."""
        name = self._claim_name(spec)
        namespace = spec.metadata.namespace
        modes = await self._access_modes(namespace, name)
        if modes is None:
            problem = Problem(
                "spec.storage.volumeClaim.claimName",
                f"there is no PersistentVolumeClaim {name} in namespace {namespace}",
                "Create it with access mode ReadWriteMany, or name another one",
            )
            return problem, Reason.CLAIM_MISSING
        if spec.spec.data.preparation.shards > 1 and _SHARED not in modes:
            problem = Problem(
                "spec.data.preparation.shards",
                f"PersistentVolumeClaim {name} is {', '.join(modes)}, and pods of several nodes share it",
                f"Name a claim with access mode {_SHARED}, or remove the field",
            )
            return problem, Reason.SPEC_INVALID
        return None

    async def _access_modes(self, namespace: str, name: str) -> tuple[str, ...] | None:
        """The access modes of a claim; None when it does not exist."""
        found_at, modes = self._claims.get((namespace, name), (float("-inf"), ()))
        if self._clock() - found_at < CLAIM_SECONDS:
            return modes
        try:
            claim = await self._cluster.get(CLAIMS, namespace, name)
        except NotFoundError:
            self._claims.pop((namespace, name), None)
            return None
        modes = tuple((claim.get("spec") or {}).get("accessModes") or ())
        self._claims[namespace, name] = (self._clock(), modes)
        return modes

    async def _confirm_children(self, run: ObservedRun) -> None:
        """Ask the API server before a pod or Job counts as lost only because no watch told of it."""
        attempt = run.status.attempts[-1]
        gang = gang_of(attempt, self._store.pods(run.key), self._store.jobs(run.key))
        if attempt.pods_created_at is None or gang.is_job or not gang.missing:
            return
        selector = f"{Label.RUN_UID}={run.key.uid}"
        if gang.stage is Stage.READ:
            async for page in self._cluster.pages(JOBS, run.key.namespace, selector):
                for raw in page:
                    job = observe_job(raw)
                    if job is not None:
                        self._store.put_job(job)
        async for page in self._cluster.pages(PODS, run.key.namespace, selector):
            for raw in page:
                pod = observe_pod(raw, self._clock())
                if pod is not None:
                    self._store.put_pod(pod)

    def _obstacle(self, run: ObservedRun) -> Obstacle | None:
        """Why a run cannot start on account of others."""
        if not run.upstream_names:
            return None
        return obstacle(run.key.name, run.upstream_names, self._lookup(run.key.namespace))

    def _lookup(self, namespace: str) -> Callable[[str], Upstream | None]:
        """Finds the runs of a namespace."""

        def lookup(name: str) -> Upstream | None:
            run = self._store.run_by_name(namespace, name)
            return None if run is None or run.deleting else Upstream(run.status, run.upstream_names)

        return lookup


def _changes_since(plan: RunPlan, run: TrainingRun) -> tuple[Problem, ...]:
    """What differs from a plan in the fields that may not change; the models of other runs are its own."""
    begun = run.model_copy(update={"spec": plan.spec})
    if needed_runs(run.spec):
        models = {"model": plan.spec.model, "distillation": plan.spec.distillation}
        run = run.model_copy(update={"spec": run.spec.model_copy(update=models)})
    return tuple(
        Problem(
            change.path,
            f"it was changed after the run had begun ({change.values})",
            "Change it back, or create a new TrainingRun",
        )
        for change in immutable_differences(begun, run)
    )
