"""The pure decisions that only a cluster needs: deadlines, chains, stages, faults and the ledger."""

import pytest

from trainyard_api.names import Reason, Stage
from trainyard_api.policy.ledger import add_stage, add_stall, with_work
from trainyard_api.policy.restart import EndedAttempt, count_faults, faults_since_checkpoint
from trainyard_api.policy.stages import first_stage, following_stage
from trainyard_api.policy.starting import Loss, Start, lost_in_start
from trainyard_api.policy.upstream import Upstream, obstacle
from trainyard_api.policy.waiting import Work, deadlines
from trainyard_api.progress import WorkSeconds
from trainyard_api.status import Accounting, Attempt, Condition, Failure, TrainingRunStatus
from trainyard_api.timestamps import format_timestamp
from trainyard_api.validation import load_run_file

START = 1_800_000_000


def at(seconds):
    return format_timestamp(START + seconds)


def attempt(**fields):
    times = {
        name: at(value) if isinstance(value, int) and name.endswith(("at", "since")) else value
        for name, value in fields.items()
    }
    return Attempt(**{"number": 0, "started_at": at(0), "stage_started_at": at(0), **times})


def spec(**limits):
    run = load_run_file("manifests/samples/quickstart.yaml")
    return run.spec.model_copy(update=limits)


def left(limits, tried, now, work=None):
    found = deadlines(spec(**limits), tried, work or Work(0.0, None), START + now)
    return {deadline.reason: deadline.seconds_left for deadline in found}


@pytest.mark.parametrize(
    ("tried", "now", "expected"),
    [
        (attempt(), 30, {Reason.QUEUE_DEADLINE_EXCEEDED: 70}),
        (attempt(), 100, {Reason.QUEUE_DEADLINE_EXCEEDED: 0}),
        (attempt(), -5, {Reason.QUEUE_DEADLINE_EXCEEDED: 100}),
        (attempt(pods_scheduled_at=20), 300, {}),
    ],
)
def test_the_queue_deadline_counts_until_the_pods_have_nodes(tried, now, expected):
    assert left({"queue_deadline_seconds": 100}, tried, now) == expected


@pytest.mark.parametrize(
    ("tried", "work", "expected"),
    [
        (attempt(), Work(0, None), {}),
        (attempt(pods_scheduled_at=20), Work(0, None), {Reason.STARTUP_DEADLINE_EXCEEDED: 70}),
        (
            attempt(pods_scheduled_at=20, pods_running_at=21),
            Work(0, None),
            {Reason.STARTUP_DEADLINE_EXCEEDED: 70},
        ),
        (attempt(pods_scheduled_at=20), Work(0, START + 45.0), {}),
        (attempt(pods_scheduled_at=20, pods_running_at=21, stage="Prepare"), Work(0, None), {}),
        (
            attempt(pods_scheduled_at=20, stage="Export"),
            Work(0, None),
            {Reason.STARTUP_DEADLINE_EXCEEDED: 70},
        ),
    ],
)
def test_the_start_up_deadline_counts_until_the_first_sign_of_work(tried, work, expected):
    assert left({"startup_deadline_seconds": 100}, tried, 50, work) == expected


@pytest.mark.parametrize(
    ("tried", "before", "expected"),
    [
        (attempt(), 0.0, {}),
        (attempt(pods_running_at=20), 0.0, {Reason.DEADLINE_EXCEEDED: 70.0}),
        (attempt(pods_running_at=20), 60.0, {Reason.DEADLINE_EXCEEDED: 10.0}),
        (attempt(pods_running_at=20), 90.0, {Reason.DEADLINE_EXCEEDED: -20.0}),
    ],
)
def test_the_active_deadline_counts_work_of_all_attempts(tried, before, expected):
    assert left({"active_deadline_seconds": 100}, tried, 50, Work(before, None)) == expected


@pytest.mark.parametrize(("last_step_at", "expected"), [(None, {}), (START + 40.0, {Reason.STALLED: 20.0})])
def test_the_stall_timeout_counts_from_the_newest_step(last_step_at, expected):
    assert left({"stall_timeout_seconds": 30}, attempt(), 50, Work(0.0, last_step_at)) == expected


