"""When each run told of its first and its last optimizer step, to account for starts and notice stalls."""

from dataclasses import dataclass

from trainyard_api.names import ConditionType, Stage
from trainyard_api.policy.conditions import holds
from trainyard_api.progress import ProgressReport
from trainyard_api.timestamps import parse_timestamp
from trainyard_operator.keys import RunKey
from trainyard_operator.observe import ObservedRun


@dataclass(frozen=True, slots=True)
class _Step:
    attempt: int
    step: int
    seen_at: float
    first_seen_at: float
    """Unix time at which the attempt told of a step at all."""


class StepWatch:
    """In memory; a new operator goes on from what the status tells, at most a status write behind."""

    def __init__(self) -> None:
        self._newest: dict[RunKey, _Step] = {}

    def recall(self, run: ObservedRun) -> None:
        """Take over from a run's status what another operator knew; what is known already stays."""
        progress = run.status.progress
        if run.key in self._newest or progress is None:
            return
        if holds(run.status.conditions, ConditionType.PROGRESSING):
            heard_at = parse_timestamp(progress.last_step_at or progress.updated_at)
            self._newest[run.key] = _Step(run.status.attempt, progress.step, heard_at, heard_at)

    def record(self, key: RunKey, report: ProgressReport, now: float) -> None:
        """Look at a report; one that repeats its step is no progress."""
        if report.progress.stage != Stage.TRAIN or report.progress.step < 1:
            return
        known = self._newest.get(key)
        place = (report.attempt, report.progress.step)
        if known is None or place > (known.attempt, known.step):
            is_first = known is None or known.attempt != report.attempt
            self._newest[key] = _Step(*place, now, now if is_first or known is None else known.first_seen_at)

    def last_step_at(self, key: RunKey, attempt: int) -> float | None:
        """Unix time of the newest step of an attempt; None before its first."""
        known = self._newest.get(key)
        return known.seen_at if known is not None and known.attempt == attempt else None

    def first_step_at(self, key: RunKey, attempt: int) -> float | None:
        """Unix time at which an attempt first told of a step; None before."""
        known = self._newest.get(key)
        return known.first_seen_at if known is not None and known.attempt == attempt else None

    def forget(self, key: RunKey) -> None:
        """Drop a run that is gone."""
        self._newest.pop(key, None)
