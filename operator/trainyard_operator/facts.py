"""What a pass knows, and what it decides: the two ends of `decide.py`."""

from collections.abc import Sequence
from dataclasses import dataclass

from trainyard_api.names import Reason, Stage
from trainyard_api.policy.upstream import Obstacle
from trainyard_api.problems import Problem
from trainyard_api.spec import TrainingRun
from trainyard_operator.observe import ObservedJob, ObservedPod, ObservedRun
from trainyard_operator.progress_store import ReceivedReport
from trainyard_operator.status import StatusDraft


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything that a decision about a run may depend on, apart from the time."""

    run: ObservedRun
    spec: TrainingRun | None
    """The desired state; None when it cannot even be read."""
    problems: Sequence[Problem] = ()
    """What is wrong with it."""
    problem_reason: Reason = Reason.SPEC_INVALID
    """The same in one word."""
    obstacle: Obstacle | None = None
    """Why it cannot start yet, on account of another run."""
    pods: tuple[ObservedPod, ...] = ()
    jobs: tuple[ObservedJob, ...] = ()
    lacks_objects: bool = False
    """Whether its Service, or the plan of its open attempt, is not there though the stage needs it."""
    report: ReceivedReport | None = None
    """The newest progress."""
    first_step_at: float | None = None
    """Unix time at which the current attempt first told of an optimizer step."""
    last_step_at: float | None = None
    """Unix time at which the current attempt told of a further optimizer step."""


@dataclass(frozen=True, slots=True)
class Begin:
    """See to it that the objects of a stage are there."""

    attempt: int
    stage: Stage
    is_new: bool
    """Whether the attempt is not in the status yet, so that its plan may still have to be made."""


@dataclass(frozen=True, slots=True)
class Stop:
    """Delete the pods and Jobs of an attempt that are still at work."""

    attempt: int
    grace_seconds: int | None
    """Seconds that its pods get; None leaves it to them, which is long enough for a checkpoint."""
    stages: tuple[Stage, ...]
    """Those whose pods are to be deleted; the pods of a Job go with it, alone they would come back."""
    jobs: tuple[ObservedJob, ...] = ()
    """The Jobs to delete."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do, and the status that follows when it is done."""

    draft: StatusDraft
    begin: Begin | None = None
    probe: Begin | None = None
    """Stage whose Job makes no pods: ask the API server what it would say to one."""
    repair: Begin | None = None
    """Stage at work whose Service or plan is to be made again."""
    stops: tuple[Stop, ...] = ()
    delete_run: bool = False
    wake_after: float | None = None
    """Seconds until something is due even if nothing changes; None when nothing is."""
