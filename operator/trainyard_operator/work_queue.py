"""The queue of runs to look at: each once, no run by two workers at a time, later and again on request."""

import asyncio
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)

BACKOFF_BASE_SECONDS = 0.1
BACKOFF_CAP_SECONDS = 60.0


def _ignore(value: float) -> None:
    """Nobody wants to know."""
    del value


class WorkQueue(Generic[Key]):
    """Keys in the order in which they were added.

    A key that is added while it waits stays once. A key that is added while a worker has it comes back when
    the worker is done, so that no change is missed and no run is handled twice at the same time.

    Args:
        on_depth: told the number of waiting keys whenever it changes.
        on_wait: told how long a key waited, in seconds, when a worker takes it.
    """

    def __init__(
        self,
        on_depth: Callable[[int], None] = _ignore,
        on_wait: Callable[[float], None] = _ignore,
    ) -> None:
        self._on_depth = on_depth
        self._on_wait = on_wait
        self._waiting: asyncio.Queue[Key] = asyncio.Queue()
        self._added_at: dict[Key, float] = {}
        self._in_work: set[Key] = set()
        self._again: set[Key] = set()
        self._timers: dict[Key, asyncio.TimerHandle] = {}
        self._errors: dict[Key, int] = {}

    def __len__(self) -> int:
        """How many keys wait for a worker now."""
        return self._waiting.qsize()

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits and nothing is in work; keys for later do not count."""
        return self._waiting.empty() and not self._in_work

    def add(self, key: Key) -> None:
        """Have a key looked at as soon as a worker is free; a wait that was set for it is over."""
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer.cancel()
        if key in self._in_work:
            self._again.add(key)
        elif key not in self._added_at:
            self._added_at[key] = asyncio.get_running_loop().time()
            self._waiting.put_nowait(key)
            self._on_depth(len(self))

    def add_after(self, key: Key, seconds: float) -> None:
        """Have a key looked at after some time, unless it is to be looked at earlier already."""
        if seconds <= 0.0:
            self.add(key)
            return
        loop = asyncio.get_running_loop()
        timer = self._timers.get(key)
        if timer is not None:
            if timer.when() <= loop.time() + seconds:
                return
            timer.cancel()
        self._timers[key] = loop.call_later(seconds, self._due, key)

    def add_after_error(self, key: Key, at_least_seconds: float = 0.0) -> float:
        """Have a key looked at again after an error: after 0.1, 0.2, 0.4 ... up to 60 seconds.

        Returns:
            The seconds.
        """
        number = self._errors.get(key, 0)
        self._errors[key] = number + 1
        delay = max(at_least_seconds, min(BACKOFF_CAP_SECONDS, BACKOFF_BASE_SECONDS * 2.0 ** min(number, 32)))
        self.add_after(key, delay)
        return delay

    def succeeded(self, key: Key) -> None:
        """Forget the errors of a key, so that its next one is tried again at once."""
        self._errors.pop(key, None)

    def forget(self, key: Key) -> None:
        """Drop what waits for a key that is gone."""
        self.succeeded(key)
        self._again.discard(key)
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer.cancel()

    async def get(self) -> Key:
        """The next key; it is in work until `done`."""
        key = await self._waiting.get()
        self._on_depth(len(self))
        self._on_wait(asyncio.get_running_loop().time() - self._added_at.pop(key))
        self._in_work.add(key)
        return key

    def done(self, key: Key) -> None:
        """A worker is done with a key."""
        self._in_work.discard(key)
        if key in self._again:
            self._again.discard(key)
            self.add(key)

    def _due(self, key: Key) -> None:
        del self._timers[key]
        self.add(key)
