"""What follows from what is seen of a run: pure, and the heart of the operator. `decide` is the recipe.

Nothing here is remembered: every pass may be the first after a crash. What a later pass has to know is in the
status, and an end is written there before anything that follows from it is done.
"""

import zlib
from collections.abc import Sequence

from trainyard_api.names import GANG_STAGES, ConditionType, ExitCode, Reason, Stage
from trainyard_api.policy.conditions import find_condition, holds, is_finished
from trainyard_api.policy.ledger import add_stall, with_work
from trainyard_api.policy.restart import Action, backoff_seconds, count_faults, decide_after_end
from trainyard_api.policy.stages import first_stage, following_stage
from trainyard_api.policy.waiting import Deadline, Work, deadlines
from trainyard_api.spec import TrainingRun
from trainyard_api.status import Attempt, Failure, ModelStatus
from trainyard_api.timestamps import format_timestamp, parse_timestamp
from trainyard_operator.ends import end_of, model_of
from trainyard_operator.facts import Begin, Decision, Facts, Stop
from trainyard_operator.gang import (
    OVERDUE_SECONDS,
    Gang,
    gang_of,
    is_overdue,
    podless_seconds_left,
    tell_gang,
)
from trainyard_operator.observe import ObservedJob, ObservedPod
from trainyard_operator.settings import Settings
from trainyard_operator.status import StatusDraft

PART_PATIENCE_SECONDS = 60.0
"""How long a part of a gang keeps its pods while the rest is refused, or the spec has become invalid."""
REFUSAL_RETRY_SECONDS = 60.0
"""How long they are gone before the gang is tried again; up to twice that, so that two gangs part."""
RECHECK_SECONDS = 15.0
"""How often a cause that no watch tells of, such as a missing claim, is looked for again."""

_REFUSALS = (Reason.QUOTA_EXCEEDED, Reason.ADMISSION_REFUSED)
"""Why the API server takes some pods and not others."""


def decide(facts: Facts, settings: Settings, now: float) -> Decision:
    """Decide what to do about a run.

    Args:
        facts: what is known of it.
        settings: grace periods and waiting times.
        now: Unix time, in seconds.
    """
    draft = StatusDraft(facts.run.status, facts.run.generation, now)
    if is_finished(draft.status.conditions):
        return _after_the_end(facts, draft)
    _take_progress(facts, draft)
    _tell_validity(facts, draft)
    attempt = draft.attempt
    if facts.spec is None:
        begun = draft.next_number if attempt is None else attempt.number
        stops = _leftovers(facts, begun, _grace(draft, settings))
        return Decision(draft, stops=stops, wake_after=RECHECK_SECONDS)
    if attempt is None:
        return _start(facts, facts.spec, draft, settings)
    return _continue(facts, facts.spec, draft, attempt, settings)


def _start(facts: Facts, run: TrainingRun, draft: StatusDraft, settings: Settings) -> Decision:
    """No attempt is open: clean up after the last one, and begin the next unless something is in the way."""
    stops = _leftovers(facts, draft.next_number, _grace(draft, settings))
    if facts.problems:
        draft.clear(ConditionType.RUNNING, Reason.SPEC_INVALID)
        return Decision(draft, stops=stops, wake_after=RECHECK_SECONDS)
    if run.spec.suspend:
        return _rest(facts, draft, stops)
    if facts.obstacle is not None:
        draft.condition(ConditionType.ADMITTED, "False", facts.obstacle.reason, facts.obstacle.message)
        return Decision(draft, stops=stops, wake_after=RECHECK_SECONDS)
    wait = _backoff_left(facts, draft)
    if wait > 0.0:
        return Decision(draft, stops=stops, wake_after=wait)
    draft.clear(ConditionType.SUSPENDED, Reason.RESUMED)
    draft.clear(ConditionType.PROGRESSING, Reason.PODS_PENDING)
    last = draft.status.attempts[-1] if draft.status.attempts else None
    num_shards, has_cache = run.spec.data.preparation.shards, run.spec.caches_teacher
    stage = first_stage(
        prepared=draft.status.prepared_at is not None,
        last_stage=None if last is None else Stage(last.stage),
        num_shards=num_shards,
        has_cache=has_cache,
    )
    draft.open_attempt(stage, run.spec.workers.nodes, num_shards, has_cache=has_cache)
    return _begin(facts, run, draft, is_new=True, stops=stops)


