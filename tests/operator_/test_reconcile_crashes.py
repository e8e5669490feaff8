"""The operator dies at every request it makes, or a fifth of its requests fail: the end is the same.

The kinds of trouble are those of Sieve (OSDI '22): intermediate states after a crash between any two calls,
and requests that fail, or seem to fail and took effect.
"""

import random
from dataclasses import dataclass

import pytest

from tests.support.fake_nodes import Life, ordinary_life, place_of
from tests.support.operator_harness import crash_at, play, run_document
from trainyard_operator.cluster import CONFIG_MAPS, EVENTS, JOBS, PODS, RUNS, SERVICES
from trainyard_operator.errors import ConflictError, ThrottledError, UnavailableError


def fault_in_training(pod):
    if place_of(pod) == ("train", 0, 1):
        return Life(run_seconds=5, exit_code=137)
    return ordinary_life(pod)


def endless_first_attempt(pod):
    return Life(run_seconds=None) if place_of(pod)[:2] == ("train", 0) else ordinary_life(pod)


def permanent(pod):
    return Life(run_seconds=5, exit_code=65) if place_of(pod) == ("train", 0, 1) else ordinary_life(pod)


async def plain(world):
    world.create()
    await world.after(400)


async def suspended_and_resumed(world):
    world.create()
    await world.after(60)
    world.edit(suspend=True)
    await world.after(60)
    world.edit(suspend=False)
    await world.after(400)


async def resized(world):
    world.create()
    await world.after(60)
    world.edit(workers={"nodes": 4})
    await world.after(400)


async def overdue(world):
    world.create(run_document(activeDeadlineSeconds=50))
    await world.after(400)


async def deleted_and_created_again(world):
    world.create()
    await world.after(60)
    world.delete()
    world.create()
    await world.after(400)


async def expired(world):
    world.create(run_document(ttlSecondsAfterFinished=60))
    await world.after(600)


SCENARIOS = {
    "complete": (plain, ordinary_life),
    "fault": (plain, fault_in_training),
    "permanent": (plain, permanent),
    "suspend": (suspended_and_resumed, endless_first_attempt),
    "resize": (resized, endless_first_attempt),
    "deadline": (
        overdue,
        lambda pod: Life(run_seconds=None) if place_of(pod)[0] == "train" else ordinary_life(pod),
    ),
    "same-name": (deleted_and_created_again, ordinary_life),
    "ttl": (expired, ordinary_life),
}


@dataclass(frozen=True)
class Outcome:
    """What a scenario ends in, without names and times."""

    phases: tuple
    outcomes: tuple
    restarts: tuple
    pods: tuple
    objects: tuple
    events: tuple


def outcome_of(world):
    names = sorted(stored["metadata"]["name"] for stored in world.cluster.objects(RUNS))
    statuses = [world.status(name) for name in names]
    return Outcome(
        phases=tuple(status.phase for status in statuses),
        outcomes=tuple(tuple(attempt.outcome for attempt in status.attempts) for status in statuses),
        restarts=tuple(status.restarts for status in statuses),
        pods=tuple(sorted((*place_of(pod), pod["status"]["phase"]) for pod in world.cluster.objects(PODS))),
        objects=tuple(
            (resource.plural, len(world.cluster.objects(resource)))
            for resource in (JOBS, SERVICES, CONFIG_MAPS)
        ),
        events=tuple(sorted((event["type"], event["reason"]) for event in world.cluster.objects(EVENTS))),
    )


def with_fault(scenario, fault):
    async def played(world):
        world.cluster.fault = fault
        await scenario(world)
        world.cluster.fault = lambda call, committed: None
        await world.after(200)

    return played


@pytest.mark.parametrize("name", SCENARIOS)
@pytest.mark.parametrize("committed", [False, True], ids=["before", "after"])
def test_a_crash_at_any_request_leads_to_the_same_end(name, committed):
    scenario, life = SCENARIOS[name]
    faultless = play(with_fault(scenario, lambda call, committed: None), life_of=life)
    expected = outcome_of(faultless)
    requests = len(faultless.cluster.calls)
    assert requests > 10
    for number in range(1, requests + 1):
        world = play(with_fault(scenario, crash_at(number, committed=committed)), life_of=life)
        assert world.starts == 2, f"no crash at request {number}"
        assert outcome_of(world) == expected, f"crash at request {number}: {world.cluster.calls[number - 1]}"


@pytest.mark.parametrize("name", SCENARIOS)
@pytest.mark.parametrize("seed", range(5))
def test_a_fifth_of_all_requests_failing_leads_to_the_same_end(name, seed):
    scenario, life = SCENARIOS[name]
    chance = random.Random(seed)

    def fault(call, committed):
        if chance.random() < 0.1:
            errors = [ThrottledError("slow down"), UnavailableError("500"), UnavailableError("no answer")]
            if not committed and call.verb == "patch_status":
                errors.append(ConflictError("changed"))
            raise chance.choice(errors)

    expected = outcome_of(play(with_fault(scenario, lambda call, committed: None), life_of=life))
    world = play(with_fault(scenario, fault), life_of=life)
    assert outcome_of(world) == expected
