"""The semantics of the work queue, in virtual time."""

import asyncio

import pytest

from tests.support.virtual_time import run_in_virtual_time
from trainyard_operator.token_bucket import TokenBucket
from trainyard_operator.work_queue import WorkQueue


def now():
    return asyncio.get_running_loop().time()


async def taken(queue, seconds=1_000.0):
    """The next key and when it came."""
    async with asyncio.timeout(seconds):
        key = await queue.get()
    return key, now()


async def nothing_comes(queue, seconds):
    with pytest.raises(TimeoutError):
        await taken(queue, seconds)


def test_keys_come_in_the_order_in_which_they_were_added():
    async def scenario():
        queue = WorkQueue()
        for key in "abc":
            queue.add(key)
        assert [(await queue.get()) for _ in range(3)] == ["a", "b", "c"]

    run_in_virtual_time(scenario())


def test_a_key_that_waits_is_there_once():
    async def scenario():
        depths = []
        queue = WorkQueue(on_depth=depths.append)
        queue.add("a")
        queue.add("a")
        assert await queue.get() == "a"
        queue.done("a")
        await nothing_comes(queue, 100)
        assert depths == [1, 0]

    run_in_virtual_time(scenario())


def test_a_key_in_work_comes_back_only_when_it_is_done():
    async def scenario():
        queue = WorkQueue()
        queue.add("a")
        await queue.get()
        queue.add("a")
        queue.add("a")
        await nothing_comes(queue, 100)
        queue.done("a")
        assert (await taken(queue))[0] == "a"
        queue.done("a")
        await nothing_comes(queue, 100)
        assert queue.is_idle

    run_in_virtual_time(scenario())


@pytest.mark.parametrize(
    ("delays", "comes_at"), [([5], 5), ([5, 3], 3), ([3, 5], 3), ([5, 0], 0), ([5, -1], 0)]
)
def test_the_earliest_of_several_delays_counts(delays, comes_at):
    async def scenario():
        queue = WorkQueue()
        for delay in delays:
            queue.add_after("a", delay)
        assert await taken(queue) == ("a", comes_at)
        queue.done("a")
        await nothing_comes(queue, 100)

    run_in_virtual_time(scenario())


def test_adding_a_key_at_once_ends_its_wait():
    async def scenario():
        queue = WorkQueue()
        queue.add_after("a", 50)
        queue.add("a")
        assert await taken(queue) == ("a", 0)
        queue.done("a")
        await nothing_comes(queue, 100)

    run_in_virtual_time(scenario())


def test_errors_of_a_key_are_waited_for_longer_each_time_up_to_a_minute():
    async def scenario():
        queue = WorkQueue()
        delays = [queue.add_after_error("a") for _ in range(12)]
        assert delays[:5] == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6])
        assert delays[-1] == 60.0
        assert queue.add_after_error("b") == pytest.approx(0.1)
        queue.succeeded("a")
        assert queue.add_after_error("a") == pytest.approx(0.1)
        assert queue.add_after_error("a", at_least_seconds=7.0) == 7.0

    run_in_virtual_time(scenario())


def test_a_forgotten_key_does_not_come():
    async def scenario():
        queue = WorkQueue()
        queue.add_after("a", 5)
        queue.forget("a")
        await nothing_comes(queue, 100)

    run_in_virtual_time(scenario())


def test_a_key_that_is_forgotten_in_work_does_not_come_back():
    async def scenario():
        queue = WorkQueue()
        queue.add("a")
        await queue.get()
        queue.add("a")
        queue.forget("a")
        queue.done("a")
        await nothing_comes(queue, 100)

    run_in_virtual_time(scenario())


def test_waiting_times_are_told():
    async def scenario():
        waits = []
        queue = WorkQueue(on_wait=waits.append)
        queue.add("a")
        await asyncio.sleep(3)
        await queue.get()
        assert waits == [3]

    run_in_virtual_time(scenario())


def test_many_workers_share_the_keys_and_none_is_handled_twice_at_a_time():
    async def scenario():
        queue, at_work, handled = WorkQueue(), set(), []

        async def worker():
            while True:
                key = await queue.get()
                assert key not in at_work
                at_work.add(key)
                await asyncio.sleep(1)
                at_work.discard(key)
                handled.append(key)
                queue.done(key)

        workers = [asyncio.create_task(worker()) for _ in range(4)]
        for _ in range(3):
            for key in range(8):
                queue.add(key)
            await asyncio.sleep(0.1)
        await asyncio.sleep(10)
        for task in workers:
            task.cancel()
        assert sorted(handled) == sorted([*range(8), *range(4)])

    run_in_virtual_time(scenario())


def test_a_token_bucket_lets_a_burst_through_and_then_keeps_its_pace():
    async def scenario():
        bucket = TokenBucket(per_second=10.0, burst=5)
        times = []

        async def request():
            await bucket.take()
            times.append(round(now(), 3))

        await asyncio.gather(*(request() for _ in range(15)))
        assert times == [0.0] * 5 + [round(number / 10, 3) for number in range(1, 11)]

    run_in_virtual_time(scenario())


def test_a_token_bucket_fills_up_again_but_not_beyond_its_size():
    async def scenario():
        bucket = TokenBucket(per_second=10.0, burst=5)
        for _ in range(5):
            await bucket.take()
        await asyncio.sleep(100)
        started = now()
        for _ in range(5):
            await bucket.take()
        assert now() == started
        await bucket.take()
        assert now() == pytest.approx(started + 0.1)

    run_in_virtual_time(scenario())
