"""The API server's record of writes: the clock and the counter of tests and benchmarks."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Write:
    """One write that the API server answered."""

    user: str
    user_agent: str
    verb: str
    """create, update, patch, delete or deletecollection."""
    resource: str
    """Plural, with the subresource after a slash: pods, pods/status, trainingruns/status."""
    namespace: str
    name: str
    code: int
    received_at: datetime
    """When the request reached the API server."""
    answered_at: datetime


@dataclass(frozen=True, slots=True)
class AuditLog:
    """The audit log of a cluster."""

    path: Path

    def position(self) -> int:
        """Where the log ends now; writes after it are read with `writes(since=...)`."""
        return self.path.stat().st_size

    def writes(self, since: int = 0) -> Iterator[Write]:
        """The answered writes from a position on, in the order of their answers."""
        with self.path.open("rb") as log:
            log.seek(since)
            for line in log:
                if not line.endswith(b"\n"):
                    return  # still being written
                event = json.loads(line)
                if event["stage"] == "ResponseComplete" and "objectRef" in event:
                    yield _write(event)


def _write(event: dict[str, Any]) -> Write:
    target = event["objectRef"]
    subresource = target.get("subresource")
    return Write(
        user=event.get("impersonatedUser", event["user"])["username"],
        user_agent=event.get("userAgent", ""),
        verb=event["verb"],
        resource=target["resource"] + (f"/{subresource}" if subresource else ""),
        namespace=target.get("namespace", ""),
        name=target.get("name", ""),
        code=event["responseStatus"].get("code", 0),
        received_at=datetime.fromisoformat(event["requestReceivedTimestamp"]),
        answered_at=datetime.fromisoformat(event["stageTimestamp"]),
    )
