"""The operator as a process of its own, with the account, rights and settings that its chart gives."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import IO, Self

import yaml

from tests.cluster.addresses import LOOPBACK, NODE_ADDRESS, free_ports
from tests.cluster.kubectl import Kubectl
from tests.cluster.locations import REPOSITORY
from tests.cluster.rest import Rest
from tests.support.helm import Helm, environment_of, of_kind
from trainyard_api.names import OperatorMetric

RELEASE = "trainyard-under-test"
LEASE = f"{RELEASE}-operator"
PROGRESS_SERVICE = f"{RELEASE}-progress"
CA_CONFIG_MAP = f"{RELEASE}-progress-ca"

READY_SECONDS = 150.0
STOP_SECONDS = 60.0
_TOKEN_SECONDS = 14_400
_POLL_SECONDS = 0.05
_INSTALLED_KINDS = ("ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding", "Service")
_SAMPLE = re.compile(r"^(?P<series>[a-z_]+(?:\{.*\})?) (?P<value>\S+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Installation:
    """What the chart installs besides the Deployment, whose part the tests play."""

    namespace: str
    """The operator's namespace."""
    kubeconfig: Path
    """The operator's account."""
    helm: Helm

    def environment(self, identity: str, port: int, metrics_port: int) -> dict[str, str]:
        """The variables of one replica, by the chart."""
        values = {"progress": {"port": port}, "metrics": {"port": metrics_port}}
        objects = self.helm.template(values, RELEASE, self.namespace)
        fields = {
            "metadata.name": identity,
            "metadata.namespace": self.namespace,
            "status.podIP": NODE_ADDRESS,
        }
        return environment_of(objects, fields)


def install(kubectl: Kubectl, rest: Rest, helm: Helm, namespace: str, port: int) -> Installation:
    """Install the chart into a namespace that exists, but for the Deployment."""
    objects = helm.template({"progress": {"port": port}}, RELEASE, namespace)
    installed = [each for kind in _INSTALLED_KINDS for each in of_kind(objects, kind)]
    kubectl.apply(installed, "--validate=false")  # tests/chart validates them, and it takes a while
    (account,) = of_kind(objects, "ServiceAccount")
    request = {"spec": {"expirationSeconds": _TOKEN_SECONDS}}
    path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{account['metadata']['name']}/token"
    token = rest.send("POST", path, request)["status"]["token"]
    kubeconfig = helm.home / "operator.kubeconfig"
    _write_kubeconfig(kubeconfig, kubectl.kubeconfig, {"token": token})
    return Installation(namespace, kubeconfig, helm)


def uninstall(kubectl: Kubectl, installation: Installation) -> None:
    """Remove what lies in no namespace."""
    objects = installation.helm.template({}, RELEASE, installation.namespace)
    for kind in ("ClusterRoleBinding", "ClusterRole"):
        for each in of_kind(objects, kind):
            kubectl.run("delete", kind, each["metadata"]["name"], "--ignore-not-found")


def kubeconfig_through(proxy: str, original: Path, target: Path) -> Path:
    """A kubeconfig of the same user that goes through a proxy."""
    config = yaml.safe_load(original.read_text())
    config["clusters"][0]["cluster"] = {"server": proxy}
    target.write_text(json.dumps(config))
    target.chmod(0o600)
    return target


def _write_kubeconfig(target: Path, admin: Path, user: Mapping[str, str]) -> None:
    """A kubeconfig with another user."""
    config = yaml.safe_load(admin.read_text())
    config["users"] = [{"name": "operator", "user": dict(user)}]
    config["contexts"][0]["context"]["user"] = "operator"
    target.write_text(json.dumps(config))
    target.chmod(0o600)


