"""A run that starts from the models of others: whether it may start, and from where."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from trainyard_api.names import ConditionType, Reason
from trainyard_api.policy.conditions import holds
from trainyard_api.spec import TrainingRun, TrainingRunSpec
from trainyard_api.spec_distillation import Teacher
from trainyard_api.spec_model import Model, ModelFromRun, PretrainedModel
from trainyard_api.status import TrainingRunStatus


@dataclass(frozen=True, slots=True)
class Upstream:
    """Another run, as far as it matters to those that start from it."""

    status: TrainingRunStatus
    """Its status."""
    needs: tuple[str, ...]
    """Names of the runs that it starts from itself."""


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Why a run cannot start yet."""

    reason: Reason
    """Why."""
    message: str
    """Why, and for whom it waits."""


Lookup = Callable[[str], Upstream | None]
"""The run of a name in the same namespace; None when there is none."""


def needed_runs(spec: TrainingRunSpec) -> dict[str, str]:
    """Names of the runs whose models a run reads, by the fields that name them."""
    models = {"spec.model": spec.model.from_run}
    if spec.distillation is not None:
        models["spec.distillation.teacher"] = spec.distillation.teacher.from_run
    return {f"{path}.fromRun.name": model.name for path, model in models.items() if model is not None}


def obstacle(name: str, needs: Iterable[str], lookup: Lookup) -> Obstacle | None:
    """What keeps a run from starting; None when all models that it needs are there.

    Args:
        name: the run itself.
        needs: names of the runs that it starts from.
        lookup: finds a run.
    """
    for needed in needs:
        found = _obstacle(name, needed, lookup)
        if found is not None:
            return found
    return None


def with_models(run: TrainingRun, lookup: Lookup) -> TrainingRun:
    """The run with each reference to another run replaced by the place of that run's model.

    Raises:
        ValueError: a model is not there; `obstacle` tells so before.
    """
    spec = run.spec
    model = spec.model
    if model.from_run is not None:
        model = Model(pretrained=_stored(model.from_run, lookup))
    distillation = spec.distillation
    if distillation is not None and distillation.teacher.from_run is not None:
        teacher = Teacher(pretrained=_stored(distillation.teacher.from_run, lookup))
        distillation = distillation.model_copy(update={"teacher": teacher})
    updated = spec.model_copy(update={"model": model, "distillation": distillation})
    return run.model_copy(update={"spec": updated})


def _obstacle(name: str, needed: str, lookup: Lookup) -> Obstacle | None:
    """What keeps a run from starting, on account of one other run."""
    upstream = lookup(needed)
    if upstream is None:
        return Obstacle(Reason.UPSTREAM_MISSING, f"There is no TrainingRun {needed} in this namespace")
    cycle = _path(needed, name, lookup)
    if cycle is not None:
        chain = " -> ".join([name, *cycle])
        return Obstacle(Reason.UPSTREAM_CYCLE, f"The runs wait for each other: {chain}")
    if holds(upstream.status.conditions, ConditionType.FAILED):
        return Obstacle(
            Reason.UPSTREAM_FAILED,
            f"TrainingRun {needed} has failed; delete it and create it again, or start from another model",
        )
    if not holds(upstream.status.conditions, ConditionType.COMPLETE) or upstream.status.model is None:
        return Obstacle(Reason.WAITING_FOR_RUN, f"Waits for TrainingRun {needed}")
    return None


def _path(start: str, goal: str, lookup: Lookup) -> list[str] | None:
    """The chain of runs from one to another; None when there is none."""
    paths = [[start]]
    seen: set[str] = set()
    while paths:
        path = paths.pop()
        if path[-1] == goal:
            return path
        if path[-1] in seen:
            continue
        seen.add(path[-1])
        upstream = lookup(path[-1])
        paths += [[*path, needed] for needed in (() if upstream is None else upstream.needs)]
    return None


def _stored(reference: ModelFromRun, lookup: Lookup) -> PretrainedModel:
    """The place of the model of another run."""
    upstream = lookup(reference.name)
    if upstream is None or upstream.status.model is None:
        raise ValueError(f"TrainingRun {reference.name} has no model")
    return PretrainedModel(uri=upstream.status.model.uri)
