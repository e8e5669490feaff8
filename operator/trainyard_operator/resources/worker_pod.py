"""The worker pod before the run's podTemplate: what Trainyard gives to every pod of a stage.

It fits Pod Security `restricted`. Only the plan, the storage claim and the token come from outside;
everything that a process may write is a volume.
"""

from trainyard_api.names import (
    PROGRESS_AUDIENCE,
    TRAINER_CONTAINER,
    File,
    PodEnvironment,
    PodPath,
    Stage,
    kubeflow_status_path,
    progress_path,
)
from trainyard_api.plan import RunPlan
from trainyard_api.quantities import format_bytes
from trainyard_operator.resources.accelerators import (
    device_environment,
    device_node_selector,
    device_tolerations,
    shared_memory_bytes,
    stage_resources,
)
from trainyard_operator.resources.facts import Object, Owner, WorkerDefaults
from trainyard_operator.resources.object_names import config_map_name

NODE_LOSS_TOLERATION_SECONDS = 30
"""A gang waits for its lost pod; Kubernetes' default would let it wait for 300 s."""
TOKEN_SECONDS = 3600

PLAN_VOLUME = "plan"
DATA_VOLUME = "data"
PROGRESS_VOLUME = "progress"
SHARED_MEMORY_VOLUME = "shm"


def worker_pod_spec(
    owner: Owner, plan: RunPlan, stage: Stage, argv: tuple[str, ...], defaults: WorkerDefaults
) -> Object:
    """Spec of the pods of a stage, as far as they are equal."""
    workers, scheduling = plan.spec.workers, plan.spec.scheduling
    spec: Object = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": defaults.termination_grace_seconds,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": defaults.user_id,
            "runAsGroup": defaults.user_id,
            "fsGroup": defaults.user_id,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "tolerations": [*_node_loss_tolerations(), *device_tolerations(workers, stage)],
        "containers": [
            {
                "name": TRAINER_CONTAINER,
                "image": workers.image or defaults.image,
                "command": list(argv),
                "env": [
                    *_environment(owner, defaults),
                    *(
                        {"name": name, "value": value}
                        for name, value in device_environment(workers, stage).items()
                    ),
                ],
                "resources": stage_resources(workers, stage),
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "readOnlyRootFilesystem": True,
                    "capabilities": {"drop": ["ALL"]},
                },
                "terminationMessagePath": PodPath.TERMINATION_MESSAGE.value,
                "terminationMessagePolicy": "FallbackToLogsOnError",
                "volumeMounts": _volume_mounts(),
            }
        ],
        "volumes": _volumes(owner, plan, defaults, shared_memory_bytes(workers, stage)),
    }
    if node_selector := device_node_selector(workers, stage):
        spec["nodeSelector"] = node_selector
    if scheduling.priority_class_name:
        spec["priorityClassName"] = scheduling.priority_class_name
    return spec


def _node_loss_tolerations() -> list[Object]:
    return [
        {
            "key": f"node.kubernetes.io/{state}",
            "operator": "Exists",
            "effect": "NoExecute",
            "tolerationSeconds": NODE_LOSS_TOLERATION_SECONDS,
        }
        for state in ("not-ready", "unreachable")
    ]


def _environment(owner: Owner, defaults: WorkerDefaults) -> list[Object]:
    """Variables of every worker container, beyond those of the plan.

    USER stands in for an entry in /etc/passwd, which a numeric user has in no image but ours, and which
    libraries ask for when they choose a cache folder.
    """
    server = defaults.progress_url.rstrip("/")
    values = {
        "HOME": PodPath.HOME.value,
        "USER": "trainyard",
        "PYTHONUNBUFFERED": "1",
        PodEnvironment.PROGRESS_URL.value: server + progress_path(owner.namespace, owner.name),
        PodEnvironment.PROGRESS_TOKEN_FILE.value: PodPath.PROGRESS_TOKEN.value,
        PodEnvironment.PROGRESS_CA_FILE.value: PodPath.PROGRESS_CA.value,
        PodEnvironment.KUBEFLOW_URL.value: server + kubeflow_status_path(owner.namespace, owner.name),
        PodEnvironment.KUBEFLOW_TOKEN_FILE.value: PodPath.PROGRESS_TOKEN.value,
        PodEnvironment.KUBEFLOW_CA_FILE.value: PodPath.PROGRESS_CA.value,
    }
    pod_name = {
        "name": PodEnvironment.POD_NAME.value,
        "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.name"}},
    }
    return [pod_name, *({"name": name, "value": value} for name, value in values.items())]


def _volume_mounts() -> list[Object]:
    return [
        {"name": PLAN_VOLUME, "mountPath": PodPath.PLAN_FOLDER.value, "readOnly": True},
        {"name": DATA_VOLUME, "mountPath": PodPath.DATA.value},
        {"name": PROGRESS_VOLUME, "mountPath": PodPath.PROGRESS_FOLDER.value, "readOnly": True},
        {"name": SHARED_MEMORY_VOLUME, "mountPath": PodPath.SHARED_MEMORY.value},
        {"name": "tmp", "mountPath": PodPath.TEMPORARY.value},
        {"name": "home", "mountPath": PodPath.HOME.value},
    ]


def _volumes(owner: Owner, plan: RunPlan, defaults: WorkerDefaults, memory_bytes: int) -> list[Object]:
    claim = plan.spec.storage.volume_claim
    return [
        {
            "name": PLAN_VOLUME,
            "configMap": {
                "name": config_map_name(owner, plan.attempt),
                "items": [{"key": File.PLAN.value, "path": File.PLAN.value}],
            },
        },
        {
            "name": DATA_VOLUME,
            "persistentVolumeClaim": {
                "claimName": claim.claim_name if claim else defaults.default_claim_name
            },
        },
        {"name": PROGRESS_VOLUME, "projected": {"sources": _progress_sources(defaults)}},
        {
            "name": SHARED_MEMORY_VOLUME,
            "emptyDir": {"medium": "Memory", "sizeLimit": format_bytes(memory_bytes)},
        },
        {"name": "tmp", "emptyDir": {}},
        {"name": "home", "emptyDir": {}},
    ]


def _progress_sources(defaults: WorkerDefaults) -> list[Object]:
    """Token and authority; training does not wait for the authority, which only reporting needs."""
    return [
        {
            "serviceAccountToken": {
                "audience": PROGRESS_AUDIENCE,
                "expirationSeconds": TOKEN_SECONDS,
                "path": PodPath.PROGRESS_TOKEN.removeprefix(f"{PodPath.PROGRESS_FOLDER}/"),
            }
        },
        {
            "configMap": {
                "name": defaults.ca_config_map,
                "items": [{"key": "ca.crt", "path": "ca.crt"}],
                "optional": True,
            }
        },
    ]
