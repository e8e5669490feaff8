"""Where the sources are read in shards, an Indexed Job comes before the pod that prepares the data."""

import pytest

from tests.support.fake_nodes import Life, ordinary_life, place_of
from tests.support.operator_harness import NAMESPACE, play, sharded_document
from trainyard_operator.cluster import CLAIMS, JOBS


def lives(changed):
    """Lives of the n-th pods of shards, by (shard, n); all others are ordinary."""
    names = {}

    def chosen(pod):
        stage, _, place = place_of(pod)
        known = names.setdefault((stage, place), [])
        if pod["metadata"]["name"] not in known:
            known.append(pod["metadata"]["name"])
        number = place, known.index(pod["metadata"]["name"])
        return changed.get(number, ordinary_life(pod)) if stage == "read" else ordinary_life(pod)

    return chosen


async def to_the_end(world):
    world.create(sharded_document())
    await world.after(150)


def test_all_shards_are_read_by_one_job_before_one_pod_prepares_and_the_gang_trains():
    world = play(to_the_end)
    assert world.status().phase == "Succeeded"
    (job,) = world.cluster.objects(JOBS)
    assert job["spec"]["completions"] == 2
    assert [len(world.pods(stage)) for stage in ("read", "prepare", "train", "export")] == [2, 1, 2, 1]
    assert world.cluster.writes()["jobs"] == 1
    assert [attempt.outcome for attempt in world.status().attempts] == ["Succeeded"]


def test_one_shard_needs_no_job():
    async def scenario(world):
        world.create(sharded_document(1))
        await world.after(100)

    world = play(scenario)
    assert world.status().phase == "Succeeded"
    assert world.cluster.objects(JOBS) == []
    assert world.pods("read") == []


def test_how_many_shards_are_done_is_told_as_they_end():
    told = []

    async def scenario(world):
        world.create(sharded_document(3))
        for _ in range(90):
            await world.after(1)
            progress = world.status().progress
            if progress is not None and progress.stage == "Read":
                told.append((progress.detail, progress.percent))

    slow = {(1, 0): Life(run_seconds=40), (2, 0): Life(run_seconds=60)}
    play(scenario, life_of=lives(slow))
    assert list(dict.fromkeys(told)) == [
        ("0 of 3 shards", 0.0),
        ("1 of 3 shards", 33.3),
        ("2 of 3 shards", 66.7),
        ("3 of 3 shards", 100.0),
    ]


def test_the_first_shard_tells_how_far_it_is_until_one_is_done_and_costs_no_write_without_news():
    own = "shard 1 of 3, reading: 12.5 MB of 40.0 MB"

    async def scenario(world):
        key = world.create(sharded_document(3))
        await world.after(10)
        world.report(key, 0, 0, detail=own, stage="Read")
        await world.after(12)
        progress = world.status().progress
        assert (progress.detail, progress.percent) == (f"0 of 3 shards; {own}", 0.0)
        before = world.cluster.writes()
        world.operator.queue.add(key)
        await world.after(15)
        assert world.cluster.writes() == before
        await world.after(20)
        progress = world.status().progress
        assert (progress.detail, progress.percent) == ("1 of 3 shards", 33.3)

    slow = {(0, 0): Life(run_seconds=90), (1, 0): Life(run_seconds=40), (2, 0): Life(run_seconds=90)}
    play(scenario, life_of=lives(slow))


def test_a_job_works_as_soon_as_one_of_its_pods_does_since_none_waits_for_another():
    async def scenario(world):
        document = sharded_document(3)
        document["spec"] |= {"queueDeadlineSeconds": 30, "startupDeadlineSeconds": 30}
        world.create(document)
        await world.after(60)
        assert world.condition("Running") == ("True", "StageStarted", "Read: 1 of 3 pods")
        assert world.condition("PodsScheduled") == ("True", "PodsScheduled", "2 of 3 pods have nodes")
        assert world.status().phase == "Running"

    stuck = {(1, 0): Life(unschedulable="no room"), (2, 0): Life(waiting=("ErrImagePull", "no such image"))}
    play(scenario, life_of=lives({**stuck, (0, 0): Life(run_seconds=None)}))


def test_a_shard_that_fails_is_repeated_alone_and_costs_no_attempt():
    world = play(to_the_end, life_of=lives({(1, 0): Life(run_seconds=3, exit_code=1)}))
    assert world.status().phase == "Succeeded"
    assert [attempt.outcome for attempt in world.status().attempts] == ["Succeeded"]
    assert sorted(place_of(pod)[2] for pod in world.pods("read")) == [0, 1, 1]