def _continue(
    facts: Facts, run: TrainingRun, draft: StatusDraft, attempt: Attempt, settings: Settings
) -> Decision:
    """An attempt is open: see how far it is."""
    gang = gang_of(attempt, facts.pods, facts.jobs)
    if gang.succeeded:
        return _advance(facts, run, draft, gang)
    wish = _wish_to_stop(facts, run, attempt)
    if wish is not None:
        return _stop(run, draft, gang, wish)
    end = end_of(facts.run.key, attempt, gang, settings.settle_seconds, draft.now)
    if end.failure is not None:
        return _fault(run, draft, end.failure)
    due = deadlines(run.spec, attempt, _work(facts, draft), draft.now)
    if due and due[0].seconds_left <= 0.0:
        return _overdue(run, draft, due[0], facts.last_step_at)
    wakes = [wake for wake in (end.wake_after, due[0].seconds_left if due else None) if wake is not None]
    stops = _leftovers(facts, attempt.number, settings.fault_grace_seconds, gang.stage)
    if attempt.pods_created_at is None and (gang.is_partial or not facts.problems):
        return _begin_again(facts, run, draft, gang, stops, wakes)
    return _look_on(facts, run, draft, gang, stops, wakes)


def _look_on(  # noqa: PLR0913, PLR0917 - what a stage at work is seen by
    facts: Facts,
    run: TrainingRun,
    draft: StatusDraft,
    gang: Gang,
    stops: tuple[Stop, ...],
    wakes: list[float],
) -> Decision:
    """The stage is at work: tell how far it is, keep what it needs, and find out why a Job has no pods."""
    tell_gang(draft, gang, run.spec.scheduling.queue_name)
    attempt = draft.status.attempts[-1]
    at_work = Begin(attempt.number, gang.stage, is_new=False)
    is_bereft = facts.lacks_objects and attempt.pods_created_at is not None and not facts.problems
    repair = at_work if is_bereft else None
    podless = podless_seconds_left(gang, attempt, draft.now)
    if podless is None:
        return Decision(draft, repair=repair, stops=stops, wake_after=min(wakes, default=None))
    wake_after = min([*wakes, podless if podless > 0.0 else RECHECK_SECONDS])
    probe = at_work if podless <= 0.0 else None
    return Decision(draft, probe=probe, repair=repair, stops=stops, wake_after=wake_after)


def _begin(  # noqa: PLR0913 - what a stage begins with
    facts: Facts,
    run: TrainingRun,
    draft: StatusDraft,
    *,
    is_new: bool,
    stops: tuple[Stop, ...] = (),
    wake_after: float | None = None,
) -> Decision:
    """Have the objects of the open attempt's stage made."""
    attempt = draft.status.attempts[-1]
    tell_gang(draft, gang_of(attempt, facts.pods, facts.jobs), run.spec.scheduling.queue_name)
    begin = Begin(attempt.number, Stage(attempt.stage), is_new)
    return Decision(draft, begin=begin, stops=stops, wake_after=wake_after)


