import pytest

from trainyard_api.names import ConditionType, ExitCode, Phase, Reason
from trainyard_api.policy.conditions import derive_phase, holds, is_finished, set_condition
from trainyard_api.policy.deadline import active_seconds, is_deadline_exceeded, seconds_left
from trainyard_api.policy.failure import ProcessEnd, first_failure
from trainyard_api.policy.restart import Action, EndedAttempt, backoff_seconds, decide_restart
from trainyard_api.policy.retention import checkpoints_to_delete
from trainyard_api.progress import ExitRecord
from trainyard_api.spec import RestartPolicy
from trainyard_api.status import Accounting, Attempt
from trainyard_api.timestamps import format_timestamp, parse_timestamp

NOON = "2026-11-23T12:00:00Z"


def attempts(*pairs):
    return [EndedAttempt(exit_code=code, start_checkpoint_step=step) for code, step in pairs]


@pytest.mark.parametrize(
    ("ended", "checkpoint_step", "stop_requested", "action", "faults"),
    [
        pytest.param([(0, None)], 100, False, Action.PROCEED, 0, id="success"),
        pytest.param([(0, None)], 100, True, Action.PROCEED, 0, id="success wins over a late stop"),
        pytest.param([(137, None)], None, False, Action.RESTART, 1, id="first fault"),
        pytest.param([(-9, None)], None, False, Action.RESTART, 1, id="signal as subprocess says it"),
        pytest.param([(1, None), (75, None)], None, False, Action.RESTART, 2, id="second fault, budget 2"),
        pytest.param([(1, None)] * 3, None, False, Action.FAIL, 3, id="budget used up"),
        pytest.param([(1, None)] * 3, 200, False, Action.RESTART, 1, id="a first checkpoint resets"),
        pytest.param([(1, 200), (1, 200), (1, 200)], 400, False, Action.RESTART, 1, id="a newer one resets"),
        pytest.param(
            [(1, None), (1, 200), (1, 200)], 200, False, Action.FAIL, 3, id="the reset fault counts"
        ),
        pytest.param([(80, None)] * 9, 10, False, Action.RESTART, 0, id="preemption is no fault"),
        pytest.param([(1, 5), (80, 5), (1, 5)], 5, False, Action.RESTART, 2, id="faults around a preemption"),
        pytest.param([(80, None)], 10, True, Action.SUSPEND, 0, id="stopped on request"),
        pytest.param([(137, None)], 10, True, Action.SUSPEND, 0, id="killed while stopping"),
        pytest.param([(64, None)], None, True, Action.FAIL, 0, id="permanent, also when stopping"),
        pytest.param([(81, None)], 10, False, Action.FAIL, 0, id="deadline"),
    ],
)
def test_what_follows_an_attempt(ended, checkpoint_step, stop_requested, action, faults):
    decision = decide_restart(
        RestartPolicy(max_restarts=2), attempts(*ended), checkpoint_step, stop_requested=stop_requested
    )
    assert (decision.action, decision.faults_since_checkpoint) == (action, faults)
    assert decision.message


@pytest.mark.parametrize("code", [64, 65, 69, 73, 74, 76])
def test_a_permanent_exit_code_never_restarts(code):
    decision = decide_restart(RestartPolicy(max_restarts=100), attempts((code, None)), 10)
    assert (decision.action, decision.reason) == (Action.FAIL, Reason.PERMANENT_FAILURE)


def test_without_restarts_the_first_fault_fails_the_run():
    decision = decide_restart(RestartPolicy(max_restarts=0), attempts((1, None)), 10)
    assert (decision.action, decision.reason) == (Action.FAIL, Reason.RESTARTS_EXHAUSTED)


def test_a_decision_needs_an_ended_attempt():
    with pytest.raises(ValueError, match="no attempt"):
        decide_restart(RestartPolicy(), [], None)


@pytest.mark.parametrize(
    ("faults", "seconds"), [(0, 0), (1, 0), (2, 2), (3, 4), (4, 8), (7, 64), (8, 120), (10_000, 120)]
)
def test_back_off_doubles_up_to_its_cap(faults, seconds):
    assert backoff_seconds(faults) == seconds


def end(exit_code, ended_at, rank, **fields):
    return ProcessEnd(exit_code=exit_code, ended_at=ended_at, rank=rank, **fields)


