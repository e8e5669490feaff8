"""The control plane of the operator's benchmark, with a Job controller of its own and operators as processes.

The cluster's own controller manager runs everything but the Job controller. That is a second one, started
again with other limits by arms that ask for them. The scheduler's limits never bind, since no arm is about
it. The operator has the service account and exactly the rights of manifests/install.yaml.
"""

import asyncio
import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

import yaml
from operator_api import CLAIM, JOBS, PODS, RUNS, SERVICES, Api
from operator_audit import BenchmarkError

from tests.cluster.addresses import LOOPBACK, free_ports
from tests.cluster.audit import AuditLog
from tests.cluster.cluster import Cluster, running_cluster
from tests.cluster.keeper import Options
from tests.cluster.locations import REPOSITORY
from tests.cluster.recipes import program_path
from tests.cluster.state import State

NAMESPACE = "trainyard"
"""The operator's."""
LEASE = "trainyard-operator"
PROGRESS_SERVICE = "trainyard-progress"
POD_ADDRESS = "198.51.100.2"
"""What the operator publishes as its address; an EndpointSlice takes no loopback address."""
NUM_NODES = 8
WAIT_SECONDS = 120.0
_CLAIMS = "persistentvolumeclaims"
_UNBOUND = ["--kube-api-qps=1000", "--kube-api-burst=1000"]
_INSTALLED = ("ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding")
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Operator:
    """One replica as a process."""

    identity: str
    process: subprocess.Popen[bytes]
    progress_port: int
    metrics_port: int

    def is_ready(self) -> bool:
        """Whether it has seen everything, so that it can take over."""
        try:
            with urlopen(f"http://{LOOPBACK}:{self.metrics_port}/readyz", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    @property
    def resident_megabytes(self) -> float:
        """Memory that it holds, in MB."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmRSS:"):
                return float(line.split()[1]) * 1024 / 1e6
        raise BenchmarkError(f"{self.identity} is gone")

    @property
    def cpu_seconds(self) -> float:
        """CPU time that it has used."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End it."""
        self.process.send_signal(number)
        self.process.wait(30)


class Ground:
    """The cluster that all arms share.

    Args:
        cluster: it.
        state: where its files lie.
        audit: its record of writes.
    """

    def __init__(self, cluster: Cluster, state: State, audit: AuditLog) -> None:
        self.kubeconfig = cluster.kubeconfig
        self.kubectl = cluster.kubectl
        self.state = state
        self.audit = audit
        self._job_controller: subprocess.Popen[bytes] | None = None
        self._numbers = itertools.count()
        self._operators: list[Operator] = []

    def prepare(self) -> None:
        """Install the CRD and the operator's rights."""
        self.kubectl.run("create", "namespace", NAMESPACE)
        documents = yaml.safe_load_all(
            (REPOSITORY / "manifests" / "install.yaml").read_text(encoding="utf-8")
        )
        self.kubectl.apply([document for document in documents if document["kind"] in _INSTALLED])
        crd = str(REPOSITORY / "manifests" / "crd.yaml")
        self.kubectl.run("apply", "--server-side", "-f", crd)
        established = ("wait", "--for=condition=Established", "-f", crd)
        wait_until(lambda: self.kubectl.attempt(*established).returncode == 0, "the CRD is served")
        token = self.kubectl.in_namespace(NAMESPACE).run(
            "create", "token", "trainyard-operator", "--duration=12h"
        )
        config = json.loads(self.kubeconfig.read_text(encoding="utf-8"))
        config["users"][0]["user"] = {"token": token.strip()}
        self._operator_kubeconfig.write_text(json.dumps(config), encoding="utf-8")

    @property
    def _operator_kubeconfig(self) -> Path:
        return self.state.folder / "operator.kubeconfig"

    def run_job_controller(self, limit: int | None) -> None:
        """Have the Job controller run with so many requests a second; None is Kubernetes' default, 20."""
        self.stop_job_controller()
        limits = [] if limit is None else [f"--kube-api-qps={limit}", f"--kube-api-burst={limit}"]
        self._job_controller = self._start(
            "job-controller",
            [
                str(program_path("kube-controller-manager")),
                f"--kubeconfig={self.state.kubeconfig('controllers')}",
                f"--service-account-private-key-file={self.state.pki / 'sa.key'}",
                "--use-service-account-credentials",
                "--leader-elect=false",
                "--secure-port=0",
                "--controllers=job-controller",
                *limits,
            ],
        )

    def stop_job_controller(self) -> None:
        """End it; nobody makes the pods of Jobs then."""
        if self._job_controller is not None:
            self._job_controller.kill()
            self._job_controller.wait()
            self._job_controller = None

    def start_operator(self, *, wait: bool = True) -> Operator:
        """Start a replica, and wait until it leads."""
        identity = f"operator-{next(self._numbers)}"
        progress_port, metrics_port = free_ports(2)
        settings = {
            "KUBECONFIG": str(self._operator_kubeconfig),
            "TRAINYARD_IDENTITY": identity,
            "TRAINYARD_OPERATOR_NAMESPACE": NAMESPACE,
            "TRAINYARD_LEASE_NAME": LEASE,
            "TRAINYARD_POD_ADDRESS": POD_ADDRESS,
            "TRAINYARD_PROGRESS_SERVICE": PROGRESS_SERVICE,
            "TRAINYARD_PROGRESS_PORT": str(progress_port),
            "TRAINYARD_METRICS_PORT": str(metrics_port),
        }
        process = self._start(identity, [sys.executable, "-m", "trainyard_operator"], settings)
        operator = Operator(identity, process, progress_port, metrics_port)
        self._operators.append(operator)
        if wait:
            wait_until(lambda: self.leader() == identity, f"{identity} leads")
        return operator

    @contextlib.contextmanager
    def operator(self) -> Iterator[Operator]:
        """A replica that leads, ended afterwards."""
        try:
            yield self.start_operator()
        finally:
            self.stop_operators()

    def stop_operators(self) -> None:
        """End all replicas."""
        for operator in self._operators:
            if operator.process.poll() is None:
                operator.stop()
        self._operators.clear()

    def leader(self) -> str:
        """Who holds the lease; nobody when there is none."""

        async def ask() -> str:
            async with Api(self.kubeconfig) as api:
                leases = await api.items(f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases")
            holders = (lease["spec"].get("holderIdentity") or "" for lease in leases)
            return next(holders, "")

        return asyncio.run(ask())

    def _start(
        self, name: str, command: list[str], variables: dict[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        with (self.state.logs / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "--", *command],
                env={**os.environ, **(variables or {})},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.state.logs,
            )

    @contextlib.contextmanager
    def namespace(self) -> Iterator[str]:
        """A namespace with a bound claim, deleted with everything in it afterwards."""
        name = f"bench-{next(self._numbers)}"
        asyncio.run(self._make_namespace(name))
        try:
            yield name
        finally:
            self._clear(name)

    async def _make_namespace(self, name: str) -> None:
        """A namespace that takes pods: they need an account and the claim."""
        claims, accounts = (f"/api/v1/namespaces/{name}/{kind}" for kind in (_CLAIMS, "serviceaccounts"))
        async with Api(self.kubeconfig) as api:
            await api.create_all("/api/v1/namespaces", [{"metadata": {"name": name}}])
            await api.create_all("/api/v1/persistentvolumes", [_volume(name)])
            await api.create_all(claims, [_claim(name)])

            async def is_ready() -> bool:
                found = await api.items(claims)
                is_bound = all(claim["status"].get("phase") == "Bound" for claim in found)
                return is_bound and bool(await api.items(accounts))

            await poll(is_ready, f"{name} has a bound claim and an account")

    def _clear(self, name: str) -> None:
        """Delete what is in a namespace, and wait until its pods are gone.

        Nothing but a Job controller lets go of the pods of Jobs, and it should not take minutes over that.
        """
        jobs = asyncio.run(self._delete_content(name))
        if jobs:
            self.run_job_controller(1000)
        asyncio.run(self._wait_until_empty(name))
        if jobs:
            self.run_job_controller(None)

    async def _delete_content(self, name: str) -> int:
        """Delete runs, Jobs and pods; how many Jobs there were."""
        async with Api(self.kubeconfig) as api:
            jobs = await api.items(JOBS.format(name))
            for path in (RUNS, JOBS, SERVICES):
                await api.send("DELETE", path.format(name), _options())
            await api.send("DELETE", PODS.format(name), _options(gracePeriodSeconds=0))
        return len(jobs)

    async def _wait_until_empty(self, name: str) -> None:
        """Wait until no pod is left, then have the rest deleted."""
        async with Api(self.kubeconfig) as api:

            async def is_empty() -> bool:
                return not await api.items(PODS.format(name))

            await poll(is_empty, f"{name} is empty")
            await api.send("DELETE", f"/api/v1/namespaces/{name}", _options())
            await api.send("DELETE", f"/api/v1/persistentvolumes/{name}", _options())


def _options(**more: int) -> bytes:
    """DeleteOptions."""
    options = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background", **more}
    return json.dumps(options).encode()


async def poll(is_so: Callable[[], Awaitable[bool]], what: str) -> None:
    """Ask again and again.

    Raises:
        BenchmarkError: it does not come about.
    """
    deadline = time.monotonic() + WAIT_SECONDS
    while not await is_so():
        if time.monotonic() > deadline:
            raise BenchmarkError(f"{what}: not after {WAIT_SECONDS:.0f} s")
        await asyncio.sleep(0.1)


def wait_until(is_so: Callable[[], bool], what: str) -> None:
    """The same outside an event loop.

    Raises:
        BenchmarkError: it does not come about.
    """
    deadline = time.monotonic() + WAIT_SECONDS
    while not is_so():
        if time.monotonic() > deadline:
            raise BenchmarkError(f"{what}: not after {WAIT_SECONDS:.0f} s")
        time.sleep(0.1)


@contextlib.contextmanager
def running_ground() -> Iterator[Ground]:
    """The cluster, gone afterwards."""
    options = Options(
        num_fake_nodes=NUM_NODES,
        extra_arguments={
            "kube-controller-manager": ["--controllers=*,-job-controller"],
            "kube-scheduler": _UNBOUND,
        },
    )
    with running_cluster(options) as cluster:
        assert cluster.state is not None
        assert cluster.audit is not None
        ground = Ground(cluster, cluster.state, cluster.audit)
        try:
            ground.prepare()
            ground.run_job_controller(None)
            yield ground
        finally:
            ground.stop_operators()
            ground.stop_job_controller()


def _volume(namespace: str) -> dict[str, object]:
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": namespace},
        "spec": {
            "capacity": {"storage": "1Gi"},
            "accessModes": ["ReadWriteMany"],
            "hostPath": {"path": "/tmp"},  # noqa: S108 - fake nodes mount nothing
            "storageClassName": "",
            "claimRef": {"namespace": namespace, "name": CLAIM},
        },
    }


def _claim(namespace: str) -> dict[str, object]:
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": CLAIM, "namespace": namespace},
        "spec": {
            "accessModes": ["ReadWriteMany"],
            "storageClassName": "",
            "volumeName": namespace,
            "resources": {"requests": {"storage": "1Gi"}},
        },
    }
