"""Arithmetic on the API server's record of writes, and the wait for what is to appear in it."""

import math
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.audit import AuditLog, Write

PATIENCE_SECONDS = 420.0
_POLL_SECONDS = 0.1

OPERATOR = "system:serviceaccount:trainyard:trainyard-operator"
JOB_CONTROLLER = "system:serviceaccount:kube-system:job-controller"


class BenchmarkError(Exception):
    """What was to be measured did not happen."""


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of the values does not exceed.

    Raises:
        ValueError: there are no values.
    """
    if not values:
        raise ValueError("there are no values")
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def is_new_pod(write: Write) -> bool:
    """Whether a write made a pod."""
    return write.verb == "create" and write.resource == "pods" and write.code == 201


def is_gang_pod(write: Write) -> bool:
    """Whether a write made a pod of a training gang of Trainyard, by the names that these have."""
    return is_new_pod(write) and "-t0-" in write.name


def own_writes(writes: Iterable[Write], controllers: Sequence[str]) -> Counter[str]:
    """What controllers changed beyond new pods and events, by verb and resource."""
    return Counter(
        f"{write.verb} {write.resource}"
        for write in writes
        if write.user in controllers
        and write.code < 300
        and write.resource != "events"
        and not is_new_pod(write)
    )


def seconds_between(first: Write, last: Write) -> float:
    """From when a write was asked for to when another was answered."""
    return (last.answered_at - first.received_at).total_seconds()


@dataclass
class Recording:
    """The writes in one namespace from now on."""

    log: AuditLog
    namespace: str
    since: int = 0

    @classmethod
    def begin(cls, log: AuditLog, namespace: str) -> "Recording":
        """Start here."""
        return cls(log, namespace, log.position())

    def writes(self) -> list[Write]:
        """Everything so far."""
        return [write for write in self.log.writes(self.since) if write.namespace == self.namespace]

    def wait_for_pods(self, number: int, *, marker: str = "", seconds: float = PATIENCE_SECONDS) -> None:
        """Wait until so many pods were made.

        Args:
            number: how many.
            marker: part of their names; pods of Jobs have no names in the record.
            seconds: for how long.

        Raises:
            BenchmarkError: they were not.
        """
        needles = [
            b'"verb":"create"',
            b'"resource":"pods","namespace":"%s"' % self.namespace.encode(),
            b'"code":201',
        ]
        if marker:
            needles.append(marker.encode())
        counter = _LineCounter(self.log.path, self.since, needles, b'"subresource"')
        deadline = time.monotonic() + seconds
        while counter.count() < number:
            if time.monotonic() > deadline:
                raise BenchmarkError(
                    f"{self.namespace}: {counter.found} of {number} pods after {seconds:.0f} s"
                )
            time.sleep(_POLL_SECONDS)


class _LineCounter:
    """Counts lines of a growing file that have some words, without decoding them."""

    def __init__(self, path: Path, since: int, needles: Sequence[bytes], unwanted: bytes) -> None:
        self._path = path
        self._position = since
        self._needles = needles
        self._unwanted = unwanted
        self.found = 0

    def count(self) -> int:
        """How many there are by now."""
        with self._path.open("rb") as log:
            log.seek(self._position)
            for line in log:
                if not line.endswith(b"\n"):
                    break
                self._position += len(line)
                if self._unwanted not in line and all(needle in line for needle in self._needles):
                    self.found += 1
        return self.found
