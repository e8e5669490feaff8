"""Who leads: taking, keeping, losing, fencing and giving back the lease, with clocks of our own."""

import asyncio

import pytest

from tests.support.fake_cluster import FakeCluster
from tests.support.virtual_time import run_in_virtual_time
from trainyard_operator.cluster import LEASES
from trainyard_operator.errors import NotLeadingError, UnavailableError
from trainyard_operator.leases import AlwaysLeading, Leadership
from trainyard_operator.settings import Settings

NAMESPACE = "trainyard"


class Replicas:
    """A cluster and the replicas that contend for its lease."""

    def __init__(self):
        self.loop = asyncio.get_running_loop()
        self.cluster = FakeCluster(clock=self.wall_clock)
        self.tasks = {}
        self.leaderships = {}
        self.story = []

    def wall_clock(self):
        return 1_800_000_000.0 + self.loop.time()

    def start(self, name, skew=0.0):
        settings = Settings(identity=name, operator_namespace=NAMESPACE)
        leadership = Leadership(self.cluster, settings, lambda: self.loop.time() + skew, self.wall_clock)

        async def told(what):
            self.story.append((what, name))

        run = leadership.run(lambda: told("leads"), lambda: told("stops"))
        self.leaderships[name] = leadership
        self.tasks[name] = asyncio.create_task(run)
        return leadership

    async def kill(self, name):
        """SIGKILL: nothing is given back."""
        self.leaderships[name]._holds_until = float("-inf")
        await self.stop(name)

    async def stop(self, name):
        self.tasks[name].cancel()
        await asyncio.wait({self.tasks[name]})

    def leaders(self):
        return [name for name, leadership in self.leaderships.items() if leadership.is_leading()]

    def lease(self):
        return self.cluster.stored(LEASES, NAMESPACE, "trainyard-operator")["spec"]


def test_the_first_replica_takes_the_lease_and_keeps_it():
    async def scenario():
        replicas = Replicas()
        replicas.start("a")
        await asyncio.sleep(0.5)
        replicas.start("b")
        for _ in range(100):
            await asyncio.sleep(0.7)
            assert replicas.leaders() == ["a"]
        assert replicas.lease()["holderIdentity"] == "a"
        assert replicas.lease()["leaseTransitions"] == 0
        assert replicas.story == [("leads", "a")]

    run_in_virtual_time(scenario())


@pytest.mark.parametrize("phase", [0.0, 0.3, 1.0, 1.7, 1.9])
def test_another_replica_takes_over_within_the_lease_and_one_look_and_never_two_lead(phase):
    async def scenario():
        replicas = Replicas()
        replicas.start("a")
        await asyncio.sleep(5 + phase)
        replicas.start("b")
        await asyncio.sleep(5)
        await replicas.kill("a")
        killed_at = replicas.loop.time()
        while replicas.leaders() != ["b"]:
            await asyncio.sleep(0.05)
            assert len(replicas.leaders()) <= 1
        assert 13.0 < replicas.loop.time() - killed_at <= 17.1
        assert replicas.lease()["leaseTransitions"] == 1

    run_in_virtual_time(scenario())


def test_a_replica_that_stops_in_order_hands_over_at_once():
    async def scenario():
        replicas = Replicas()
        replicas.start("a")
        await asyncio.sleep(5)
        replicas.start("b")
        await asyncio.sleep(5)
        await replicas.stop("a")
        assert replicas.lease()["holderIdentity"] == ""
        await asyncio.sleep(2.1)
        assert replicas.leaders() == ["b"]

    run_in_virtual_time(scenario())


def test_a_leader_that_cannot_renew_stops_acting_before_another_can_take_over():
    async def scenario():
        replicas = Replicas()
        leadership = replicas.start("a")
        await asyncio.sleep(5)
        replicas.start("b")
        await asyncio.sleep(5)

        def unreachable_for_a(call, committed):
            if asyncio.current_task() is replicas.tasks["a"]:
                raise UnavailableError("no answer")

        replicas.cluster.fault = unreachable_for_a
        await asyncio.sleep(10.2)
        assert not leadership.is_leading()
        assert replicas.leaders() == []
        with pytest.raises(NotLeadingError):
            leadership.check()
        while replicas.leaders() != ["b"]:
            await asyncio.sleep(0.1)
            assert not leadership.is_leading()
        replicas.cluster.fault = lambda call, committed: None
        await asyncio.sleep(10)
        assert replicas.leaders() == ["b"]
        assert replicas.story == [("leads", "a"), ("stops", "a"), ("leads", "b")]

    run_in_virtual_time(scenario())


def test_a_renewal_whose_answer_is_lost_fences_the_leader_all_the_same():
    async def scenario():
        replicas = Replicas()
        leadership = replicas.start("a")
        await asyncio.sleep(5)

        def answer_lost(call, committed):
            if committed and call.verb == "replace":
                raise UnavailableError("no answer")

        replicas.cluster.fault = answer_lost
        await asyncio.sleep(10.5)
        assert not leadership.is_leading()
        replicas.cluster.fault = lambda call, committed: None
        await asyncio.sleep(2.1)
        assert leadership.is_leading()

    run_in_virtual_time(scenario())