def _advance(facts: Facts, run: TrainingRun, draft: StatusDraft, gang: Gang) -> Decision:
    """A stage is done: go on to the next, unless the run is to stop here, or this was the last."""
    attempt = draft.status.attempts[-1]
    if gang.stage is Stage.PREPARE:
        draft.update(prepared_at=draft.timestamp)
    following = following_stage(gang.stage, has_cache=bool(attempt.teacher_cache))
    if following is None:
        return _complete(run, draft, model_of(gang))
    is_resized = following in GANG_STAGES and _is_resized(facts, run, attempt)
    if run.spec.suspend or is_resized:
        _close(run, draft, "Preempted", ExitCode.PREEMPTED, None)
        draft.condition(ConditionType.RUNNING, "False", Reason.STAGE_FINISHED, f"{gang.stage} is done")
        return Decision(draft, wake_after=0.0)
    draft.enter_stage(following, run.spec.workers.accelerator.count)
    if facts.problems:
        begun = draft.status.attempts[-1]
        return _look_on(facts, run, draft, gang_of(begun, facts.pods, facts.jobs), (), [RECHECK_SECONDS])
    return _begin(facts, run, draft, is_new=False)


def _complete(run: TrainingRun, draft: StatusDraft, model: ModelStatus | None) -> Decision:
    """The run has done everything."""
    _close(run, draft, "Succeeded", ExitCode.SUCCEEDED, None)
    if model is not None:
        draft.update(model=model)
    draft.condition(ConditionType.RUNNING, "False", Reason.RUN_SUCCEEDED)
    draft.clear(ConditionType.PROGRESSING, Reason.RUN_SUCCEEDED)
    draft.condition(ConditionType.COMPLETE, "True", Reason.RUN_SUCCEEDED)
    return Decision(draft, wake_after=0.0)


def _fault(run: TrainingRun, draft: StatusDraft, failure: Failure) -> Decision:
    """The attempt has failed: record why, and restart or give up; the next pass removes what is left."""
    attempt = draft.status.attempts[-1]
    checkpoint = draft.status.checkpoint
    step = None if checkpoint is None else checkpoint.step
    faults = count_faults(
        draft.status.faults_since_checkpoint, attempt.start_checkpoint_step, step, failure.exit_code
    )
    draft.update(faults_since_checkpoint=faults)
    outcome = "Preempted" if failure.exit_code == ExitCode.PREEMPTED else "Failed"
    _close(run, draft, outcome, failure.exit_code, failure)
    after = decide_after_end(run.spec.restart_policy, failure.exit_code, faults, step)
    told = ": ".join(part for part in (failure.pod, failure.reason, failure.message) if part)
    message = f"{told}. {after.message}"
    if after.action is Action.FAIL:
        return _give_up(draft, after.reason, message)
    if outcome == "Failed":
        draft.update(restarts=draft.status.restarts + 1)
    elif run.spec.scheduling.queue_name:
        # The next attempt is another group of pods: it stands in the queue again.
        draft.condition(ConditionType.ADMITTED, "False", Reason.WAITING_FOR_QUOTA, message)
    draft.condition(ConditionType.RUNNING, "False", after.reason, message)
    _clear_pods(draft, after.reason)
    return Decision(draft, wake_after=0.0)


def _overdue(
    run: TrainingRun, draft: StatusDraft, deadline: Deadline, last_step_at: float | None
) -> Decision:
    """A deadline is over: a stall is a fault, the others end the run."""
    if deadline.reason is Reason.STALLED:
        if last_step_at is not None:
            draft.update(accounting=add_stall(draft.status.accounting, draft.now - last_step_at))
        failure = Failure(
            exit_code=ExitCode.RETRYABLE, reason=deadline.reason.value, message=deadline.message
        )
        return _fault(run, draft, failure)
    failure = Failure(
        exit_code=ExitCode.DEADLINE_EXCEEDED, reason=deadline.reason.value, message=deadline.message
    )
    _close(run, draft, "Failed", ExitCode.DEADLINE_EXCEEDED, failure)
    return _give_up(draft, deadline.reason, deadline.message)


def _give_up(draft: StatusDraft, reason: Reason, message: str) -> Decision:
    """The run has failed for good."""
    draft.condition(ConditionType.RUNNING, "False", reason)
    _clear_pods(draft, reason)
    draft.condition(ConditionType.FAILED, "True", reason, message)
    return Decision(draft, wake_after=0.0)


