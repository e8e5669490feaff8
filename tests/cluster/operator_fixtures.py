"""Fixtures of tests that run the operator as a process against a real API server."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cluster.cluster import Cluster
from tests.cluster.director import Director
from tests.cluster.operator_process import Installation, install, uninstall
from tests.cluster.rest import Rest
from tests.support.helm import Helm


@pytest.fixture(scope="session")
def rest(cluster: Cluster) -> Iterator[Rest]:
    """The API server, as an administrator."""
    client = Rest(cluster.kubeconfig)
    yield client
    client.close()


@pytest.fixture(scope="session")
def director(rest: Rest) -> Iterator[Director]:
    """Plays the processes of all runs on fake nodes."""
    with Director(rest) as playing:
        yield playing


@pytest.fixture(scope="session")
def installation(
    cluster: Cluster, crd: Path, rest: Rest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Installation]:
    """The chart, installed but for its Deployment."""
    namespace = f"trainyard-{os.getpid()}"
    rest.create("namespaces", "", {"metadata": {"name": namespace}})
    helm = Helm(tmp_path_factory.mktemp("operator"))
    installed = install(cluster.kubectl, rest, helm, namespace, port=8443)
    yield installed
    uninstall(cluster.kubectl, installed)
    rest.delete("namespaces", "", namespace)


@pytest.fixture
def log_file(tmp_path: Path) -> Callable[[str], Path]:
    """Where a replica's output goes, by its name."""
    return lambda identity: tmp_path / f"{identity}.log"
