"""Who posts progress: a pod, proven by its service account token and a TokenReview of the API server.

Verdicts are kept for a short time by the hash of the token, never by the token. That a pod is still there is
not part of a verdict: the caller looks it up each time. Tokens that cannot be good (no JWT, another audience,
expired) are refused without asking the API server, and an address that keeps sending bad ones has to wait.
"""

import asyncio
import base64
import binascii
import hashlib
import json
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from trainyard_api.names import PROGRESS_AUDIENCE
from trainyard_operator.post_limits import RateLimiter

SERVICE_ACCOUNT_PREFIX = "system:serviceaccount:"
POD_NAME_KEY = "authentication.kubernetes.io/pod-name"
POD_UID_KEY = "authentication.kubernetes.io/pod-uid"

MAXIMUM_TOKEN_LENGTH = 8192
ACCEPTED_SECONDS = 60.0
"""How long a good verdict is kept; never longer than the token is valid."""
REFUSED_SECONDS = 10.0
"""How long a bad verdict is kept."""
MAXIMUM_VERDICTS = 8192
MAXIMUM_REVIEWS = 16
"""TokenReviews that may be under way at once."""
MAXIMUM_WAITING = 512
"""Posts that may wait for a TokenReview; more are sent away."""
REFUSALS_PER_SECOND = 2.0
REFUSALS_BURST = 20
"""Bad tokens that one address may send at once."""


@dataclass(frozen=True, slots=True)
class PodIdentity:
    """A pod that the API server vouches for."""

    namespace: str
    """Namespace of its service account, which is the pod's."""
    pod_name: str
    """Name of the pod."""
    pod_uid: str
    """UID of the pod."""


class TokenReviewer(Protocol):
    """Asks the API server about a token."""

    async def review_token(self, token: str, audience: str) -> Mapping[str, Any]:
        """The `status` of a TokenReview with this token and audience.

        Raises:
            Exception: the API server could not be asked.
        """
        ...


class RefusedTokenError(Exception):
    """The token proves nothing."""


class ForeignTokenError(Exception):
    """The token is good and belongs to no pod."""


class ReviewUnavailableError(Exception):
    """The API server could not be asked, or too many wait for it."""


class TooManyRefusalsError(Exception):
    """An address sent too many bad tokens.

    Args:
        seconds: how long it has to wait.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__("too many bad tokens")
        self.seconds = seconds


@dataclass(frozen=True, slots=True)
class _Verdict:
    identity: PodIdentity | None
    is_authenticated: bool
    expires_at: float


class Authenticator:
    """Turns tokens into pods.

    Args:
        reviewer: asks the API server.
        clock: Unix time in seconds.
        observe: told the result of each TokenReview: authenticated, refused or error.
    """

    def __init__(
        self, reviewer: TokenReviewer, clock: Callable[[], float], observe: Callable[[str], None]
    ) -> None:
        self._reviewer = reviewer
        self._clock = clock
        self._observe = observe
        self._verdicts: OrderedDict[bytes, _Verdict] = OrderedDict()
        self._under_way: dict[bytes, asyncio.Task[_Verdict]] = {}
        self._slots = asyncio.Semaphore(MAXIMUM_REVIEWS)
        self._refusals = RateLimiter(REFUSALS_PER_SECOND, REFUSALS_BURST)

    async def identify(self, token: str, address: str) -> PodIdentity:
        """The pod that a token was made for.

        Args:
            token: the bearer token.
            address: where it came from; one that sent many bad tokens is told to wait.

        Raises:
            RefusedTokenError: the token is no good.
            ForeignTokenError: it is good, but no pod's.
            TooManyRefusalsError: the address sent too many bad ones.
            ReviewUnavailableError: the API server could not be asked.
        """
        digest = hashlib.sha256(token.encode()).digest()
        verdict = self._verdicts.get(digest)
        if verdict is None or verdict.expires_at <= self._clock():
            wait = self._refusals.seconds_to_wait(address, self._clock())
            if wait > 0:
                raise TooManyRefusalsError(wait)
            verdict = await self._review_once(digest, token)
            if not verdict.is_authenticated:
                self._refusals.take(address, self._clock())
        if not verdict.is_authenticated:
            raise RefusedTokenError
        if verdict.identity is None:
            raise ForeignTokenError
        return verdict.identity

    async def _review_once(self, digest: bytes, token: str) -> _Verdict:
        """A new verdict; posts with the same token share one TokenReview."""
        expires_at = token_expiry(token, PROGRESS_AUDIENCE)
        if expires_at is None or expires_at <= self._clock():
            return _Verdict(None, is_authenticated=False, expires_at=0.0)
        task = self._under_way.get(digest)
        if task is None:
            if len(self._under_way) >= MAXIMUM_WAITING:
                raise ReviewUnavailableError("too many posts wait for a TokenReview")
            task = asyncio.create_task(self._review(token, expires_at))
            self._under_way[digest] = task
            task.add_done_callback(lambda done: self._settle(digest, done))
        # A client that hangs up must not cancel the review that others wait for.
        return await asyncio.shield(task)

    async def _review(self, token: str, token_expires_at: float) -> _Verdict:
        async with self._slots:
            try:
                status = await self._reviewer.review_token(token, PROGRESS_AUDIENCE)
            except Exception as error:
                self._observe("error")
                raise ReviewUnavailableError("the API server could not be asked") from error
        now = self._clock()
        is_authenticated = bool(status.get("authenticated")) and PROGRESS_AUDIENCE in (
            status.get("audiences") or ()
        )
        self._observe("authenticated" if is_authenticated else "refused")
        if not is_authenticated:
            return _Verdict(None, is_authenticated=False, expires_at=now + REFUSED_SECONDS)
        return _Verdict(
            pod_of(status.get("user") or {}),
            is_authenticated=True,
            expires_at=min(now + ACCEPTED_SECONDS, token_expires_at),
        )

    def _settle(self, digest: bytes, task: asyncio.Task[_Verdict]) -> None:
        """Keep a verdict; a review that failed leaves nothing behind."""
        del self._under_way[digest]
        if task.cancelled() or task.exception() is not None:
            return
        self._verdicts[digest] = task.result()
        self._verdicts.move_to_end(digest)
        if len(self._verdicts) > MAXIMUM_VERDICTS:
            self._verdicts.popitem(last=False)


def pod_of(user: Mapping[str, Any]) -> PodIdentity | None:
    """The pod in the user of a TokenReview; None for people and for tokens that are bound to no pod."""
    username = str(user.get("username", ""))
    extra = user.get("extra") or {}
    names, uids = list(extra.get(POD_NAME_KEY) or ()), list(extra.get(POD_UID_KEY) or ())
    namespace, separator, _ = username.removeprefix(SERVICE_ACCOUNT_PREFIX).partition(":")
    if not username.startswith(SERVICE_ACCOUNT_PREFIX) or not separator:
        return None
    if len(names) != 1 or len(uids) != 1:
        return None
    return PodIdentity(namespace=namespace, pod_name=str(names[0]), pod_uid=str(uids[0]))


def token_expiry(token: str, audience: str) -> float | None:
    """When a token says that it ends; None when it is no JWT for this audience. Nothing is verified here."""
    parts = token.split(".")
    if len(token) > MAXIMUM_TOKEN_LENGTH or len(parts) != 3:
        return None
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
        audiences, expiry = claims["aud"], float(claims["exp"])
    except (binascii.Error, ValueError, TypeError, KeyError, RecursionError):
        return None
    listed = [audiences] if isinstance(audiences, str) else audiences
    return expiry if isinstance(listed, list) and audience in listed else None