def test_a_stage_after_training_makes_no_steps_and_does_not_stall():
    exporting = attempt(stage="Export", pods_running_at=45)
    assert left({"stall_timeout_seconds": 30}, exporting, 500, Work(0.0, START + 40.0)) == {}


def test_the_deadline_that_is_over_first_comes_first():
    limits = {"active_deadline_seconds": 100, "stall_timeout_seconds": 30}
    found = deadlines(spec(**limits), attempt(pods_running_at=0), Work(0.0, START + 10.0), START + 50)
    assert [deadline.reason for deadline in found] == [Reason.STALLED, Reason.DEADLINE_EXCEEDED]


@pytest.mark.parametrize(
    ("prepared", "last", "num_shards", "first"),
    [
        (False, None, 1, Stage.PREPARE),
        (False, Stage.PREPARE, 1, Stage.PREPARE),
        (False, None, 2, Stage.READ),
        (False, Stage.READ, 2, Stage.READ),
        (False, Stage.PREPARE, 2, Stage.PREPARE),
        (True, Stage.PREPARE, 2, Stage.TRAIN),
        (True, Stage.TRAIN, 1, Stage.TRAIN),
        (True, Stage.EXPORT, 1, Stage.EXPORT),
    ],
)
def test_an_attempt_starts_with_what_is_not_done(prepared, last, num_shards, first):
    assert first_stage(prepared=prepared, last_stage=last, num_shards=num_shards) is first


@pytest.mark.parametrize(
    ("prepared", "last", "first"),
    [
        (False, None, Stage.PREPARE),
        (True, Stage.PREPARE, Stage.CACHE),
        (True, Stage.CACHE, Stage.CACHE),
        (True, Stage.TRAIN, Stage.TRAIN),
        (True, Stage.EXPORT, Stage.EXPORT),
    ],
)
def test_a_teacher_is_asked_again_until_all_of_its_cache_is_there(prepared, last, first):
    assert first_stage(prepared=prepared, last_stage=last, num_shards=1, has_cache=True) is first


@pytest.mark.parametrize("has_cache", [False, True])
def test_the_stages_follow_each_other(has_cache):
    stages = [stage for stage in Stage if has_cache or stage is not Stage.CACHE]
    found = [following_stage(stage, has_cache=has_cache) for stage in stages]
    assert found == [*stages[1:], None]


def test_faults_are_counted_one_by_one_as_over_the_whole_list():
    """The count that goes from attempt to attempt equals the one over all attempts, in every history."""
    codes = (1, 80, 137)
    steps = (None, 10, 20)
    for seed in range(3**6):
        history, number = [], seed
        for _ in range(3):
            number, code = divmod(number, 3)
            number, step = divmod(number, 3)
            history.append((codes[code], steps[step]))
        ends = [step for _, step in history]
        starts = [None, *ends[:-1]]
        if any(end is None and start is not None for start, end in zip(starts, ends, strict=True)):
            continue  # a checkpoint does not vanish
        count = 0
        for (code, end), start in zip(history, starts, strict=True):
            count = count_faults(count, start, end, code)
        if ends == sorted(ends, key=lambda step: -1 if step is None else step):
            attempts = [EndedAttempt(code, start) for (code, _), start in zip(history, starts, strict=True)]
            assert count == faults_since_checkpoint(attempts, ends[-1]), history


def chain(**needs):
    """Runs by name; a run whose name is capital has succeeded."""

    def lookup(name):
        if name not in needs:
            return None
        conditions = []
        if name.startswith("done"):
            conditions = [condition("Complete")]
        if name.startswith("bad"):
            conditions = [condition("Failed")]
        model = {"uri": "file:///m", "parameters": 1} if name.startswith("done") else None
        return Upstream(TrainingRunStatus(conditions=conditions, model=model), tuple(needs[name]))

    return lookup


