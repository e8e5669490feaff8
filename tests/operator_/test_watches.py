"""kopf's watches on a server that misbehaves: none of it ends the operator, and dead streams are noticed."""

import asyncio
import gc
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from tests.support.api_server import ApiServer, send, silent
from tests.support.operator_harness import run_document
from trainyard_operator import watches as watches_module
from trainyard_operator.handlers import WATCHED, build_registry, watch_settings
from trainyard_operator.intake import Intake
from trainyard_operator.settings import Settings
from trainyard_operator.store import Store
from trainyard_operator.watches import Watches
from trainyard_operator.work_queue import WorkQueue

CLOSING_SECONDS = 20.0
"""More than the watches take for their end, which is twice `STOP_SECONDS`."""
CLOSING_ROUNDS = 5
KINDS = ("trainingruns", "pods", "jobs", "services", "configmaps")


def run_object(name="speeches", version="10"):
    document = run_document(name)
    document["metadata"] |= {
        "uid": f"uid-{name}",
        "resourceVersion": version,
        "creationTimestamp": "2027-01-15T08:00:00Z",
    }
    return document


class Watched:
    """What the handlers were told."""

    def __init__(self, settings):
        self.store = Store()
        self.queue = WorkQueue()
        self.events = []
        self.signals = 0
        self.opened = []
        self.came = asyncio.Condition()
        intake = Intake(self.store, self.queue, lambda: 0.0)
        self.watches = Watches(
            WATCHED,
            lambda login: build_registry(intake, self.events.append, login),
            lambda: watch_settings(settings),
            (),
            lambda plural, is_list: self.opened.append((plural, is_list)),
            self.count_signals,
        )

    def lists(self, plural):
        return self.opened.count((plural, True))

    def count_signals(self):
        self.signals += 1

    async def until(self, condition, seconds=10.0):
        async with asyncio.timeout(seconds):
            while not condition():  # noqa: ASYNC110 - the server under test knows no events
                await asyncio.sleep(0.02)


@pytest.fixture
def watched(tmp_path, monkeypatch):
    monkeypatch.setattr(watches_module, "RESTART_BASE_SECONDS", 0.05)
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)

    @asynccontextmanager
    async def running(server, **settings):
        await server.start()
        monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig(tmp_path)))
        watched = Watched(Settings(**settings))
        task = asyncio.create_task(watched.watches.run())
        try:
            yield watched
            assert not task.done(), task
        finally:
            task.cancel()
            await asyncio.wait({task}, timeout=CLOSING_SECONDS)
            await server.stop()

    return running


def play(scenario):
    """Play a scenario to its end; what of kopf does not end then is named, instead of being waited for."""
    loop = asyncio.new_event_loop()
    try:
        main = loop.create_task(scenario())
        loop.run_until_complete(asyncio.wait({main}))
        stuck = end_tasks(loop)
        main.result()
        assert not stuck
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.close()
        # asyncio complains of failed tasks when they are collected, which must not be in a later test.
        gc.collect()


def end_tasks(loop):
    """Cancel what is left, and what that starts while it ends; returns the tasks that do not end."""
    for _ in range(CLOSING_ROUNDS):
        left = asyncio.all_tasks(loop)
        if not left:
            break
        for task in left:
            task.cancel()
        ended, _ = loop.run_until_complete(asyncio.wait(left, timeout=CLOSING_SECONDS / CLOSING_ROUNDS))
        for task in ended:
            if not task.cancelled():
                task.exception()  # which keeps asyncio from complaining of it in a later test
    return asyncio.all_tasks(loop)


def test_what_is_listed_and_what_is_watched_reaches_store_and_queue(watched):
    async def watch(plural, stream):
        if plural == "trainingruns":
            await send(stream, "ADDED", run_object("watched", "20"))
        await silent(plural, stream)

    async def scenario():
        server = ApiServer(watch)
        server.objects["trainingruns"] = [run_object("listed")]
        async with watched(server) as told:
            await told.until(lambda: len(told.store) == 2)
            assert told.events == ["trainingruns", "trainingruns"]
            assert len(told.queue) == 2
            assert told.signals == 1
            assert told.lists("trainingruns") == 1

    play(scenario)


def test_only_our_own_objects_are_watched_and_of_some_the_metadata_is_enough(watched):
    async def scenario():
        server = ApiServer()
        async with watched(server) as told:
            await told.until(lambda: all(server.requests[f"watch {kind}"] for kind in KINDS))
        ours = "app.kubernetes.io/managed-by=trainyard"
        assert server.selectors == {kind: "" if kind == "trainingruns" else ours for kind in KINDS}
        asked = {request: "PartialObjectMetadata" in media for request, media in server.accepted.items()}
        assert asked == {
            f"{verb} {kind}": verb == "watch" and kind in ("services", "configmaps")
            for verb in ("list", "watch")
            for kind in KINDS
        }

    play(scenario)


