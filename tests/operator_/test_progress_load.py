"""A thousand runs that report: what it costs, and that nothing is lost."""

import asyncio
import gc
import http.client
import json
import time

import psutil

from tests.support.progress_endpoint import HOST, RunningEndpoint
from trainyard_api.names import progress_path
from trainyard_operator.keys import RunKey

NUM_RUNS = 1000
CONCURRENCY = 32
NUM_REPEATED = 200
"""Runs that report a second time, for which no token has to be reviewed again."""
MAXIMUM_GROWTH_BYTES = 64 * 1024 * 1024
"""Of server, client and test together: 64 kB for each run."""
MAXIMUM_LATENCY_SECONDS = 10.0
"""Of the slowest per cent, on a busy machine, while CONCURRENCY posts are under way."""
MAXIMUM_SERVER_SECONDS = 0.0025
"""CPU of the server for a post: 1,000 runs that report every 5 seconds take half a core at most."""


def body(step):
    progress = {"stage": "Train", "step": step, "percent": 1.0, "updatedAt": "2026-11-25T00:00:00Z"}
    return json.dumps({"attempt": 0, "progress": progress}).encode()


async def thread_seconds():
    """CPU seconds of the thread that runs this."""
    return time.thread_time()


async def post_all(endpoint, tokens):
    """Post for every run, and for some again; the seconds that each post took."""
    slots, context = asyncio.Semaphore(CONCURRENCY), endpoint.client_context()

    async def post(number, step):
        sent = body(step)
        head = (
            f"POST {progress_path('team', f'run-{number}')} HTTP/1.1\r\nHost: operator\r\n"
            f"Authorization: Bearer {tokens[number]}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(sent)}\r\n\r\n"
        )
        async with slots:
            started = time.perf_counter()
            reader, writer = await asyncio.open_connection(HOST, endpoint.port, ssl=context)
            writer.write(head.encode() + sent)
            answer = await reader.read()
            writer.close()
            await writer.wait_closed()
            assert answer.startswith(b"HTTP/1.1 200 ")
            return time.perf_counter() - started

    first = await asyncio.gather(*(post(number, 1) for number in range(NUM_RUNS)))
    return first + await asyncio.gather(*(post(number, 2) for number in range(NUM_REPEATED)))


def test_a_thousand_runs_report_in_bounded_memory_and_time(tmp_path):
    with RunningEndpoint(tmp_path) as endpoint:
        keys = [RunKey("team", f"run-{number}", f"uid-{number}") for number in range(NUM_RUNS)]
        tokens = [endpoint.add_pod(f"pod-{number}", key) for number, key in enumerate(keys)]
        gc.collect()
        before = psutil.Process().memory_info().rss
        busy = endpoint.call(thread_seconds)
        latencies = sorted(asyncio.run(post_all(endpoint, tokens)))
        server_seconds = endpoint.call(thread_seconds) - busy
        gc.collect()
        growth = psutil.Process().memory_info().rss - before

        slowest = latencies[int(len(latencies) * 0.99)]
        steps = [endpoint.store.newest(key).report.progress.step for key in keys]
        assert steps == [2] * NUM_REPEATED + [1] * (NUM_RUNS - NUM_REPEATED)
        assert endpoint.outcomes == [("trainyard", "accepted")] * len(latencies)
        assert endpoint.reviewer.num_reviews == NUM_RUNS
        assert growth < MAXIMUM_GROWTH_BYTES
        assert slowest < MAXIMUM_LATENCY_SECONDS
        assert server_seconds / len(latencies) < MAXIMUM_SERVER_SECONDS


def test_connections_of_many_posts_do_not_pile_up(tmp_path):
    with RunningEndpoint(tmp_path) as endpoint:
        for _ in range(50):
            connection = http.client.HTTPSConnection(
                "127.0.0.1", endpoint.port, timeout=10, context=endpoint.client_context()
            )
            connection.request("POST", "/nowhere", body=b"{}")
            assert connection.getresponse().status == 404
            connection.close()

        async def settled():
            async with asyncio.timeout(20):
                while endpoint._server._num_open():  # noqa: ASYNC110 - nothing tells of a closed connection
                    await asyncio.sleep(0.01)

        endpoint.call(settled)
