"""Progress to the operator, from a thread that training never waits for.

Only the newest report is kept: what an outage swallowed needs no telling once there is something newer. The
token is read for every POST, because the kubelet replaces it. Nothing that goes wrong here reaches the
caller; the first failure of an outage and its end are said in the log, once each.
"""

import http.client
import json
import os
import random
import re
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from trainyard_api.names import PodEnvironment
from trainyard_api.progress import ProgressReport
from trainyard_trainer.exit_records import say

INTERVAL_SECONDS = 5.0
"""Between two reports that are not urgent."""
URGENT_INTERVAL_SECONDS = 1.0
"""Between any two reports."""
TIMEOUT_SECONDS = 5.0
"""For connecting, and for each answer."""
FIRST_BACKOFF_SECONDS = 1.0
MAXIMUM_BACKOFF_SECONDS = 60.0


class ProgressSink(Protocol):
    """Takes reports without making the caller wait."""

    def __call__(self, report: ProgressReport, *, urgent: bool = False) -> None:
        """Take the newest report; an urgent one goes out at once."""


@dataclass(frozen=True)
class PushTarget:
    """Where progress goes, and by which right."""

    url: str
    """Whole address of the run's progress, https only: the token goes with it."""
    token_file: Path
    """Service account token."""
    ca_file: Path
    """Certificates that the operator's one is verified with."""

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> "PushTarget | None":
        """The target that a pod's environment names; None where it names none."""
        url = environment.get(PodEnvironment.PROGRESS_URL, "")
        if not url:
            return None
        if urlsplit(url).scheme != "https" or not urlsplit(url).hostname:
            say(f"{PodEnvironment.PROGRESS_URL}: no https address; progress is not reported")
            return None
        return cls(
            url=url,
            token_file=Path(environment.get(PodEnvironment.PROGRESS_TOKEN_FILE, "")),
            ca_file=Path(environment.get(PodEnvironment.PROGRESS_CA_FILE, "")),
        )


class PushError(Exception):
    """A report that was not taken.

    Args:
        problem: why, without token or report.
        retry_after: seconds that the operator asks to wait; 0 when it asks for nothing.
    """

    def __init__(self, problem: str, retry_after: float = 0.0) -> None:
        super().__init__(problem)
        self.retry_after = retry_after


def post(target: PushTarget, report: ProgressReport) -> None:
    """Send one report.

    Raises:
        PushError: it was not taken; the message says why.
    """
    parts = urlsplit(target.url)
    body = report.model_dump_json(by_alias=True, exclude_none=True).encode()
    try:
        token = read_token(target.token_file)
        context = ssl.create_default_context(cafile=str(target.ca_file))
        connection = http.client.HTTPSConnection(
            parts.hostname or "", parts.port or 443, timeout=TIMEOUT_SECONDS, context=context
        )
        try:
            headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
            connection.request("POST", parts.path, body=body, headers=headers)
            response = connection.getresponse()
            answer = response.read(4096)
        finally:
            connection.close()
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise PushError(f"{type(error).__name__}: {error}") from error
    if response.status >= 300:
        raise PushError(
            f"{response.status} {_message(answer)}", _seconds(response.headers.get("Retry-After"))
        )


def read_token(file: Path) -> str:
    """The token in a file.

    Raises:
        OSError: the file cannot be read.
        PushError: it holds no token; http.client would repeat it in its error.
    """
    token = file.read_bytes().strip()
    if not re.fullmatch(rb"[\x21-\x7e]+", token):
        raise PushError(f"{file} holds no token")
    return token.decode("ascii")


def _message(answer: bytes) -> str:
    """What the operator said, on one line."""
    try:
        text = str(json.loads(answer)["message"])
    except (ValueError, TypeError, KeyError):
        return "without an explanation"
    return " ".join(text.split())[:200]


def _seconds(text: str | None) -> float:
    return min(float(text), MAXIMUM_BACKOFF_SECONDS) if text and text.isdecimal() else 0.0