def test_requests_that_hang_do_not_keep_a_leader_in_office():
    async def scenario():
        replicas = Replicas()
        leadership = replicas.start("a")
        await asyncio.sleep(5)
        replicas.cluster.latency_seconds = 1_000.0
        await asyncio.sleep(10.1)
        assert not leadership.is_leading()

    run_in_virtual_time(scenario())


def test_one_request_that_hangs_does_not_cost_a_leader_its_office():
    async def scenario():
        replicas = Replicas()
        leadership = replicas.start("a")
        await asyncio.sleep(5)
        requests = len(replicas.cluster.calls)
        replicas.cluster.latency_seconds = 1_000.0
        await asyncio.sleep(2)
        replicas.cluster.latency_seconds = 0.001
        assert len(replicas.cluster.calls) == requests + 1
        for _ in range(200):
            await asyncio.sleep(0.1)
            assert leadership.is_leading()
        assert replicas.story == [("leads", "a")]

    run_in_virtual_time(scenario())


def test_an_api_server_that_takes_seconds_for_each_request_is_enough_to_stay_in_office():
    async def scenario():
        replicas = Replicas()
        leadership = replicas.start("a")
        await asyncio.sleep(5)
        replicas.cluster.latency_seconds = 4.5
        for _ in range(600):
            await asyncio.sleep(0.1)
            assert leadership.is_leading()
        assert replicas.story == [("leads", "a")]

    run_in_virtual_time(scenario())


def test_a_leader_renews_with_one_request_at_a_steady_pace():
    async def scenario():
        replicas = Replicas()
        replicas.start("a")
        await asyncio.sleep(5)
        replicas.cluster.calls.clear()
        await asyncio.sleep(20)
        assert [call.verb for call in replicas.cluster.calls] == ["replace"] * 10

    run_in_virtual_time(scenario())


def test_an_expired_lease_that_nobody_can_read_is_asked_for_at_the_usual_pace():
    async def scenario():
        replicas = Replicas()
        replicas.start("a")
        await asyncio.sleep(5)
        replicas.start("b")
        await asyncio.sleep(5)
        await replicas.kill("a")
        await asyncio.sleep(10)

        def unreachable(call, committed):
            raise UnavailableError("no answer")

        replicas.cluster.fault = unreachable
        replicas.cluster.calls.clear()
        await asyncio.sleep(40)
        assert 15 <= len(replicas.cluster.calls) <= 22

    run_in_virtual_time(scenario())


def test_a_gap_between_two_renewals_is_told_even_when_the_second_succeeds():
    async def scenario():
        replicas = Replicas()
        leadership = replicas.start("a")
        await asyncio.sleep(5)
        assert leadership.is_leading()
        replicas.cluster.latency_seconds = 1_000.0
        await asyncio.sleep(9)
        # Two tries have hung; the third answers, but only after the renew deadline.
        replicas.cluster.latency_seconds = 4.0
        await asyncio.sleep(3)
        replicas.cluster.latency_seconds = 0.001
        await asyncio.sleep(10)
        assert leadership.is_leading()
        assert replicas.story == [("leads", "a"), ("stops", "a"), ("leads", "a")]

    run_in_virtual_time(scenario())


def test_clocks_of_other_machines_do_not_matter():
    async def scenario():
        replicas = Replicas()
        replicas.start("a", skew=1_000_000.0)
        await asyncio.sleep(5)
        replicas.start("b", skew=-1_000_000.0)
        for _ in range(100):
            await asyncio.sleep(0.5)
            assert replicas.leaders() == ["a"]

    run_in_virtual_time(scenario())


def test_a_lease_that_somebody_deletes_is_made_again():
    async def scenario():
        replicas = Replicas()
        replicas.start("a")
        await asyncio.sleep(5)
        replicas.cluster.erase(LEASES, NAMESPACE, "trainyard-operator")
        await asyncio.sleep(5)
        assert replicas.leaders() == ["a"]
        assert replicas.lease()["holderIdentity"] == "a"

    run_in_virtual_time(scenario())


def test_many_replicas_that_start_at_once_agree_on_one():
    async def scenario():
        replicas = Replicas()
        for number in range(8):
            replicas.start(f"replica-{number}")
        for _ in range(100):
            await asyncio.sleep(0.5)
            assert len(replicas.leaders()) == 1

    run_in_virtual_time(scenario())


def test_a_single_replica_needs_no_lease():
    async def scenario():
        story = []

        async def told(what):
            story.append(what)

        leadership = AlwaysLeading()
        assert leadership.is_leading()
        leadership.check()
        task = asyncio.create_task(leadership.run(lambda: told("leads"), lambda: told("stops")))
        await asyncio.sleep(1)
        task.cancel()
        await asyncio.wait({task})
        assert story == ["leads", "stops"]

    run_in_virtual_time(scenario())