def condition(kind):
    return Condition(type=kind, status="True", reason="X", last_transition_time=at(0))


@pytest.mark.parametrize(
    ("needs", "runs", "reason"),
    [
        ([], {}, None),
        (["done"], {"done": []}, None),
        (["going"], {"going": []}, Reason.WAITING_FOR_RUN),
        (["nobody"], {}, Reason.UPSTREAM_MISSING),
        (["bad"], {"bad": []}, Reason.UPSTREAM_FAILED),
        (["me"], {"me": ["me"]}, Reason.UPSTREAM_CYCLE),
        (["b"], {"b": ["c"], "c": ["me"]}, Reason.UPSTREAM_CYCLE),
        (["b"], {"b": ["c"], "c": ["b"]}, Reason.WAITING_FOR_RUN),
        (["done", "going"], {"done": [], "going": []}, Reason.WAITING_FOR_RUN),
    ],
)
def test_what_keeps_a_run_from_starting(needs, runs, reason):
    found = obstacle("me", needs, chain(**runs))
    assert (None if found is None else found.reason) == reason


def test_a_cycle_is_told_with_its_whole_chain():
    found = obstacle("me", ["b"], chain(b=["c"], c=["me"]))
    assert found.message.endswith("me -> b -> c -> me")


@pytest.mark.parametrize(
    ("start", "startup", "restart"),
    [
        (Start(None, 30.0, 50.0, 150.0), 20.0, 0.0),
        (Start(None, 30.0, 50.0, None), 20.0, 0.0),
        (Start(None, 30.0, None, 80.0), 50.0, 0.0),
        (Start(None, 30.0, None, None), 0.0, 0.0),
        (Start(None, None, None, 80.0), 0.0, 0.0),
        (Start(None, None, 50.0, 80.0), 0.0, 0.0),
        (Start(None, 60.0, 50.0, 80.0), 0.0, 0.0),
        (Start(20.0, 30.0, 50.0, 150.0), 0.0, 30.0),
        (Start(20.0, 30.0, 50.0, 150.0, queued_seconds=9.0), 0.0, 21.0),
        (Start(20.0, None, None, 80.0), 0.0, 60.0),
        (Start(20.0, None, None, None), 0.0, 0.0),
        (Start(90.0, 30.0, 50.0, 150.0), 0.0, 0.0),
    ],
    ids=[
        "up to the first sign of work",
        "while it still works",
        "up to the end without work",
        "not there yet",
        "an end without machines",
        "machines that nobody saw",
        "a clock that was set back",
        "after a fault from the fault on",
        "after a fault without the time in the queue",
        "after a fault up to another one",
        "still on the way back",
        "a clock that was set back after a fault",
    ],
)
def test_a_start_is_lost_up_to_the_first_sign_of_work(start, startup, restart):
    assert lost_in_start(start) == Loss(startup=startup, restart=restart)


def ended_stage(tried, before=None, so_far=None, ended_at=300, accelerators=0):
    return add_stage(
        so_far or Accounting(), tried, before, ended_at=at(ended_at), accelerators_per_node=accelerators
    )


def test_the_ledger_adds_waiting_and_work():
    ended = attempt(
        nodes=2,
        pods_scheduled_at=30,
        pods_running_at=50,
        first_step_at=60,
        finished_at=150,
        outcome="Failed",
    )
    account = ended_stage(ended, ended_at=150, accelerators=8)
    assert account.active_seconds == 100
    assert account.accelerator_seconds == 120 * 2 * 8
    assert account.lost_seconds.queue == 30
    assert account.lost_seconds.startup == 30
    again = attempt(
        number=1, stage_started_at=155, pods_scheduled_at=165, pods_running_at=190, first_step_at=200
    )
    second = ended_stage(again, ended, account)
    assert second.lost_seconds.queue == 40
    assert second.lost_seconds.restart == 40
    assert second.lost_seconds.startup == 30