class OperatorProcess:
    """One replica; a context that kills it at its end.

    Args:
        installation: account and settings.
        identity: name of its pod.
        log: file that its output is added to.
        kubeconfig: another way to the API server than the installation's.
        leader_election: whether a lease decides.
        settings: further settings by the names of `Settings`, such as `namespaces="a,b"`.
    """

    def __init__(
        self,
        installation: Installation,
        identity: str,
        log: Path,
        *,
        kubeconfig: Path | None = None,
        leader_election: bool = True,
        settings: Mapping[str, object] | None = None,
    ) -> None:
        self.identity = identity
        self.port, self.metrics_port = free_ports(2)
        self._arguments: Sequence[str] = () if leader_election else ("--no-leader-election",)
        chosen = {f"TRAINYARD_{name.upper()}": str(value) for name, value in (settings or {}).items()}
        # A pod's environment: nothing of the machine's but where programs and temporary files are.
        self._environment = {
            "PATH": os.environ["PATH"],
            "KUBECONFIG": str(kubeconfig or installation.kubeconfig),
            **installation.environment(identity, self.port, self.metrics_port),
            **chosen,
        }
        self._log = log
        self._output: IO[bytes] | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.kill()

    def start(self) -> Self:
        """Start it."""
        self._output = self._log.open("ab")
        command = [sys.executable, "-m", "trainyard_operator", *self._arguments]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            env=self._environment,
            cwd=REPOSITORY,
            start_new_session=True,
        )
        return self

    @property
    def process_id(self) -> int:
        """Its process."""
        assert self._process is not None
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self._process is not None and self._process.poll() is None

    @property
    def log(self) -> str:
        """What it wrote so far, all its lives together."""
        return self._log.read_text()

    def kill(self) -> None:
        """Kill it, without any chance to clean up."""
        self._signal(signal.SIGKILL)

    def stop(self) -> int:
        """Ask it to stop, and wait; its exit code."""
        return self._signal(signal.SIGTERM)

    def wait_for_end(self, seconds: float) -> int:
        """Wait until it has ended by itself, or by another's signal; its exit code."""
        assert self._process is not None
        return self._process.wait(timeout=seconds)

    def wait_until_leading(self, seconds: float = READY_SECONDS) -> Self:
        """Wait until it is ready and leads."""
        self.wait_for_metric(OperatorMetric.LEADER, 1.0, seconds)
        self._wait(lambda: self.answers("readyz"), "readyz", seconds)
        return self

    def wait_for_metric(self, series: str, value: float, seconds: float) -> None:
        """Wait until a series has a value."""
        self._wait(lambda: self.metrics().get(series) == value, f"{series} {value}", seconds)

    def wait_until_untold(self, words: str, seconds: float = READY_SECONDS) -> None:
        """Wait until no series has these words in its labels any more."""
        self._wait(lambda: words not in " ".join(self.metrics()), f"no series with {words}", seconds)

    def answers(self, path: str) -> bool:
        """Whether a probe succeeds."""
        return self._get(path) is not None

    def metrics(self) -> dict[str, float]:
        """Every series of /metrics with its value; empty while it does not answer."""
        text = self._get("metrics") or ""
        return {found["series"]: float(found["value"]) for found in _SAMPLE.finditer(text)}

    def _wait(self, holds: Callable[[], bool], what: str, seconds: float) -> None:
        """Ask again and again until something holds."""
        deadline = time.monotonic() + seconds
        while not holds():
            assert self.is_running, f"{self.identity} has ended: {self.log[-4_000:]}"
            assert time.monotonic() < deadline, f"not within {seconds} s: {what}: {self.log[-4_000:]}"
            Event().wait(_POLL_SECONDS)

    def _get(self, path: str) -> str | None:
        url = f"http://{LOOPBACK}:{self.metrics_port}/{path}"
        try:
            with urllib.request.urlopen(url, timeout=10.0) as answer:
                text: str = answer.read().decode()
                return text
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return None

    def _signal(self, number: signal.Signals) -> int:
        if self._process is None:
            return 0
        if self._process.poll() is None:
            self._process.send_signal(number)
        code = self._process.wait(timeout=STOP_SECONDS)
        if self._output is not None:
            self._output.close()
            self._output = None
        return code
