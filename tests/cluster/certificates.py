"""Keys, certificates and kubeconfigs of a cluster that lives for one test session."""

import json
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.addresses import API_SERVICE, LOOPBACK, NODE_ADDRESS
from trainyard_api.errors import UnavailableError

_DAYS = "30"
_CURVE = ("-pkeyopt", "ec_paramgen_curve:P-256")
_ALTERNATIVE_NAMES = ",".join(
    [
        *(
            f"DNS:{name}"
            for name in ("localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc")
        ),
        *(f"IP:{address}" for address in (LOOPBACK, API_SERVICE, NODE_ADDRESS)),
    ]
)


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a program is for the API server: its user name and its group."""

    name: str
    user: str
    group: str


IDENTITIES = (
    Identity("apiserver", "kube-apiserver", "kubernetes"),
    Identity("admin", "admin", "system:masters"),
    Identity("controllers", "system:kube-controller-manager", "kubernetes"),
    Identity("scheduler", "system:kube-scheduler", "kubernetes"),
    Identity("kwok", "kwok", "system:masters"),
    Identity("kubelet", "system:node:node-0", "system:nodes"),
    Identity("proxy", "system:kube-proxy", "kubernetes"),
    Identity("dns", "dns", "system:masters"),
)


def create_certificates(folder: Path) -> None:
    """Write an authority, the key of service accounts and a certificate of each identity into a folder.

    Raises:
        UnavailableError: there is no openssl, or it failed.
    """
    folder.mkdir(mode=0o700)
    _openssl(folder, _new_certificate("ca", "/CN=trainyard-test-ca"))
    _openssl(folder, ["genpkey", "-algorithm", "EC", *_CURVE, "-out", "sa.key"])
    _openssl(folder, ["pkey", "-in", "sa.key", "-pubout", "-out", "sa.pub"])
    for identity in IDENTITIES:
        request = _new_certificate(identity.name, f"/O={identity.group}/CN={identity.user}")
        names = ["-addext", f"subjectAltName={_ALTERNATIVE_NAMES}"]
        usage = ["-addext", "extendedKeyUsage=serverAuth,clientAuth", "-addext", "basicConstraints=CA:FALSE"]
        _openssl(folder, [*request, "-CA", "ca.crt", "-CAkey", "ca.key", *names, *usage])


def write_kubeconfig(path: Path, pki: Path, identity: str, port: int) -> None:
    """Write the kubeconfig of an identity; JSON is YAML too."""
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "clusters": [
            {
                "name": "test",
                "cluster": {
                    "server": f"https://{LOOPBACK}:{port}",
                    "certificate-authority": str(pki / "ca.crt"),
                },
            }
        ],
        "users": [
            {
                "name": identity,
                "user": {
                    "client-certificate": str(pki / f"{identity}.crt"),
                    "client-key": str(pki / f"{identity}.key"),
                },
            }
        ],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": identity}}],
    }
    path.write_text(json.dumps(config, indent=1))


def _new_certificate(name: str, subject: str) -> list[str]:
    """Arguments of openssl for a key and a certificate, signed by itself unless an authority is named."""
    key = ["-newkey", "ec", *_CURVE, "-nodes", "-keyout", f"{name}.key"]
    return ["req", "-x509", *key, "-days", _DAYS, "-subj", subject, "-out", f"{name}.crt"]


def _openssl(folder: Path, arguments: Sequence[str]) -> None:
    program = shutil.which("openssl")
    if program is None:
        raise UnavailableError("openssl", "this machine has none", "Install openssl 3 or newer")
    done = subprocess.run([program, *arguments], cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise UnavailableError(
            f"openssl {arguments[0]}", f"it failed: {done.stderr.strip()[-500:]}", "Use openssl 3 or newer"
        )
