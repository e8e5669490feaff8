"""How long an attempt takes until it trains."""

from collections.abc import Callable


class Startup:
    """Where the time from the start of the process to the first optimizer step goes."""

    def __init__(self, clock: Callable[[], float], process_start: float) -> None:
        self._clock = clock
        self._last = process_start
        self.seconds: dict[str, float] = {}

    def mark(self, part: str) -> None:
        """End a part of the start-up."""
        now = self._clock()
        self.seconds[part] = round(now - self._last, 3)
        self._last = now
