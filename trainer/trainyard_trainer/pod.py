"""What a process does only in a pod: it leaves the reason of its end where the kubelet finds it.

The termination message of the container is one JSON object: the ExitRecord of the process that failed first,
or the ModelStatus of a finished export. It becomes part of the run's status, so secrets are blacked out.
Nothing here may change how the process ends: what fails is said in the log and passed over.
"""

import sys
import time
import traceback
from bisect import bisect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from trainyard_api.errors import TrainyardError
from trainyard_api.model import ApiModel
from trainyard_api.names import ExitCode, PodEnvironment, PodPath, Reason
from trainyard_api.progress import ExitRecord
from trainyard_api.redact import redact
from trainyard_trainer.exit_records import say
from trainyard_trainer.progress import timestamp
from trainyard_trainer.rank import translate

MAXIMUM_MESSAGE_BYTES = 4096
"""What the kubelet reads of a termination message."""
MAXIMUM_INPUT = 4 * MAXIMUM_MESSAGE_BYTES
"""Characters of a text that are looked at."""


def is_in_pod(environment: Mapping[str, str]) -> bool:
    """Whether this process runs in a pod of the operator."""
    return bool(environment.get(PodEnvironment.POD_NAME))


def leave_message(message: ApiModel, environment: Mapping[str, str]) -> None:
    """Write the termination message, when this is a pod.

    Args:
        message: ExitRecord or ModelStatus.
        environment: tells whether, and where.
    """
    if not is_in_pod(environment):
        return
    path = Path(environment.get(PodEnvironment.TERMINATION_LOG) or PodPath.TERMINATION_MESSAGE)
    try:
        text = fitting(message) if isinstance(message, ExitRecord) else _json(message)
        path.write_text(text, encoding="utf-8")
    except Exception as error:  # noqa: BLE001 - the exit code must not suffer, whatever it is
        say(f"the termination message could not be written to {path}: {type(error).__name__}: {error}")


def fitting(record: ExitRecord) -> str:
    """The record as JSON of at most MAXIMUM_MESSAGE_BYTES, secrets blacked out.

    The log tail loses its oldest lines first, then the message its end.
    """
    message = redact(record.message[:MAXIMUM_INPUT])
    tail = redact(record.log_tail[-MAXIMUM_INPUT:])

    def text(num_message: int, num_tail: int) -> str:
        kept = _without_first_part_line(tail[-num_tail:]) if 0 < num_tail < len(tail) else tail[:num_tail]
        return _json(record.model_copy(update={"message": message[:num_message], "log_tail": kept}))

    def fits(text: str) -> bool:
        return len(text.encode()) <= MAXIMUM_MESSAGE_BYTES

    # JSON writes some characters with several bytes, so the largest part that fits is searched for.
    if fits(text(len(message), 0)):
        num_tail = bisect(range(1, len(tail) + 1), False, key=lambda size: not fits(text(len(message), size)))
        return text(len(message), num_tail)
    num_message = bisect(range(1, len(message) + 1), False, key=lambda size: not fits(text(size, 0)))
    return text(num_message, 0)


def _without_first_part_line(tail: str) -> str:
    _, newline, rest = tail.partition("\n")
    return rest if newline else tail


def _json(message: ApiModel) -> str:
    return message.model_dump_json(by_alias=True, exclude_none=True)


@contextmanager
def explained(environment: Mapping[str, str], rank: int = 0) -> Iterator[None]:
    """Leave a termination message for an error or a stop that ends the process; the error goes on.

    Args:
        environment: tells whether this is a pod.
        rank: the rank that the record is about.
    """
    try:
        yield
    except SystemExit as stop:
        if stop.code == ExitCode.PREEMPTED:
            leave_message(
                _record(
                    rank,
                    ExitCode.PREEMPTED,
                    Reason.PREEMPTED,
                    "Told to stop before there was anything to save",
                ),
                environment,
            )
        raise
    except Exception as error:
        known = translate(error)
        # A known error says all in its message; of another one the place matters.
        tail = "" if isinstance(error, TrainyardError) else traceback.format_exc()
        leave_message(_record(rank, known.exit_code, known.reason, str(known), tail), environment)
        raise


def _record(rank: int, code: ExitCode, reason: Reason, message: str, tail: str = "") -> ExitRecord:
    return ExitRecord(
        rank=rank, exit_code=code, reason=reason, message=message, log_tail=tail, time=timestamp(time.time())
    )


def write_lines_at_once() -> None:
    """Let every line of this process reach the container's log when it is written."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(line_buffering=True)
