"""The headless Service through which a gang finds its rank 0."""

from trainyard_api.names import DEFAULT_RENDEZVOUS_PORT, Label, Stage
from trainyard_operator.resources.facts import Object, Owner, WorkerDefaults
from trainyard_operator.resources.metadata import child_labels, child_metadata
from trainyard_operator.resources.object_names import hostname, service_name


def build_service(owner: Owner, attempt: int, *, has_cache: bool = False) -> Object:
    """The Service of a run, selecting the training gang of an attempt.

    It publishes pods that are not ready: a rank has to find rank 0 before anything can be ready. The
    attempt in the selector keeps rank 0's name from pointing to a pod of an earlier attempt that is still
    terminating.

    Args:
        owner: the run as the API server knows it.
        attempt: number of the attempt.
        has_cache: whether a second gang writes the teacher's predictions before; then pods of all stages are
            selected, whose host names tell them apart. Without one, others stay out of it, since each costs
            the control plane writes.
    """
    stage = {} if has_cache else {Label.STAGE.value: Stage.TRAIN.lower()}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": child_metadata(owner, service_name(owner), child_labels(owner)),
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": {
                Label.RUN_UID.value: owner.uid,
                **stage,
                Label.ATTEMPT.value: str(attempt),
            },
            "ports": [
                {
                    "name": "rendezvous",
                    "port": DEFAULT_RENDEZVOUS_PORT,
                    "targetPort": DEFAULT_RENDEZVOUS_PORT,
                    "protocol": "TCP",
                }
            ],
        },
    }


def first_rank_address(
    owner: Owner, attempt: int, defaults: WorkerDefaults, stage: Stage = Stage.TRAIN
) -> str:
    """Host name of the pod of rank 0 in a stage that is a gang."""
    host = hostname(stage, attempt, 0)
    domain = f".{defaults.cluster_domain}" if defaults.cluster_domain else ""
    return f"{host}.{service_name(owner)}.{owner.namespace}.svc{domain}"
