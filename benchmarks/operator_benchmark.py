"""The operator against Kubernetes' own Job controller and a bare loader, on a real control plane.

first-pod   from the creation of a run to its first pod, one at a time, against a bare Indexed Job
burst       300 runs of 4 pods at once, against Jobs at default and raised limits, and a loader (the ceiling):
            new runs, which prepare their data first, and runs whose data is prepared, resumed at once
gang        one run of 500 pods, against the same
writes      requests that change something, from create to complete, for runs of 4 and of 64 pods
thousand    memory, CPU and writes with 1,000 runs that train, and what becomes of their progress reports
takeover    from SIGKILL of the leader to the first pod of a run that was created right then

    python benchmarks/operator_benchmark.py [--quick] [--json FILE] [--only PART]

The API server's audit log is the clock and the counter. The program is not called operator.py, because every
program in this folder would import it instead of Python's module of that name.
"""

import signal
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))  # tests/cluster starts the control plane

import asyncio

from harness import Figure, Report, Target, at_least, at_most, interleave, median_of, options, ratio
from operator_api import ENDS_SOON, JOBS, RUNS, SERVICES, Api, bare_job, run_document
from operator_arms import (
    DEFAULT_JOB,
    LOADER,
    PREPARED,
    RAISED_JOB,
    TRAINYARD,
    FirstPods,
    Load,
    burst_arms,
    first_pod_arms,
)
from operator_audit import JOB_CONTROLLER, OPERATOR, Recording, own_writes, percentile
from operator_cluster import Ground, running_ground, wait_until
from operator_thousand import report_progress, start_runs, stay_calm

from tests.cluster.audit import Write

PARTS = ("first-pod", "burst", "gang", "writes", "thousand", "takeover")
ENDPOINT_CONTROLLERS = tuple(
    f"system:serviceaccount:kube-system:{name}-controller"
    for name in ("endpoint", "endpointslice", "endpointslicemirroring")
)


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    repeats: int
    """Blocks or bursts of each arm."""
    creates: int
    """Single creates in a block."""
    burst: Load
    gang: Load
    gang_sizes: tuple[int, ...]
    """Sizes of the runs whose writes are counted."""
    runs: int
    """Runs that train at the same time."""
    seconds: float
    """Length of a calm and of a reporting time."""
    takeovers: int


FULL = Size(
    repeats=2,
    creates=100,
    burst=Load(300, 4),
    gang=Load(1, 500),
    gang_sizes=(4, 64),
    runs=1000,
    seconds=60.0,
    takeovers=20,
)
QUICK = Size(
    repeats=1,
    creates=4,
    burst=Load(4, 4),
    gang=Load(1, 24),
    gang_sizes=(4,),
    runs=8,
    seconds=6.0,
    takeovers=1,
)
PAUSE_SECONDS = 0.4
"""Between single creates, so that each finds an idle cluster."""
WARM_CREATES = 10
WARM_PAUSE_SECONDS = 2.0
"""The first ones are not counted, since the very first takes longer than the others."""
SETTLE_SECONDS = 5.0
RUNS_COUNTED = 3
"""Runs of each size whose writes are counted."""


def first_pod(ground: Ground, report: Report, size: Size) -> None:
    """How soon the first pod is there."""
    with ground.namespace() as namespace, ground.operator():
        arms = first_pod_arms(ground, namespace)
        for arm in arms.values():
            arm("warm", WARM_CREATES, WARM_PAUSE_SECONDS)
        found: dict[str, list[FirstPods]] = {name: [] for name in arms}
        for repeat in range(2 * size.repeats):
            for name in list(arms) if repeat % 2 == 0 else reversed(list(arms)):
                found[name].append(arms[name](str(repeat), size.creates, PAUSE_SECONDS))
    times = {name: [second for block in blocks for second in block.to_pod] for name, blocks in found.items()}
    writes = [1000 * second for block in found[TRAINYARD] for second in block.to_write]
    middle, slowest = percentile(writes, 0.5), percentile(writes, 0.99)
    report.say(f"the operator's first write of any kind: p50 {middle:.1f} ms, p99 {slowest:.1f} ms")
    for share, limit in ((0.5, 4.0), (0.99, 2.0)):
        values = {name: 1000 * percentile(seconds, share) for name, seconds in times.items()}
        label = f"p{100 * share:.0f}"
        for name, value in values.items():
            report.add(Figure(f"create to first pod, {label}, {name}", value, "ms", raw={name: times[name]}))
        relation = values[TRAINYARD] / values[DEFAULT_JOB]
        report.add(Figure(f"create to first pod, {label}, Trainyard / Job", relation, target=at_most(limit)))


