"""Being told to stop: a flag that the training loop looks at between steps, agreed on by all ranks."""

import signal
from types import FrameType

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopRequest:
    """Whether this process was told to stop; the handler only sets the flag, saving waits."""

    def __init__(self) -> None:
        self.requested = False

    def install(self) -> None:
        """Take SIGTERM and SIGINT; must be called in the main thread."""
        for number in STOP_SIGNALS:
            signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self.requested = True
