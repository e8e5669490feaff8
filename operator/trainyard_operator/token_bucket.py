"""A token bucket for requests to the API server."""

import asyncio


class TokenBucket:
    """Lets `burst` requests through at once and `per_second` of them in the long run, in order of arrival.

    Args:
        per_second: tokens that flow in per second.
        burst: tokens that it holds.
    """

    def __init__(self, per_second: float, burst: int) -> None:
        self._per_second = per_second
        self._burst = float(burst)
        self._tokens = float(burst)
        self._filled_at: float | None = None

    async def take(self) -> None:
        """Take a token, waiting for it if there is none.

        The count may go below zero: each waiter owes its token already, which keeps them in order.
        """
        now = asyncio.get_running_loop().time()
        if self._filled_at is not None:
            self._tokens = min(self._burst, self._tokens + (now - self._filled_at) * self._per_second)
        self._filled_at = now
        self._tokens -= 1.0
        if self._tokens < 0.0:
            await asyncio.sleep(-self._tokens / self._per_second)