def _stop(run: TrainingRun, draft: StatusDraft, gang: Gang, wish: Reason) -> Decision:
    """Stop an attempt in order: its pods save a checkpoint, and the attempt ends when they have ended."""
    attempt = draft.status.attempts[-1]
    job_is_over = gang.job is None or gang.job.deleting or gang.job.failed
    if gang.ended(draft.now) and job_is_over:
        return _stopped(run, draft, gang)
    message = "Waiting for the pods to save a checkpoint and end"
    draft.condition(ConditionType.RUNNING, "False", wish, message)
    stop = _stop_of(attempt.number, gang.present, () if gang.job is None else (gang.job,), None)
    return Decision(draft, stops=() if stop is None else (stop,), wake_after=_gone_after(gang.present, draft))


def _stopped(run: TrainingRun, draft: StatusDraft, gang: Gang) -> Decision:
    """A stopped attempt has ended: as was wished, or by an error that a restart cannot help."""
    attempt = draft.status.attempts[-1]
    end = end_of(None, attempt, gang, 0.0, draft.now)
    if end.failure is not None:
        after = decide_after_end(run.spec.restart_policy, end.failure.exit_code, 0, None, stop_requested=True)
        if after.action is Action.FAIL:
            return _fault(run, draft, end.failure)
    _close(run, draft, "Preempted", ExitCode.PREEMPTED, None)
    return Decision(draft, wake_after=0.0)


def _rest(facts: Facts, draft: StatusDraft, stops: tuple[Stop, ...]) -> Decision:
    """The run is suspended, or is about to be once its last pods are gone."""
    left = [pod for pod in facts.pods if not pod.has_ended and not is_overdue(pod, draft.now)]
    if left:
        message = f"Waiting for {len(left)} pods to end"
        draft.condition(ConditionType.RUNNING, "False", Reason.SUSPENDING, message)
        return Decision(draft, stops=stops, wake_after=_gone_after(left, draft))
    draft.condition(ConditionType.RUNNING, "False", Reason.RUN_SUSPENDED)
    _clear_pods(draft, Reason.RUN_SUSPENDED)
    draft.condition(
        ConditionType.SUSPENDED,
        "True",
        Reason.RUN_SUSPENDED,
        "spec.suspend is true; set it to false to go on",
    )
    return Decision(draft, stops=stops)


def _clear_pods(draft: StatusDraft, reason: Reason) -> None:
    """What was true of pods that are stopped, or are gone, is true no more."""
    draft.clear(ConditionType.PODS_SCHEDULED, reason)
    draft.clear(ConditionType.PROGRESSING, reason)


def _after_the_end(facts: Facts, draft: StatusDraft) -> Decision:
    """A run that has ended stays ended: what is left of it is stopped, and in the end it is deleted."""
    stops = _leftovers(facts, draft.next_number, None)
    ttl = None if facts.spec is None else facts.spec.spec.ttl_seconds_after_finished
    if ttl is None:
        return Decision(draft, stops=stops)
    kind = ConditionType.COMPLETE if _completed(draft) else ConditionType.FAILED
    condition = find_condition(draft.status.conditions, kind)
    ended_at = parse_timestamp(condition.last_transition_time) if condition is not None else draft.now
    left = ended_at + ttl - draft.now
    return Decision(draft, stops=stops, delete_run=left <= 0.0, wake_after=left if left > 0.0 else None)


def _completed(draft: StatusDraft) -> bool:
    return holds(draft.status.conditions, ConditionType.COMPLETE)


