"""A real node on this machine: kubelet, containerd, CNI, kube-proxy and cluster DNS. Needs root."""

import json
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

from tests.cluster.addresses import DNS_ADDRESS, LOOPBACK, NODE_ADDRESS, POD_RANGE, REAL_NODE_PODS
from tests.cluster.debian import CNI_PLUGINS
from tests.cluster.images import PAUSE_IMAGE, write_base_image, write_pause_image
from tests.cluster.locations import REPOSITORY
from tests.cluster.processes import Processes
from tests.cluster.recipes import program_path
from tests.cluster.state import State
from tests.cluster.steering import REAL_NODE_TAINT
from tests.cluster.teardown import BRIDGE, NETWORK, NODE_MARK
from trainyard_api.errors import UnavailableError

NODE_NAME = "node-0"

_READY_SECONDS = 150.0
_CONTAINERD = """\
version = 2
root = "{folder}/containerd"
state = "{folder}/run"
[grpc]
  address = "{socket}"
[plugins."io.containerd.internal.v1.opt"]
  path = "{folder}/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  # A container without CAP_SYS_RESOURCE cannot lower its OOM score, and every sandbox would fail.
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{cni_plugins}"
    conf_dir = "{folder}/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    # The images are empty folders: copies are cheap, and the cache may lie on an overlay itself.
    snapshotter = "native"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      SystemdCgroup = false
      Root = "{folder}/runc"
"""
_COREFILE = """\
.:53 {{
  bind {address}
  errors
  kubernetes cluster.local in-addr.arpa ip6.arpa {{
    kubeconfig {kubeconfig} test
    pods insecure
    ttl 5
  }}
}}
"""


def start_real_node(state: State, processes: Processes) -> None:
    """Start the node and wait until it is ready.

    Raises:
        UnavailableError: a part of it does not come up.
    """
    (state.folder / NODE_MARK).touch()
    for address in (NODE_ADDRESS, DNS_ADDRESS):
        subprocess.run(["ip", "address", "replace", f"{address}/32", "dev", "lo"], check=True)
    _start_forwarder(state, processes)
    _start_containerd(state, processes)
    _write_json(state.folder / "kubelet.json", _kubelet_configuration(state))
    _write_json(state.folder / "kube-proxy.json", _proxy_configuration(state))
    corefile = state.folder / "Corefile"
    corefile.write_text(_COREFILE.format(address=DNS_ADDRESS, kubeconfig=state.kubeconfig("dns")))
    processes.start("coredns", [program_path("coredns"), "-conf", corefile])
    processes.start(
        "kubelet",
        [
            program_path("kubelet"),
            f"--config={state.folder / 'kubelet.json'}",
            f"--kubeconfig={state.kubeconfig('kubelet')}",
            f"--root-dir={state.folder / 'kubelet'}",
            f"--cert-dir={state.folder / 'kubelet-pki'}",
            f"--hostname-override={NODE_NAME}",
            f"--node-ip={NODE_ADDRESS}",
        ],
    )
    proxy_config = f"--config={state.folder / 'kube-proxy.json'}"
    processes.start("kube-proxy", [program_path("kube-proxy"), proxy_config])
    kubectl = state.kubectl()
    ready = ["wait", "--for=condition=Ready", f"node/{NODE_NAME}", "--timeout=1s"]
    processes.wait_until(
        lambda: kubectl.attempt(*ready).returncode == 0,
        ["coredns", "kube-proxy", "containerd", "kubelet"],
        _READY_SECONDS,
    )
    kubectl.run("label", "node", NODE_NAME, f"{REAL_NODE_TAINT}=true")


def _start_forwarder(state: State, processes: Processes) -> None:
    """Let pods reach the API server, which listens on loopback alone, at the address that it advertises."""
    config = json.loads(state.kubeconfig("admin").read_text())
    port = urlsplit(config["clusters"][0]["cluster"]["server"]).port
    listen, target = f"{NODE_ADDRESS}:{port}", f"{LOOPBACK}:{port}"
    script = REPOSITORY / "tests" / "cluster" / "forwarder.py"
    processes.start("forwarder", [sys.executable, script, listen, target])


def _start_containerd(state: State, processes: Processes) -> None:
    """Start containerd with a bridge network, and import the images."""
    socket = state.folder / "run" / "containerd.sock"
    socket.parent.mkdir()
    (state.folder / "cni").mkdir()
    _write_json(state.folder / "cni" / "10-bridge.conflist", _network_configuration(state))
    config = state.folder / "containerd.toml"
    config.write_text(
        _CONTAINERD.format(folder=state.folder, socket=socket, pause=PAUSE_IMAGE, cni_plugins=CNI_PLUGINS)
    )
    processes.start("containerd", [_required("containerd"), f"--config={config}"])
    client = [_required("ctr"), f"--address={socket}", "--namespace=k8s.io"]

    def answers() -> bool:
        return subprocess.run([*client, "version"], capture_output=True, check=False).returncode == 0

    processes.wait_until(answers, ["containerd"], _READY_SECONDS)
    for write in (write_pause_image, write_base_image):
        archive = state.folder / f"{write.__name__}.tar"
        write(archive, platform.machine())
        subprocess.run([*client, "images", "import", str(archive)], check=True, capture_output=True)


def _network_configuration(state: State) -> dict[str, object]:
    """Pods on a bridge; nothing is masqueraded, since nothing leaves the machine."""
    address_management = {
        "type": "host-local",
        "dataDir": str(state.folder / "cni-addresses"),
        "ranges": [[{"subnet": REAL_NODE_PODS}]],
        "routes": [{"dst": "0.0.0.0/0"}],
    }
    bridge = {
        "type": "bridge",
        "bridge": BRIDGE,
        "isGateway": True,
        "hairpinMode": True,
        "ipam": address_management,
    }
    return {"cniVersion": "0.4.0", "name": NETWORK, "plugins": [bridge]}


def _kubelet_configuration(state: State) -> dict[str, object]:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(state.pki / "ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "address": NODE_ADDRESS,
        "cgroupDriver": "cgroupfs",
        "failCgroupV1": False,
        "failSwapOn": False,
        "makeIPTablesUtilChains": False,
        "clusterDNS": [DNS_ADDRESS],
        "clusterDomain": "cluster.local",
        "containerRuntimeEndpoint": f"unix://{state.folder / 'run' / 'containerd.sock'}",
        "resolvConf": "",
        "podLogsDir": str(state.folder / "pod-logs"),
        "evictionHard": {"memory.available": "100Mi"},
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "maxPods": 100,
        "registerWithTaints": [{"key": REAL_NODE_TAINT, "value": "true", "effect": "NoSchedule"}],
    }


def _proxy_configuration(state: State) -> dict[str, object]:
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "bindAddress": NODE_ADDRESS,
        "clusterCIDR": POD_RANGE,
        "clientConnection": {"kubeconfig": str(state.kubeconfig("proxy"))},
        "hostnameOverride": NODE_NAME,
        "conntrack": {"maxPerCore": 0, "min": 0},
    }


def _write_json(path: Path, document: object) -> None:
    """Write a configuration; JSON is YAML too."""
    path.write_text(json.dumps(document, indent=1))


def _required(program: str) -> str:
    found = shutil.which(program)
    if found is None:
        raise UnavailableError(program, "it is not installed", "Run `make cluster-binaries` as root")
    return found