def bursts(ground: Ground, report: Report, load: Load, repeats: int) -> None:
    """How fast many pods are there."""
    title = f"{load.runs} x {load.nodes} pods"
    found = interleave(burst_arms(ground, load), repeats)
    for name, seconds in found.items():
        report.add(median_of(f"{title}, {name}", seconds, "s"))
    compared: dict[str, Target] = {DEFAULT_JOB: at_most(0.25), RAISED_JOB: at_most(1.0)}
    for own in (TRAINYARD, PREPARED):
        for name, target in compared.items():
            report.add(ratio(f"{title}, {own} / {name}", found, own, name, target))
        report.add(ratio(f"{title}, rate of {own} / the loader's", found, LOADER, own, at_least(0.8)))


def writes(ground: Ground, report: Report, size: Size) -> None:
    """How often a run changes something at the API server."""
    for nodes in size.gang_sizes:
        target = at_most(8 + 0.02 * nodes)
        runs, jobs = _writes_of_runs(ground, nodes), _writes_of_jobs(ground, nodes)
        for name, found, controllers, limit in (
            (TRAINYARD, runs, (OPERATOR, JOB_CONTROLLER), target),
            ("bare Job", jobs, (JOB_CONTROLLER,), None),
        ):
            own = own_writes(found, controllers)
            others = own_writes(found, ENDPOINT_CONTROLLERS)
            title = f"own writes of a run of {nodes} pods, {name}"
            report.add(Figure(title, own.total() / RUNS_COUNTED, target=limit, raw=_raw(own)))
            report.say(
                f"for its Service others write {others.total() / RUNS_COUNTED:.1f} times; own: {dict(own)}"
            )


def _writes_of_runs(ground: Ground, nodes: int) -> list[Write]:
    with ground.namespace() as namespace, ground.operator():
        recording = Recording.begin(ground.audit, namespace)
        documents = [run_document(f"run-{number}", nodes, ENDS_SOON) for number in range(RUNS_COUNTED)]
        _create(ground, (RUNS.format(namespace), documents))
        ground.kubectl.in_namespace(namespace).wait("condition=Complete", "trun", "--all")
        time.sleep(SETTLE_SECONDS)
        return recording.writes()


def _writes_of_jobs(ground: Ground, nodes: int) -> list[Write]:
    with ground.namespace() as namespace:
        recording = Recording.begin(ground.audit, namespace)
        parts = [bare_job(namespace, f"job-{number}", nodes, ENDS_SOON) for number in range(RUNS_COUNTED)]
        _create(
            ground,
            (SERVICES.format(namespace), [service for service, _ in parts]),
            (JOBS.format(namespace), [job for _, job in parts]),
        )
        ground.kubectl.in_namespace(namespace).wait("condition=Complete", "jobs", "--all")
        time.sleep(SETTLE_SECONDS)
        return recording.writes()


def _create(ground: Ground, *parts: tuple[str, list[dict[str, object]]]) -> None:
    async def create() -> None:
        async with Api(ground.kubeconfig) as api:
            for path, documents in parts:
                await api.create_all(path, documents)

    asyncio.run(create())


def _raw(counts: Counter[str]) -> dict[str, Sequence[float]]:
    return {name: [count / RUNS_COUNTED] for name, count in counts.items()}