def _take_progress(facts: Facts, draft: StatusDraft) -> None:
    """Take over what the processes told, unless it is about an attempt that is over."""
    if facts.report is None:
        return
    report, attempt, known = facts.report.report, draft.attempt, draft.status.checkpoint
    if report.checkpoint is not None and (known is None or report.checkpoint.step > known.step):
        draft.update(checkpoint=report.checkpoint)
    if report.work is not None:
        draft.update(accounting=with_work(draft.status.accounting, report.work))
    if attempt is None or report.attempt != attempt.number:
        return
    heard_at = None if facts.last_step_at is None else format_timestamp(facts.last_step_at)
    draft.take_progress(report.progress.model_copy(update={"last_step_at": heard_at}))
    if report.progress.stage == Stage.TRAIN and report.progress.step > 0:
        draft.condition(ConditionType.PROGRESSING, "True", Reason.STEPS_REPORTED)
        if attempt.first_step_at is None and facts.first_step_at is not None:
            draft.change_attempt(first_step_at=format_timestamp(facts.first_step_at))


def _tell_validity(facts: Facts, draft: StatusDraft) -> None:
    """Validated: whether the spec can be run, with everything that is wrong with it."""
    if not facts.problems:
        draft.condition(ConditionType.VALIDATED, "True", Reason.SPEC_VALID)
        return
    message = "\n".join(str(problem) for problem in facts.problems)
    draft.condition(ConditionType.VALIDATED, "False", facts.problem_reason, message)


def _wish_to_stop(facts: Facts, run: TrainingRun, attempt: Attempt) -> Reason | None:
    """Why the spec wants an attempt to stop; a changed number of nodes matters to training alone."""
    if run.spec.suspend:
        return Reason.SUSPENDING
    if attempt.stage == Stage.TRAIN and _is_resized(facts, run, attempt):
        return Reason.NODES_CHANGED
    return None


def _is_resized(facts: Facts, run: TrainingRun, attempt: Attempt) -> bool:
    """Whether the spec wants other nodes than an attempt has; one that could not start again changes none."""
    return attempt.nodes != run.spec.workers.nodes and not facts.problems


def _leftovers(
    facts: Facts, before_attempt: int, grace_seconds: int | None, stage: Stage | None = None
) -> tuple[Stop, ...]:
    """What is still at work of attempts that are over, and of the stages before that of the open one."""
    seen = {pod.attempt for pod in facts.pods} | {job.attempt for job in facts.jobs}
    stops = [
        _stop_of(
            number,
            [pod for pod in facts.pods if pod.attempt == number],
            [job for job in facts.jobs if job.attempt == number],
            grace_seconds,
        )
        for number in sorted(seen)
        if number < before_attempt
    ]
    if stage is not None:
        stops.append(_stop_of(before_attempt, _lingering(facts, before_attempt, stage), (), grace_seconds))
    return tuple(stop for stop in stops if stop is not None)


def _lingering(facts: Facts, attempt: int, stage: Stage) -> list[ObservedPod]:
    """The pods of earlier stages in which sidecars run on; none before it is written that these are over."""
    written = facts.run.written.attempts
    if not written or (written[-1].number, written[-1].stage) != (attempt, stage):
        return []
    own = (pod for pod in facts.pods if pod.attempt == attempt and not pod.job_uid)
    return [pod for pod in own if pod.lingers and pod.stage is not stage]


def _stop_of(
    attempt: int,
    pods: Sequence[ObservedPod],
    jobs: Sequence[ObservedJob],
    grace_seconds: int | None,
) -> Stop | None:
    """What has to be deleted of an attempt; None when nothing is at work but what is on its way out."""
    busy = [pod for pod in pods if (pod.lingers or not pod.has_ended) and pod.deleting_until is None]
    stages = {pod.stage for pod in busy}
    bare = tuple(sorted(stages - {job.stage for job in jobs}))
    at_work = tuple(job for job in jobs if not (job.complete or job.failed or job.deleting))
    return Stop(attempt, grace_seconds, bare, at_work) if bare or at_work else None