@pytest.mark.parametrize(
    ("ends", "rank", "reason"),
    [
        pytest.param([end(1, 20.0, 0), end(1, 10.0, 1)], 1, Reason.PROCESS_FAILED, id="earliest"),
        pytest.param([end(75, 10.0, 0), end(-9, 10.5, 1)], 1, Reason.PROCESS_KILLED, id="killed, peer first"),
        pytest.param(
            [end(1, 10.0, 0), end(137, 10.5, 1)], 1, Reason.PROCESS_KILLED, id="killed, crash first"
        ),
        pytest.param([end(1, 10.0, 0), end(137, 30.0, 1)], 0, Reason.PROCESS_FAILED, id="killed much later"),
        pytest.param([end(143, 10.0, 0), end(1, 10.1, 1)], 1, Reason.PROCESS_FAILED, id="SIGTERM follows"),
        pytest.param([end(75, 10.0, 0), end(65, 10.1, 1)], 1, Reason.INVALID_DATA, id="permanent cause"),
        pytest.param(
            [end(-9, 9.0, 0, stopped=True), end(1, 10.0, 1)], 1, Reason.PROCESS_FAILED, id="we stopped 0"
        ),
        pytest.param([end(-15, 9.0, 0, stopped=True)], 0, Reason.PROCESS_KILLED, id="only stopped ones"),
        pytest.param([end(76, 10.0, 1), end(76, 10.0, 0)], 0, Reason.DIVERGED, id="all at once: lowest rank"),
        pytest.param(
            [end(137, 1.0, 0, out_of_memory=True)], 0, Reason.OUT_OF_MEMORY, id="memory, with evidence"
        ),
        pytest.param([end(137, 1.0, 0)], 0, Reason.PROCESS_KILLED, id="memory, without evidence"),
        pytest.param(
            [end(0, 1.0, 0), end(139, 2.0, 1)], 1, Reason.PROCESS_KILLED, id="a success is no failure"
        ),
        pytest.param([end(74, 1.0, 0)], 0, Reason.STORAGE_FULL, id="disk full"),
        pytest.param([end(80, 1.0, 0)], 0, Reason.PREEMPTED, id="preempted"),
        pytest.param([end(255, 1.0, 0)], 0, Reason.PROCESS_FAILED, id="255 is no signal"),
    ],
)
def test_the_first_failure_of_a_gang(ends, rank, reason):
    failure = first_failure(ends)
    assert (failure.rank, failure.reason) == (rank, reason)
    assert failure.message


def test_a_gang_that_succeeded_has_no_failure():
    assert first_failure([end(0, 1.0, 0), end(0, 2.0, 1)]) is None


def test_a_failure_carries_place_log_and_the_words_of_the_process():
    record = ExitRecord(rank=3, exit_code=65, reason=Reason.INVALID_DATA, message="no text", time=NOON)
    failure = first_failure([end(65, 1.0, 3, pod="p", node="n", log_tail="last line", record=record)])
    assert (failure.pod, failure.node, failure.log_tail) == ("p", "n", "last line")
    assert (failure.exit_code, failure.message) == (65, "no text")


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (-9, "Killed by SIGKILL"),
        (139, "Killed by SIGSEGV"),
        (1, "Exit code 1 (INTERNAL_ERROR)"),
        (3, "Exit code 3"),
    ],
)
def test_a_failure_without_words_of_its_own_tells_its_code(code, message):
    assert first_failure([end(code, 1.0, 0)]).message == message


def attempt(started, finished):
    return Attempt(
        number=0,
        started_at=format_timestamp(started),
        finished_at=None if finished is None else format_timestamp(finished),
    )


@pytest.mark.parametrize(
    ("spans", "now", "seconds"),
    [
        ([], 100, 0),
        ([(10, 20)], 100, 0),
        ([(50, None)], 100, 50),
        ([(10, 20), (50, None)], 100, 50),
        ([(200, None)], 100, 0),
    ],
)
def test_active_seconds_are_those_of_the_account_and_of_the_attempt_at_work(spans, now, seconds):
    listed = [attempt(*span) for span in spans]
    assert active_seconds(Accounting(active_seconds=500), listed, now) == 500 + seconds


@pytest.mark.parametrize(
    ("deadline", "active", "left", "exceeded"),
    [
        (None, 1e9, None, False),
        (60, 0.0, 60.0, False),
        (60, 59.5, 0.5, False),
        (60, 60.0, 0.0, True),
        (60, 99, 0.0, True),
    ],
)
def test_the_deadline_is_over_when_no_second_is_left(deadline, active, left, exceeded):
    assert seconds_left(deadline, active) == left
    assert is_deadline_exceeded(deadline, active) is exceeded


