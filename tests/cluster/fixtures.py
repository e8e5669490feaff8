"""The cluster in tests: fixtures, the option --cluster, and what happens where there can be none."""

import hashlib
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from kubernetes.client import CoreV1Api, V1Namespace, V1ObjectMeta
from kubernetes.config import new_client_from_config
from kubernetes.watch import Watch

from tests.cluster.build import build_programs, prepare_real_node
from tests.cluster.cluster import Cluster, ClusterError, running_cluster
from tests.cluster.keeper import Options
from tests.cluster.kubectl import Kubectl
from tests.cluster.locations import REPOSITORY
from tests.cluster.needs import missing_for_control_plane, missing_for_real_node
from tests.cluster.recipes import CONTROL_PLANE
from trainyard_api.errors import TrainyardError

REQUIRE_VARIABLE = "TRAINYARD_REQUIRE_CLUSTER"
"""When it is 1, a test that would be skipped for want of a cluster fails instead."""

NUM_FAKE_NODES = 8

_CRD = REPOSITORY / "manifests" / "crd.yaml"
_LONGEST_NAMESPACE = 40
_ACCOUNT_SECONDS = 150
_CRD_SECONDS = 150
_BUILD_ERROR = pytest.StashKey[str]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Offer the choice of the cluster."""
    parser.addoption(
        "--cluster",
        choices=("own", "existing"),
        default="own",
        help="own: a control plane, built and started for the session; existing: the one of KUBECONFIG",
    )


def pytest_collection_finish(session: pytest.Session) -> None:
    """Build what the chosen tests need, here, where the time limit of a single test does not hold."""
    config = session.config
    wanted = {name for item in session.items for name in getattr(item, "fixturenames", ())}
    if "cluster" not in wanted or config.option.collectonly or _uses_existing(config):
        return
    try:
        if missing_for_control_plane() is None:
            build_programs(CONTROL_PLANE)
        if "kubelet_cluster" in wanted and missing_for_real_node() is None:
            prepare_real_node()
    except TrainyardError as error:
        config.stash[_BUILD_ERROR] = str(error)


@pytest.fixture(scope="session")
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """A real control plane with fake nodes; `kubelet_cluster` adds a real one to the same.

    Pods land on fake nodes, where annotations steer them (tests/cluster/steering.py). Nothing is installed.
    """
    if _uses_existing(request.config):
        try:
            yield Cluster.existing()
        except ClusterError as error:
            give_up(str(error))
        return
    if problem := request.config.stash.get(_BUILD_ERROR, None) or missing_for_control_plane():
        give_up(problem)
    with running_cluster(Options(num_fake_nodes=NUM_FAKE_NODES)) as running:
        yield running


@pytest.fixture(scope="session")
def kubelet_cluster(request: pytest.FixtureRequest, cluster: Cluster) -> Cluster:
    """The cluster with a real node, on which pods land that ask for it (tests/cluster/real_pods.py)."""
    if _uses_existing(request.config):
        give_up("pods that mount this machine's programs need a node on it: run without --cluster=existing")
    if problem := missing_for_real_node():
        give_up(problem)
    cluster.start_real_node()
    return cluster


@pytest.fixture(scope="session")
def crd(cluster: Cluster) -> Path:
    """The CustomResourceDefinition's file, applied and served."""
    cluster.kubectl.run("apply", "--server-side", "-f", str(_CRD))
    established = ("wait", "--for=condition=Established", "--timeout=10s", "-f", str(_CRD))
    deadline = time.monotonic() + _CRD_SECONDS
    # kubectl fails at once on a CRD that has no conditions yet.
    while (done := cluster.kubectl.attempt(*established)).returncode != 0:
        if time.monotonic() > deadline:
            pytest.fail(f"the CRD is not served after {_CRD_SECONDS} s: {done.stderr}")
    return _CRD


@pytest.fixture(scope="session")
def core_api(cluster: Cluster) -> Iterator[CoreV1Api]:
    """Kubernetes' own client, as an administrator: much faster than a kubectl for each call."""
    with new_client_from_config(str(cluster.kubeconfig)) as client:
        yield CoreV1Api(client)


@pytest.fixture
def namespace(request: pytest.FixtureRequest, core_api: CoreV1Api) -> Iterator[str]:
    """A new namespace, deleted after the test."""
    yield from _new_namespace(core_api, request.node.nodeid, {})


@pytest.fixture
def restricted_namespace(request: pytest.FixtureRequest, core_api: CoreV1Api) -> Iterator[str]:
    """A new namespace that refuses pods which Pod Security's `restricted` does not admit."""
    labels = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn")}
    yield from _new_namespace(core_api, f"{request.node.nodeid} restricted", labels)


@pytest.fixture
def kubectl(cluster: Cluster, namespace: str) -> Kubectl:
    """kubectl as an administrator in the test's namespace."""
    return cluster.kubectl.in_namespace(namespace)


def _new_namespace(api: CoreV1Api, test: str, labels: dict[str, str]) -> Iterator[str]:
    """A namespace named after a test, as long as the test runs."""
    words = re.sub(r"[^a-z0-9]+", "-", test.rpartition("::")[2].lower()).removeprefix("test-")
    digest = hashlib.sha256(f"{os.getpid()} {test}".encode()).hexdigest()[:8]
    name = f"{words[:_LONGEST_NAMESPACE].strip('-')}-{digest}"
    api.create_namespace(V1Namespace(metadata=V1ObjectMeta(name=name, labels=labels)))
    # Pods are refused until a controller has made the account that they run as.
    accounts = Watch().stream(
        api.list_namespaced_service_account, name, timeout_seconds=_ACCOUNT_SECONDS, resource_version="0"
    )
    if next((event for event in accounts if event["object"].metadata.name == "default"), None) is None:
        pytest.fail(f"namespace {name} got no default service account in {_ACCOUNT_SECONDS} s")
    yield name
    api.delete_namespace(name)


def _uses_existing(config: pytest.Config) -> bool:
    return bool(config.getoption("--cluster") == "existing")


def give_up(reason: str) -> None:
    """Skip the test, or fail it where a cluster is required."""
    if os.environ.get(REQUIRE_VARIABLE) == "1":
        pytest.fail(f"{REQUIRE_VARIABLE}=1, but {reason}", pytrace=False)
    pytest.skip(reason)
