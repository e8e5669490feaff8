"""The control plane: etcd, API server, controller manager and scheduler on loopback."""

import json
from collections.abc import Mapping, Sequence

from tests.cluster.addresses import (
    LOOPBACK,
    NODE_ADDRESS,
    SERVICE_RANGE,
    free_ports,
)
from tests.cluster.certificates import IDENTITIES, create_certificates, write_kubeconfig
from tests.cluster.processes import Processes
from tests.cluster.recipes import program_path
from tests.cluster.state import State

_READY_SECONDS = 120.0
_AUDIT_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [{"level": "None", "verbs": ["get", "list", "watch"]}, {"level": "Metadata"}],
}
"""Every write with its user, object, code and times, and no content."""


def start_control_plane(
    state: State, processes: Processes, extra_arguments: Mapping[str, Sequence[str]]
) -> None:
    """Start the control plane and wait until it answers.

    Args:
        state: an empty state folder.
        processes: what starts programs.
        extra_arguments: more arguments by program, such as higher limits of the controller manager.
    """
    api_port, etcd_port, peer_port = free_ports(3)
    state.logs.mkdir()
    create_certificates(state.pki)
    for identity in IDENTITIES:
        write_kubeconfig(state.kubeconfig(identity.name), state.pki, identity.name, api_port)
    (state.folder / "audit.yaml").write_text(json.dumps(_AUDIT_POLICY))

    def start(program: str, arguments: Sequence[str]) -> None:
        processes.start(program, [program_path(program), *arguments, *extra_arguments.get(program, ())])

    start("etcd", _etcd_arguments(state, etcd_port, peer_port))
    start("kube-apiserver", _api_server_arguments(state, api_port, etcd_port))
    kubectl = state.kubectl()
    processes.wait_until(
        lambda: kubectl.attempt("get", "--raw", "/readyz").returncode == 0,
        ["etcd", "kube-apiserver"],
        _READY_SECONDS,
    )
    start("kube-controller-manager", _controller_manager_arguments(state))
    start("kube-scheduler", _scheduler_arguments(state))


def _etcd_arguments(state: State, port: int, peer_port: int) -> list[str]:
    client, peer = f"http://{LOOPBACK}:{port}", f"http://{LOOPBACK}:{peer_port}"
    return [
        f"--data-dir={state.folder / 'etcd'}",
        "--unsafe-no-fsync",  # the state does not outlive the session
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=default={peer}",
    ]


def _api_server_arguments(state: State, port: int, etcd_port: int) -> list[str]:
    pki = state.pki
    return [
        f"--etcd-servers=http://{LOOPBACK}:{etcd_port}",
        f"--bind-address={LOOPBACK}",
        f"--secure-port={port}",
        f"--advertise-address={NODE_ADDRESS}",
        f"--cert-dir={pki}",
        f"--tls-cert-file={pki / 'apiserver.crt'}",
        f"--tls-private-key-file={pki / 'apiserver.key'}",
        f"--client-ca-file={pki / 'ca.crt'}",
        f"--service-account-key-file={pki / 'sa.pub'}",
        f"--service-account-signing-key-file={pki / 'sa.key'}",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-cluster-ip-range={SERVICE_RANGE}",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--anonymous-auth=false",
        "--allow-privileged=true",
        f"--kubelet-client-certificate={pki / 'admin.crt'}",
        f"--kubelet-client-key={pki / 'admin.key'}",
        "--kubelet-preferred-address-types=InternalIP",
        f"--audit-policy-file={state.folder / 'audit.yaml'}",
        f"--audit-log-path={state.audit_log}",
        "--audit-log-maxsize=100000",  # megabytes; whoever reads it would lose what a rotation moves away
    ]


def _controller_manager_arguments(state: State) -> list[str]:
    return [
        f"--kubeconfig={state.kubeconfig('controllers')}",
        f"--service-account-private-key-file={state.pki / 'sa.key'}",
        f"--root-ca-file={state.pki / 'ca.crt'}",
        "--use-service-account-credentials",
        "--leader-elect=false",
        "--secure-port=0",
        "--pvclaimbinder-sync-period=1s",  # 15 s by default, and tests wait for it
    ]


def _scheduler_arguments(state: State) -> list[str]:
    return [f"--kubeconfig={state.kubeconfig('scheduler')}", "--leader-elect=false", "--secure-port=0"]