@pytest.mark.parametrize("code", [403, 500, 504])
def test_an_error_in_a_stream_restarts_the_watches_and_nothing_else(watched, code):
    broken = []

    async def watch(plural, stream):
        if plural == "pods" and len(broken) < 3:
            broken.append(plural)
            await send(stream, "ERROR", {"kind": "Status", "code": code, "message": "broken"})
            return
        if plural == "trainingruns" and len(broken) >= 3:
            await send(stream, "ADDED", run_object("late", "30"))
        await silent(plural, stream)

    async def scenario():
        bystander = asyncio.create_task(asyncio.sleep(3_600))
        async with watched(ApiServer(watch)) as told:
            later = asyncio.create_task(asyncio.sleep(3_600))
            await told.until(lambda: len(told.store) == 1 and told.lists("pods") == 4)
            assert told.watches.restarts == 3
            assert told.signals == 4
            for task in (bystander, later):
                assert not task.done()
                task.cancel()

    play(scenario)


def tasks_of_the_client():
    """How many tasks there are, those of the server apart."""
    names = [task.get_coro().__qualname__ for task in asyncio.all_tasks()]
    return sum(not name.startswith("RequestHandler.") for name in names)


def test_restarts_leave_no_tasks_behind(watched):
    async def watch(plural, stream):
        if plural == "pods":
            await send(stream, "ERROR", {"kind": "Status", "code": 500, "message": "broken"})
            return
        await silent(plural, stream)

    async def scenario():
        async with watched(ApiServer(watch)) as told:
            await told.until(lambda: told.watches.restarts == 1)
            before = tasks_of_the_client()
            await told.until(lambda: told.watches.restarts == 5, seconds=30)
            assert tasks_of_the_client() <= before

    play(scenario)


def test_an_expired_version_lists_again_and_tells_so(watched):
    gone = []

    async def watch(plural, stream):
        if plural == "trainingruns" and not gone:
            gone.append(plural)
            await send(stream, "ERROR", {"kind": "Status", "code": 410, "message": "too old"})
            return
        await silent(plural, stream)

    async def scenario():
        server = ApiServer(watch)
        server.objects["trainingruns"] = [run_object()]
        async with watched(server) as told:
            await told.until(lambda: told.lists("trainingruns") == 2)
            assert told.watches.restarts == 0

    play(scenario)


def test_a_list_that_comes_back_empty_is_told(watched):
    gone, server = [], None

    async def watch(plural, stream):
        if plural == "trainingruns" and not gone:
            gone.append(plural)
            server.objects["trainingruns"] = []
            await send(stream, "ERROR", {"kind": "Status", "code": 410, "message": "too old"})
            return
        await silent(plural, stream)

    async def scenario():
        nonlocal server
        server = ApiServer(watch)
        server.objects["trainingruns"] = [run_object()]
        async with watched(server) as told:
            await told.until(lambda: told.lists("trainingruns") == 2)
            assert told.events == ["trainingruns"]

    play(scenario)


def test_credentials_that_the_server_refuses_are_tried_again_with_pauses(watched):
    async def scenario():
        server = ApiServer()
        server.answers["GET", "/api/v1/pods"] = web.Response(status=401, body=b"{}")
        async with watched(server) as told:
            await told.until(lambda: told.watches.restarts == 3, seconds=20)
            assert len(server.bodies) <= 4
            server.answers.clear()
            await told.until(lambda: told.lists("pods") >= 1)

    play(scenario)


def test_a_stream_that_died_silently_is_opened_again(watched):
    streams = []

    async def watch(plural, stream):
        if plural == "trainingruns":
            streams.append(plural)
            if len(streams) == 2:
                await send(stream, "ADDED", run_object("after", "40"))
        await silent(plural, stream)

    async def scenario():
        async with watched(ApiServer(watch), watch_inactivity_seconds=0.5) as told:
            await told.until(lambda: len(told.store) == 1, seconds=5)
            assert told.watches.restarts == 0

    play(scenario)


def test_a_server_that_is_away_for_a_while_is_waited_for(watched):
    async def watch(plural, stream):
        if plural == "trainingruns":
            await send(stream, "ADDED", run_object("second", "50"))
        await silent(plural, stream)

    async def scenario():
        server = ApiServer()
        server.objects["trainingruns"] = [run_object()]
        async with watched(server, watch_inactivity_seconds=0.5) as told:
            await told.until(lambda: len(told.store) == 1)
            port = int(server.url.rpartition(":")[2])
            await server.stop()
            await asyncio.sleep(1)
            again = ApiServer(watch)
            await again.start(port)
            try:
                await told.until(lambda: len(told.store) == 2, seconds=5)
            finally:
                await again.stop()

    play(scenario)