@pytest.mark.parametrize(
    ("stage", "held"), [("Prepare", 0), ("Cache", 2 * 8 * 90), ("Train", 2 * 8 * 90), ("Export", 0)]
)
def test_what_lies_between_stages_is_no_work_and_only_training_holds_accelerators(stage, held):
    waited_long = attempt(
        stage=stage, nodes=2, stage_started_at=1_000, pods_scheduled_at=9_000, pods_running_at=9_010
    )
    account = ended_stage(waited_long, so_far=Accounting(active_seconds=50), ended_at=9_090, accelerators=8)
    assert (account.active_seconds, account.accelerator_seconds) == (50 + 80, held)
    assert account.lost_seconds.queue == 8_000


def test_a_clock_that_was_set_back_gives_no_negative_time():
    account = ended_stage(attempt(pods_scheduled_at=40, pods_running_at=50), ended_at=20, accelerators=8)
    assert (account.active_seconds, account.accelerator_seconds) == (0, 0)


@pytest.mark.parametrize(
    ("stage", "before", "outcome", "startup", "restart"),
    [
        # Prepare and Export work as soon as they run; Train, once a step was told.
        ("Prepare", None, "Running", 10, 0),
        ("Train", None, "Running", 25, 0),
        # A stop is no fault, and the stage after the one that failed is not on the way back any more.
        ("Train", ("Preempted", "Train"), "Running", 25, 0),
        ("Train", ("Failed", "Train"), "Running", 0, 43),
        ("Train", ("Failed", "Prepare"), "Running", 25, 0),
        ("Prepare", ("Failed", "Prepare"), "Running", 0, 28),
    ],
)
def test_a_way_back_leads_to_the_stage_that_failed(stage, before, outcome, startup, restart):
    begun = attempt(
        number=1,
        stage=stage,
        outcome=outcome,
        stage_started_at=100,
        pods_scheduled_at=102,
        pods_running_at=112,
        first_step_at=127,
    )
    last = None if before is None else attempt(outcome=before[0], stage=before[1], finished_at=82)
    lost = ended_stage(begun, last).lost_seconds
    assert (lost.startup, lost.restart) == (startup, restart)


@pytest.mark.parametrize(
    ("outcome", "startup"), [("Running", 20), ("Succeeded", 20), ("Failed", 120), ("Preempted", 120)]
)
def test_training_that_told_of_no_step_made_none_unless_it_ended_well(outcome, startup):
    ended = attempt(pods_scheduled_at=30, pods_running_at=50, finished_at=150, outcome=outcome)
    assert ended_stage(ended).lost_seconds.startup == startup


@pytest.mark.parametrize(
    ("outcome", "reason", "scheduled_at", "queue", "startup"),
    [
        ("Failed", Reason.QUEUE_DEADLINE_EXCEEDED, None, 80, 0),
        ("Preempted", None, None, 80, 0),
        ("Failed", Reason.STARTUP_DEADLINE_EXCEEDED, 30, 30, 50),
        # Pods that fail soon may never be seen with their nodes.
        ("Failed", Reason.OUT_OF_MEMORY, None, 0, 0),
        ("Succeeded", None, None, 0, 0),
    ],
)
def test_the_ledger_counts_waiting_that_only_the_end_of_an_attempt_ended(
    outcome, reason, scheduled_at, queue, startup
):
    failure = None if reason is None else Failure(exit_code=1, reason=reason.value, message="")
    ended = attempt(finished_at=80, outcome=outcome, failure=failure, pods_scheduled_at=scheduled_at)
    lost = ended_stage(ended).lost_seconds
    assert (lost.queue, lost.startup) == (queue, startup)


def test_the_ledger_takes_over_what_the_processes_tell_and_forgets_nothing():
    account = with_work(Accounting(), WorkSeconds(productive=90.0, recompute=5.0))
    account = with_work(account, WorkSeconds(productive=80.0, recompute=9.0))
    account = add_stall(add_stall(account, 30.0), -2.0)
    assert account.productive_seconds == 90.0
    assert (account.lost_seconds.recompute, account.lost_seconds.stall) == (9.0, 30.0)