def _begin_again(  # noqa: PLR0913, PLR0917 - what a stage at work is seen by
    facts: Facts,
    run: TrainingRun,
    draft: StatusDraft,
    gang: Gang,
    stops: tuple[Stop, ...],
    wakes: list[float],
) -> Decision:
    """Objects of the stage are missing yet: make them, unless they have been kept out for too long."""
    attempt = draft.status.attempts[-1]
    cause = _cause_of_a_part(facts, draft, gang)
    if cause is not None and attempt.stage_started_at is not None:
        left = parse_timestamp(attempt.stage_started_at) + PART_PATIENCE_SECONDS - draft.now
        if left <= 0.0:
            return _release(run, draft, gang, cause)
        wakes = [*wakes, left]
    if facts.problems:
        return _look_on(facts, run, draft, gang, stops, wakes)
    return _begin(facts, run, draft, is_new=False, stops=stops, wake_after=min(wakes, default=None))


def _cause_of_a_part(facts: Facts, draft: StatusDraft, gang: Gang) -> Reason | None:
    """Why only a part of a gang is there, when waiting alone does not help."""
    if not gang.is_partial:
        return None
    if facts.problems:
        return facts.problem_reason
    condition = find_condition(draft.status.conditions, ConditionType.ADMITTED)
    is_refused = condition is not None and condition.status == "False" and condition.reason in _REFUSALS
    return Reason(condition.reason) if condition is not None and is_refused else None


def _release(run: TrainingRun, draft: StatusDraft, gang: Gang, cause: Reason) -> Decision:
    """End an attempt whose gang never was whole; that is no fault of the run."""
    message = (
        f"{len(gang.present)} of {gang.size} pods were there for {PART_PATIENCE_SECONDS:.0f} s; "
        "they make room for others, and the gang is tried again"
    )
    failure = Failure(exit_code=ExitCode.PREEMPTED, reason=cause.value, message=message)
    _close(run, draft, "Preempted", ExitCode.PREEMPTED, failure)
    if cause in _REFUSALS:
        draft.condition(ConditionType.ADMITTED, "False", cause, message)
    draft.condition(ConditionType.RUNNING, "False", cause, message)
    _clear_pods(draft, cause)
    return Decision(draft, wake_after=0.0)


def _backoff_left(facts: Facts, draft: StatusDraft) -> float:
    """Seconds until the next attempt may start."""
    last = draft.status.attempts[-1] if draft.status.attempts else None
    if last is None or last.finished_at is None:
        return 0.0
    if last.failure is not None and last.failure.reason in _REFUSALS:
        spread = zlib.crc32(facts.run.key.uid.encode()) / 2**32
        return parse_timestamp(last.finished_at) + REFUSAL_RETRY_SECONDS * (1.0 + spread) - draft.now
    if last.outcome != "Failed":
        return 0.0
    delay = backoff_seconds(draft.status.faults_since_checkpoint)
    return min(delay, parse_timestamp(last.finished_at) + delay - draft.now)


def _grace(draft: StatusDraft, settings: Settings) -> int | None:
    """Seconds for what is left of the last attempt: few after a fault, when nothing can be saved any more."""
    last = draft.status.attempts[-1] if draft.status.attempts else None
    return settings.fault_grace_seconds if last is not None and last.outcome == "Failed" else None


def _gone_after(pods: Sequence[ObservedPod], draft: StatusDraft) -> float | None:
    """Seconds until pods that are being deleted count as gone; None when there are none."""
    times = [
        pod.deleting_until
        for pod in pods
        if pod.deleting_until is not None and not is_overdue(pod, draft.now)
    ]
    return max(0.1, max(times) + OVERDUE_SECONDS - draft.now) if times else None


def _work(facts: Facts, draft: StatusDraft) -> Work:
    return Work(draft.status.accounting.active_seconds, facts.last_step_at)


def _close(
    run: TrainingRun, draft: StatusDraft, outcome: str, exit_code: int, failure: Failure | None
) -> None:
    draft.close_attempt(outcome, exit_code, failure, run.spec.workers.accelerator.count)