class ProgressPusher:
    """Sends the newest report, at most every INTERVAL_SECONDS, until it is closed.

    Args:
        target: where reports go.
        clock: seconds that never go back.
    """

    def __init__(self, target: PushTarget, clock: Callable[[], float] = time.monotonic) -> None:
        self._target = target
        self._clock = clock
        self._changed = threading.Condition()
        self._newest: ProgressReport | None = None
        self._is_urgent = False
        self._closes_at: float | None = None
        self._next_try = float("-inf")
        self._sent_at = float("-inf")
        self._num_failures = 0
        self._thread: threading.Thread | None = None

    def __call__(self, report: ProgressReport, *, urgent: bool = False) -> None:
        """Take the newest report; never waits for the network."""
        with self._changed:
            self._newest = report
            self._is_urgent = self._is_urgent or urgent
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="progress-push", daemon=True)
                self._thread.start()
            self._changed.notify()

    def close(self, timeout_seconds: float) -> None:
        """Send what is still to be sent, as far as that takes no longer than this, and end the thread."""
        with self._changed:
            self._closes_at = self._clock() + timeout_seconds
            # An outage may be over: try once more at once.
            self._next_try = float("-inf")
            self._changed.notify()
            thread = self._thread
        if thread is not None:
            thread.join(timeout_seconds)

    def _work(self) -> None:
        while True:
            report = self._next_report()
            if report is None:
                return
            try:
                post(self._target, report)
            except PushError as error:
                self._failed(report, error)
            except Exception as error:  # noqa: BLE001 - reporting must never end training, nor this thread
                self._failed(report, PushError(f"{type(error).__name__}: {error}"))
            else:
                self._succeeded()

    def _next_report(self) -> ProgressReport | None:
        """Wait until a report is due, and take it; None when there is nothing more to do."""
        with self._changed:
            while True:
                now = self._clock()
                if self._closes_at is not None and (self._newest is None or now >= self._closes_at):
                    return None
                due = self._due()
                if self._newest is not None and now >= due:
                    report, self._newest, self._is_urgent = self._newest, None, False
                    return report
                self._changed.wait(None if self._newest is None else due - now)

    def _due(self) -> float:
        """When the newest report may go out."""
        if self._closes_at is not None:
            return self._next_try
        pause = URGENT_INTERVAL_SECONDS if self._is_urgent else INTERVAL_SECONDS
        return max(self._next_try, self._sent_at + pause)

    def _failed(self, report: ProgressReport, error: PushError) -> None:
        with self._changed:
            self._num_failures += 1
            backoff = min(FIRST_BACKOFF_SECONDS * 2.0 ** (self._num_failures - 1), MAXIMUM_BACKOFF_SECONDS)
            # Spread out, so that a thousand runs do not come back in the same second.
            pause = max(error.retry_after, backoff * random.uniform(0.5, 1.0))  # noqa: S311 - no secret
            self._next_try = self._clock() + pause
            if self._newest is None:
                self._newest = report
            first = self._num_failures == 1
        if first:
            say(f"progress cannot be reported to the operator ({error}); the work goes on")

    def _succeeded(self) -> None:
        with self._changed:
            self._sent_at = self._clock()
            failures, self._num_failures = self._num_failures, 0
        if failures:
            say(f"progress is reported to the operator again, after {failures} failed tries")


@cache
def _process_pusher() -> ProgressPusher | None:
    """The pusher of this process: a process works for one run."""
    target = PushTarget.of(os.environ)
    return ProgressPusher(target) if target is not None else None


def publish(report: ProgressReport, *, urgent: bool = False) -> None:
    """Tell the operator, where there is one."""
    pusher = _process_pusher()
    if pusher is not None:
        pusher(report, urgent=urgent)


def finish_publishing(timeout_seconds: float) -> None:
    """Tell the operator the last thing before the process ends, as far as that takes no longer than this."""
    pusher = _process_pusher()
    if pusher is not None:
        pusher.close(timeout_seconds)
