"""Values of the chart with which it is rendered, applied and installed: each option at least once."""

from collections.abc import Iterator, Mapping
from typing import Any

MONITORING_KINDS = ("ServiceMonitor", "PrometheusRule")
"""Objects of the Prometheus operator, whose definitions the test cluster does not have."""

DIGEST = "sha256:" + "0123456789abcdef" * 4

PERMUTATIONS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "one replica": {"replicas": 1, "settings": {"leaderElection": False}},
    "three replicas": {"replicas": 3, "podDisruptionBudget": {"enabled": False}},
    "images by tag": {
        "image": {
            "repository": "mirror.example:5000/trainyard/operator",
            "tag": "1.2.3",
            "pullPolicy": "Always",
        },
        "worker": {"image": {"repository": "mirror.example/trainer", "tag": "1.2.3"}},
        "imagePullSecrets": ["mirror", "other"],
    },
    "images by digest": {"image": {"digest": DIGEST}, "worker": {"image": {"digest": DIGEST}}},
    "one namespace": {"watchNamespaces": ["trainyard"]},
    "a namespace without cluster-wide rights": {
        "watchNamespaces": ["trainyard"],
        "rbac": {"tokenReviews": False},
    },
    "rights by others": {
        "rbac": {"create": False, "userRoles": False},
        "serviceAccount": {"create": False, "name": "by-others"},
        "crds": {"install": False},
    },
    "an account of another name": {
        "serviceAccount": {"name": "operator-of-runs", "annotations": {"example.com/role": "a: b"}}
    },
    "a definition that goes": {"crds": {"keep": False}},
    "users by others": {"rbac": {"userRoles": False}},
    "another claim, domain and log": {
        "worker": {"defaultClaimName": "scratch"},
        "clusterDomain": "cluster.example",
        "logLevel": "DEBUG",
    },
    "settings": {
        "settings": {
            "requestsPerSecond": 50,
            "requestBurst": 100000,
            "leaseDurationSeconds": 15,
            "leaseRenewDeadlineSeconds": 7.5,
            "terminationGraceSeconds": 600,
        }
    },
    "a certificate by others": {"progress": {"certificateSecretName": "progress-tls"}},
    "a certificate by others in one namespace": {
        "progress": {"certificateSecretName": "progress-tls"},
        "watchNamespaces": ["trainyard"],
    },
    "other ports": {"progress": {"port": 9443}, "metrics": {"port": 9090}},
    "everything for monitoring": {
        "metrics": {
            "serviceMonitor": {"enabled": True, "interval": "15s", "labels": {"release": "prometheus"}},
            "prometheusRule": {
                "enabled": True,
                "labels": {"release": "prometheus"},
                "disabledAlerts": ["TrainingRunThroughputDropped"],
                "runbookBaseUrl": "https://runbooks.example/",
            },
            "dashboard": {
                "enabled": True,
                "labels": {"grafana_dashboard": "yes"},
                "annotations": {"grafana_folder": "Training"},
            },
        }
    },
    "no network policy": {"networkPolicy": {"enabled": False}},
    "a narrow network policy": {
        "networkPolicy": {
            "metricsFrom": [{"namespaceSelector": {"matchLabels": {"name": "monitoring"}}}],
            "apiServerTo": [{"ipBlock": {"cidr": "192.0.2.1/32"}}],
            "apiServerPorts": [8443],
        }
    },
    "where pods run": {
        "resources": {"requests": {"cpu": 1, "memory": "1Gi"}, "limits": {"cpu": "2.5", "memory": "2Gi"}},
        "priorityClassName": "system-cluster-critical",
        "nodeSelector": {"kubernetes.io/os": "linux"},
        "tolerations": [{"key": "control", "operator": "Exists", "effect": "NoSchedule"}],
        "affinity": {
            "nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {
                    "nodeSelectorTerms": [{"matchExpressions": [{"key": "zone", "operator": "Exists"}]}]
                }
            }
        },
        "topologySpread": [
            {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"},
            {"maxSkew": 2, "topologyKey": "rack", "whenUnsatisfiable": "ScheduleAnyway"},
        ],
    },
    "pods anywhere": {"topologySpread": []},
    "labels": {
        "extraLabels": {"team": "speech", "app.kubernetes.io/name": "not-ours"},
        "podLabels": {"sidecar.example/inject": "false", "app.kubernetes.io/component": "not-ours"},
        "podAnnotations": {"example.com/note": 'a "quoted" note'},
    },
    "another name": {"fullnameOverride": "a-name-that-is-longer-than-what-suffixes-leave-room-for"},
}
"""Values by what they are about."""


def leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Paths of all members, groups included."""
    for name, value in values.items():
        yield f"{prefix}{name}"
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{name}.")
