"""The controls of Pod Security are found to be broken where they are."""

import copy

import pytest

from tests.support.rendered import gang_of, run_with
from trainyard_operator.resources.pod_security import violations


def changed(path, value):
    pod = copy.deepcopy(gang_of(run_with())[0])
    *parents, last = path.split(".")
    place = pod["spec"]
    for parent in parents:
        place = place[int(parent)] if parent.isdigit() else place.setdefault(parent, {})
    place[last] = value
    return pod


C = "containers.0"


@pytest.mark.parametrize(
    ("path", "value", "violation"),
    [
        ("hostNetwork", True, "hostNetwork"),
        ("hostPID", True, "hostPID"),
        ("hostIPC", True, "hostIPC"),
        ("volumes", [{"name": "a", "hostPath": {"path": "/"}}], "volume type hostPath"),
        ("volumes", [{"name": "a", "nfs": {}}], "volume type nfs"),
        ("securityContext.sysctls", [{"name": "kernel.msgmax", "value": "1"}], "sysctl kernel.msgmax"),
        ("securityContext.runAsUser", 0, "pod: runAsUser"),
        ("securityContext.runAsNonRoot", False, "trainer: runAsNonRoot"),
        ("securityContext.seccompProfile", {"type": "Unconfined"}, "trainer: seccompProfile"),
        ("securityContext.seLinuxOptions", {"type": "spc_t"}, "pod: seLinuxOptions"),
        ("securityContext.seLinuxOptions", {"user": "root"}, "pod: seLinuxOptions"),
        ("securityContext.appArmorProfile", {"type": "Unconfined"}, "pod: appArmorProfile"),
        ("securityContext.windowsOptions", {"hostProcess": True}, "pod: hostProcess"),
        (f"{C}.securityContext.privileged", True, "trainer: privileged"),
        (f"{C}.securityContext.allowPrivilegeEscalation", None, "trainer: allowPrivilegeEscalation"),
        (f"{C}.securityContext.procMount", "Unmasked", "trainer: procMount"),
        (f"{C}.securityContext.capabilities", {"drop": ["NET_RAW"]}, "trainer: capabilities drop"),
        (
            f"{C}.securityContext.capabilities",
            {"drop": ["ALL"], "add": ["SYS_ADMIN"]},
            "trainer: capabilities add",
        ),
        (f"{C}.securityContext.runAsNonRoot", False, "trainer: runAsNonRoot"),
        (f"{C}.securityContext.seccompProfile", {"type": "Unconfined"}, "trainer: seccompProfile"),
        (f"{C}.ports", [{"containerPort": 1, "hostPort": 1}], "trainer: hostPort"),
        (
            f"{C}.livenessProbe",
            {"tcpSocket": {"host": "10.0.0.1", "port": 1}},
            "trainer: host of a probe or hook",
        ),
        (
            f"{C}.lifecycle",
            {"preStop": {"httpGet": {"host": "a", "port": 1}}},
            "trainer: host of a probe or hook",
        ),
    ],
)
def test_a_pod_that_breaks_a_control_is_found(path, value, violation):
    assert violations(changed(path, value)) == [violation]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (f"{C}.securityContext.capabilities", {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]}),
        ("securityContext.seccompProfile", {"type": "Localhost", "localhostProfile": "p"}),
        ("securityContext.sysctls", [{"name": "net.ipv4.tcp_syncookies", "value": "1"}]),
        (f"{C}.livenessProbe", {"tcpSocket": {"port": 1}}),
    ],
)
def test_what_restricted_allows_is_no_violation(path, value):
    assert violations(changed(path, value)) == []