def test_a_time_survives_its_text():
    assert format_timestamp(parse_timestamp(NOON)) == NOON
    assert parse_timestamp("2026-11-23T13:00:00.5+01:00") == parse_timestamp(NOON) + 0.5
    assert parse_timestamp("2026-11-23T12:00:00") == parse_timestamp(NOON)


def conditions(*states):
    found = []
    for kind, status, reason in states:
        found = set_condition(found, kind, status, reason, now=NOON)
    return found


def test_the_transition_time_moves_only_when_the_status_changes():
    first = set_condition([], ConditionType.RUNNING, "True", Reason.STAGE_STARTED, now=NOON)
    refreshed = set_condition(
        first, ConditionType.RUNNING, "True", Reason.STAGE_STARTED, "again", now="2026-11-23T13:00:00Z"
    )
    assert (refreshed[0].last_transition_time, refreshed[0].message) == (NOON, "again")
    ended = set_condition(
        refreshed, ConditionType.RUNNING, "False", Reason.STAGE_FINISHED, now="2026-11-23T14:00:00Z"
    )
    assert [condition.last_transition_time for condition in ended] == ["2026-11-23T14:00:00Z"]


def test_setting_a_condition_keeps_the_others_in_their_order():
    found = conditions(
        (ConditionType.VALIDATED, "True", Reason.SPEC_VALID),
        (ConditionType.RUNNING, "True", Reason.STAGE_STARTED),
    )
    found = set_condition(
        found, ConditionType.VALIDATED, "True", Reason.SPEC_VALID, now=NOON, observed_generation=2
    )
    assert [condition.type for condition in found] == ["Validated", "Running"]
    assert found[0].observed_generation == 2
    assert not holds(found, ConditionType.COMPLETE)


@pytest.mark.parametrize(
    ("states", "phase", "finished"),
    [
        ([], Phase.PENDING, False),
        ([(ConditionType.VALIDATED, "True", Reason.SPEC_VALID)], Phase.PENDING, False),
        ([(ConditionType.VALIDATED, "False", Reason.SPEC_INVALID)], Phase.FAILED, False),
        ([(ConditionType.RUNNING, "True", Reason.STAGE_STARTED)], Phase.RUNNING, False),
        ([(ConditionType.RUNNING, "False", Reason.RESTARTING)], Phase.RESTARTING, False),
        ([(ConditionType.RUNNING, "False", Reason.STAGE_FINISHED)], Phase.PENDING, False),
        (
            [
                (ConditionType.RUNNING, "False", Reason.RUN_SUSPENDED),
                (ConditionType.SUSPENDED, "True", Reason.RUN_SUSPENDED),
            ],
            Phase.SUSPENDED,
            False,
        ),
        (
            [
                (ConditionType.SUSPENDED, "False", Reason.STAGE_STARTED),
                (ConditionType.RUNNING, "True", Reason.STAGE_STARTED),
            ],
            Phase.RUNNING,
            False,
        ),
        ([(ConditionType.COMPLETE, "True", Reason.RUN_SUCCEEDED)], Phase.SUCCEEDED, True),
        ([(ConditionType.FAILED, "True", Reason.RESTARTS_EXHAUSTED)], Phase.FAILED, True),
    ],
)
def test_the_phase_sums_up_the_conditions(states, phase, finished):
    found = conditions(*states)
    assert derive_phase(found) is phase
    assert is_finished(found) is finished


@pytest.mark.parametrize(
    ("steps", "keep", "protected", "deleted"),
    [
        ([], 3, (), []),
        ([100, 200, 300], 3, (), []),
        ([300, 100, 200, 400], 3, (), [100]),
        ([100, 200, 300, 400], 1, (), [100, 200, 300]),
        ([100, 200, 300, 400], 1, (200,), [100, 300]),
        ([100, 100, 200], 1, (), [100]),
    ],
)
def test_the_newest_checkpoints_stay(steps, keep, protected, deleted):
    assert checkpoints_to_delete(steps, keep, protected) == deleted


def test_the_last_checkpoint_never_goes():
    with pytest.raises(ValueError, match="at least 1"):
        checkpoints_to_delete([100], 0)


def test_every_exit_code_is_either_success_or_has_a_decision():
    for code in ExitCode:
        decision = decide_restart(RestartPolicy(), attempts((code.value, None)), None)
        assert (decision.action is Action.PROCEED) is (code is ExitCode.SUCCEEDED)