def test_a_permanent_exit_code_of_one_shard_ends_the_run_at_once_with_its_evidence():
    message = '{"rank": 1, "exitCode": 65, "reason": "InvalidData", "message": "no such field",'
    end = Life(
        run_seconds=10,
        exit_code=65,
        message=f'{message} "logTail": "the last line", "time": "2027-01-15T08:00:00Z"}}',
    )
    world = play(to_the_end, life_of=lives({(0, 0): Life(run_seconds=600), (1, 0): end}))
    status = world.status()
    assert status.phase == "Failed"
    failure = status.attempts[0].failure
    assert (failure.exit_code, failure.reason, failure.rank) == (65, "InvalidData", 1)
    assert (failure.message, failure.log_tail) == ("no such field", "the last line")
    assert place_of(next(pod for pod in world.pods("read") if pod["metadata"]["name"] == failure.pod))[2] == 1
    assert [len(world.pods(stage)) for stage in ("prepare", "train")] == [0, 0]
    # The other shard was stopped, and no pod was made a second time.
    assert len({pod["metadata"]["name"] for pod in world.pods("read")}) <= 2
    assert len(status.attempts) == 1


def test_a_fault_that_was_mended_is_not_taken_for_the_cause_of_a_later_end():
    early, late = Life(run_seconds=1, exit_code=75), Life(run_seconds=30, exit_code=65)
    world = play(to_the_end, life_of=lives({(0, 0): early, (1, 0): late}))
    assert world.status().phase == "Failed"
    assert world.status().attempts[0].failure.exit_code == 65


def test_a_shard_that_fails_again_and_again_is_a_failed_attempt_and_the_next_reads_again():
    fails = Life(run_seconds=2, exit_code=75)
    world = play(to_the_end, life_of=lives({(1, number): fails for number in range(3)}))
    status = world.status()
    assert [attempt.outcome for attempt in status.attempts] == ["Failed", "Succeeded"]
    assert (status.attempts[0].stage, status.attempts[0].failure.exit_code) == ("Read", 75)
    assert len(world.cluster.objects(JOBS)) == 2


def test_an_attempt_after_a_failed_preparation_does_not_read_again():
    failed = set()

    def life_of(pod):
        if place_of(pod)[0] == "prepare" and not failed:
            failed.add(pod["metadata"]["name"])
            return Life(run_seconds=3, exit_code=1)
        return ordinary_life(pod)

    world = play(to_the_end, life_of=life_of)
    assert [attempt.stage for attempt in world.status().attempts] == ["Prepare", "Export"]
    assert len(world.cluster.objects(JOBS)) == 1


@pytest.mark.parametrize("modes", [["ReadWriteOnce"], ["ReadOnlyMany", "ReadWriteOncePod"]])
def test_a_claim_that_only_one_node_may_write_to_is_refused_until_there_is_another(modes):
    async def scenario(world):
        def allow(*allowed):
            world.cluster.change(
                CLAIMS,
                NAMESPACE,
                "trainyard",
                lambda claim: claim.update(spec={"accessModes": list(allowed)}),
            )

        allow(*modes)
        world.create(sharded_document())
        await world.after(10)
        truth, reason, message = world.condition("Validated")
        assert (truth, reason) == ("False", "SpecInvalid")
        assert message.startswith(
            f"spec.data.preparation.shards: PersistentVolumeClaim trainyard is {modes[0]}"
        )
        assert "ReadWriteMany" in message
        assert world.cluster.objects(JOBS) == []
        world.create({**sharded_document(1), "metadata": {"name": "alone", "namespace": NAMESPACE}})
        await world.after(10)
        assert world.condition("Validated", "alone")[0] == "True"
        allow("ReadWriteOnce", "ReadWriteMany")
        await world.after(200)

    assert play(scenario).status().phase == "Succeeded"


def test_suspending_removes_the_job_and_resuming_reads_again():
    async def scenario(world):
        world.create(sharded_document())
        await world.after(5)
        world.edit(suspend=True)
        await world.after(10)
        assert world.status().phase == "Suspended"
        assert world.cluster.objects(JOBS) == []
        assert world.pods() == []
        world.edit(suspend=False)
        await world.after(110)

    assert play(scenario).status().phase == "Succeeded"


def test_deleting_the_run_leaves_no_job_and_no_pod():
    async def scenario(world):
        world.create(sharded_document())
        await world.after(5)
        assert len(world.cluster.objects(JOBS)) == 1
        world.delete()
        await world.after(10)
        assert world.cluster.objects(JOBS) == world.pods() == []

    play(scenario)


def test_a_job_that_a_person_deletes_is_a_fault():
    async def scenario(world):
        world.create(sharded_document())
        await world.after(5)
        (job,) = world.cluster.objects(JOBS)
        world.cluster.erase(JOBS, NAMESPACE, job["metadata"]["name"])
        await world.after(130)
        assert world.status().attempts[0].failure.reason == "PodDeleted"

    assert play(scenario).status().phase == "Succeeded"
