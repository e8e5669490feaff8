"""The Pod Security Standard `restricted`, by the controls of kubernetes.io, "Pod Security Standards", v1.34.

What admits pods in a cluster is the API server; this function tells at once which control a pod breaks.
"""

from collections.abc import Iterator
from typing import Any

VOLUME_TYPES = frozenset(
    {
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "persistentVolumeClaim",
        "projected",
        "secret",
    }
)
SELINUX_TYPES = frozenset({"", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"})
SAFE_SYSCTLS = frozenset(
    {
        "kernel.shm_rmid_forced",
        "net.ipv4.ip_local_port_range",
        "net.ipv4.ip_unprivileged_port_start",
        "net.ipv4.tcp_syncookies",
        "net.ipv4.ping_group_range",
        "net.ipv4.ip_local_reserved_ports",
        "net.ipv4.tcp_keepalive_time",
        "net.ipv4.tcp_fin_timeout",
        "net.ipv4.tcp_keepalive_intvl",
        "net.ipv4.tcp_keepalive_probes",
    }
)

HTTP_OR_TCP = ("httpGet", "tcpSocket")


def violations(pod: dict[str, Any]) -> list[str]:
    """The controls of `restricted` that a pod or pod template breaks."""
    pod = _without_nulls(pod)
    spec = pod["spec"]
    context = spec.get("securityContext", {})
    broken = [name for name in ("hostNetwork", "hostPID", "hostIPC") if spec.get(name)]
    annotations = pod.get("metadata", {}).get("annotations", {})
    broken += [
        key for key in annotations if key.startswith("container.apparmor.security.beta.kubernetes.io/")
    ]
    for volume in spec.get("volumes", []):
        broken += [f"volume type {kind}" for kind in volume if kind != "name" and kind not in VOLUME_TYPES]
    broken += [
        f"sysctl {sysctl.get('name')}"
        for sysctl in context.get("sysctls", [])
        if sysctl.get("name") not in SAFE_SYSCTLS
    ]
    broken += _context_violations(context, "pod")
    for kind in ("initContainers", "containers", "ephemeralContainers"):
        for container in spec.get(kind, []):
            broken += _container_violations(container, context)
    return broken


def _container_violations(container: dict[str, Any], pod_context: dict[str, Any]) -> Iterator[str]:
    name, context = container["name"], container.get("securityContext", {})
    yield from _context_violations(context, name)
    if context.get("privileged"):
        yield f"{name}: privileged"
    if context.get("allowPrivilegeEscalation") is not False:
        yield f"{name}: allowPrivilegeEscalation"
    if context.get("procMount", "Default") != "Default":
        yield f"{name}: procMount"
    yield from _capability_violations(context.get("capabilities", {}), name)
    if context.get("runAsNonRoot", pod_context.get("runAsNonRoot")) is not True:
        yield f"{name}: runAsNonRoot"
    seccomp = context.get("seccompProfile", pod_context.get("seccompProfile", {}))
    if seccomp.get("type") not in ("RuntimeDefault", "Localhost"):
        yield f"{name}: seccompProfile"
    if any(port.get("hostPort") for port in container.get("ports", [])):
        yield f"{name}: hostPort"
    if any(handler.get(action, {}).get("host") for handler in _handlers(container) for action in HTTP_OR_TCP):
        yield f"{name}: host of a probe or hook"


def _capability_violations(capabilities: dict[str, Any], name: str) -> Iterator[str]:
    """What is kept or added."""
    if "ALL" not in capabilities.get("drop", []):
        yield f"{name}: capabilities drop"
    if set(capabilities.get("add", [])) - {"NET_BIND_SERVICE"}:
        yield f"{name}: capabilities add"


def _handlers(container: dict[str, Any]) -> list[dict[str, Any]]:
    """Probes and hooks."""
    probes = [container.get(probe, {}) for probe in ("livenessProbe", "readinessProbe", "startupProbe")]
    return probes + [container.get("lifecycle", {}).get(hook, {}) for hook in ("postStart", "preStop")]


def _context_violations(context: dict[str, Any], where: str) -> Iterator[str]:
    """Controls that pods and containers share."""
    if context.get("runAsUser") == 0:
        yield f"{where}: runAsUser"
    if context.get("windowsOptions", {}).get("hostProcess"):
        yield f"{where}: hostProcess"
    if context.get("appArmorProfile", {}).get("type", "RuntimeDefault") not in (
        "RuntimeDefault",
        "Localhost",
    ):
        yield f"{where}: appArmorProfile"
    selinux = context.get("seLinuxOptions", {})
    if selinux.get("type", "") not in SELINUX_TYPES or selinux.get("user") or selinux.get("role"):
        yield f"{where}: seLinuxOptions"


def _without_nulls(value: Any) -> Any:
    """The same without members that are null, which the API server takes for absent."""
    if isinstance(value, dict):
        return {key: _without_nulls(child) for key, child in value.items() if child is not None}
    return [_without_nulls(child) for child in value] if isinstance(value, list) else value
