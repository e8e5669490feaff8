"""Token buckets by key: how often somebody may ask, bounded in memory."""

from collections import OrderedDict
from dataclasses import dataclass


@dataclass(slots=True)
class _Bucket:
    tokens: float
    filled_at: float


class RateLimiter:
    """One bucket per key; a key that was not seen for long is forgotten, which gives it a full bucket.

    Args:
        rate_per_second: tokens that a bucket gets back per second.
        burst: tokens of a full bucket.
        maximum_keys: how many keys are remembered.
    """

    def __init__(self, rate_per_second: float, burst: int, maximum_keys: int = 16_384) -> None:
        self._rate = rate_per_second
        self._burst = float(burst)
        self._maximum_keys = maximum_keys
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def seconds_to_wait(self, key: str, now: float) -> float:
        """Seconds until the key has a token; 0 when it has one now. Takes none."""
        bucket = self._buckets.get(key)
        if bucket is None:
            return 0.0
        return max(0.0, (1.0 - self._filled(bucket, now)) / self._rate)

    def take(self, key: str, now: float) -> float:
        """Take a token and return 0, or the seconds to wait when there is none."""
        wait = self.seconds_to_wait(key, now)
        if wait > 0:
            return wait
        bucket = self._buckets.get(key)
        tokens = self._burst if bucket is None else self._filled(bucket, now)
        self._buckets[key] = _Bucket(tokens - 1.0, now)
        self._buckets.move_to_end(key)
        if len(self._buckets) > self._maximum_keys:
            self._buckets.popitem(last=False)
        return 0.0

    def _filled(self, bucket: _Bucket, now: float) -> float:
        return min(self._burst, bucket.tokens + max(0.0, now - bucket.filled_at) * self._rate)
