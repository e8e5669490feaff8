"""Unix seconds to the time format of Kubernetes objects and back."""

from datetime import UTC, datetime

from trainyard_api.status import Timestamp


def format_timestamp(unix_seconds: float) -> Timestamp:
    """RFC 3339 in UTC with whole seconds, such as 2026-11-23T08:00:00Z."""
    return datetime.fromtimestamp(int(unix_seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_timestamp(timestamp: Timestamp) -> float:
    """Unix seconds of an RFC 3339 time; a time without a zone is taken as UTC.

    Raises:
        ValueError: the text is no RFC 3339 time.
    """
    moment = datetime.fromisoformat(timestamp)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