def thousand(ground: Ground, report: Report, size: Size) -> None:
    """What many runs cost."""
    with ground.namespace() as namespace, ground.operator() as operator:
        time.sleep(SETTLE_SECONDS)
        report.add(Figure("operator's memory without a run", operator.resident_megabytes, "MB"))
        start_runs(ground, namespace, size.runs)
        time.sleep(SETTLE_SECONDS)
        calm = stay_calm(ground, operator, size.seconds)
        title = f"{size.runs} runs"
        report.add(Figure(f"{title}: operator's memory", calm.resident_megabytes, "MB", at_most(150.0)))
        report.add(
            Figure(
                f"{title}, nothing happens: writes in {size.seconds:.0f} s",
                float(calm.writes),
                target=at_most(0.0),
            )
        )
        report.add(
            Figure(f"{title}, nothing happens: operator's CPU", calm.cpu_percent, "% of a core", at_most(2.0))
        )
        told = report_progress(ground, operator, namespace, size.seconds)
        report.say(
            f"{told.posts_per_second:.1f} reports/s; the operator used {told.cpu_percent:.0f} % of a core"
        )
        report.add(Figure(f"{title} report: status patches", told.patches_per_second, "1/s", at_most(100.0)))
        for cause, number in Counter(told.refused).most_common(3):
            report.say(f"{number} reports were not accepted: {cause}")
        share = 100.0 * len(told.refused) / (len(told.staleness) + told.unseen + len(told.refused))
        report.add(Figure(f"{title} report: reports that were not accepted", share, "%", at_most(1.0)))
        staleness = percentile(told.staleness, 0.99)
        report.add(
            Figure(
                f"{title} report: report to status, p99",
                staleness,
                "s",
                at_most(12.0),
                low=min(told.staleness),
                high=max(told.staleness),
            )
        )
        report.add(
            Figure(f"{title} report: reports that no status had", float(told.unseen), target=at_most(0.0))
        )
        report.add(
            Figure(f"{title} reported: operator's memory", operator.resident_megabytes, "MB", at_most(150.0))
        )


def takeover(ground: Ground, report: Report, size: Size) -> None:
    """How long nobody acts after the leader was killed."""
    seconds = []
    with ground.namespace() as namespace, ground.operator() as first:
        leader = first
        for trial in range(size.takeovers):
            standby = ground.start_operator(wait=False)
            wait_until(standby.is_ready, f"{standby.identity} is ready")
            recording = Recording.begin(ground.audit, namespace)
            killed_at = time.time()
            leader.stop(signal.SIGKILL)
            _create(ground, (RUNS.format(namespace), [run_document(f"run-{trial}", 1, {})]))
            recording.wait_for_pods(1)
            pods = [
                write for write in recording.writes() if write.resource == "pods" and write.verb == "create"
            ]
            seconds.append(min(pod.answered_at.timestamp() for pod in pods) - killed_at)
            leader = standby
    report.add(
        Figure(
            f"SIGKILL of the leader to the first pod of a new run, p99 of {len(seconds)}",
            percentile(seconds, 0.99),
            "s",
            at_most(20.0),
            low=min(seconds),
            high=max(seconds),
            raw={"trials": seconds},
        )
    )
    report.say(f"median {statistics.median(seconds):.2f} s")


def main() -> int:
    """Measure what was asked for."""
    arguments = options(__doc__, PARTS).parse_args()
    size = QUICK if arguments.quick else FULL
    report = Report("The operator on a control plane with fake nodes")
    parts: dict[str, Callable[[Ground], None]] = {
        "first-pod": lambda ground: first_pod(ground, report, size),
        "burst": lambda ground: bursts(ground, report, size.burst, size.repeats),
        "gang": lambda ground: bursts(ground, report, size.gang, size.repeats),
        "writes": lambda ground: writes(ground, report, size),
        "thousand": lambda ground: thousand(ground, report, size),
        "takeover": lambda ground: takeover(ground, report, size),
    }
    with running_ground() as ground:
        for name in arguments.only or PARTS:
            parts[name](ground)
    return report.finish(arguments.json)


if __name__ == "__main__":
    sys.exit(main())
