"""Names of the children, each a pure function of what the child is for: a repeated create meets itself.

Every name carries a hash of the run's UID, so children of a deleted run never stand in the way of a new
run of the same name, and a long run name that had to be cut stays distinct.
"""

import base64
import hashlib
import json

from trainyard_api.names import Stage
from trainyard_operator.resources.facts import Owner

MAXIMUM_LENGTH = 63
"""Of a DNS label (RFC 1123), which pod names must be for the host name to equal the rank's place."""
JOB_INDEX_LENGTH = 6
"""Room behind an Indexed Job's name: its pods are called `<job>-<index>`."""
HASH_LENGTH = 6
"""Letters of base 32, thirty bits."""


def pod_name(owner: Owner, stage: Stage, attempt: int, index: int, incarnation: int) -> str:
    """Name of a pod of a gang: `<run>-<stage letter><attempt>-<index>-<hash>`."""
    middle = f"{stage[0].lower()}{attempt}-{index}"
    return _name(owner, middle, _hash(owner, stage, attempt, index, incarnation))


def job_name(owner: Owner, stage: Stage, attempt: int) -> str:
    """Name of the Job of a stage."""
    return _name(owner, f"{stage[0].lower()}{attempt}", _hash(owner, stage, attempt), JOB_INDEX_LENGTH)


def gang_name(owner: Owner, stage: Stage, attempt: int) -> str:
    """Name that the pods of a gang share, for schedulers."""
    return _name(owner, f"{stage[0].lower()}{attempt}", _hash(owner, "gang", stage, attempt))


def config_map_name(owner: Owner, attempt: int) -> str:
    """Name of the ConfigMap with the plan of an attempt."""
    return _name(owner, f"plan{attempt}", _hash(owner, "plan", attempt))


def service_name(owner: Owner) -> str:
    """Name of the run's headless Service; it starts with a letter, as RFC 1035 wants of services."""
    name = _name(owner, "", _hash(owner, "service"), room=2)
    return name if name[0].isalpha() else f"r-{name}"


def hostname(stage: Stage, attempt: int, index: int) -> str:
    """Host name of a pod of a gang."""
    return f"{stage.lower()}-{attempt}-{index}"


def _name(owner: Owner, middle: str, suffix: str, room: int = 0) -> str:
    """`<run>-<middle>-<suffix>`, the run's name cut to what fits."""
    tail = f"-{middle}-{suffix}" if middle else f"-{suffix}"
    return owner.name[: MAXIMUM_LENGTH - room - len(tail)].rstrip("-") + tail


def _hash(owner: Owner, *parts: str | int) -> str:
    """Distinguishes what the readable part of a name does not."""
    content = json.dumps([owner.namespace, owner.name, owner.uid, *parts]).encode()
    return base64.b32encode(hashlib.sha256(content).digest())[:HASH_LENGTH].decode().lower()
