"""Files of web servers: read in ranges where a server serves these, else from the beginning to the end."""

import io
from typing import IO, Any, cast

from trainyard_api.errors import TransientError

BUFFER_BYTES = 1 << 20
SILENCE_SECONDS = 60.0
"""A server that sends nothing for so long is given up."""


def is_web(file_system: Any) -> bool:
    """Whether an fsspec file system is that of web servers."""
    protocol = file_system.protocol
    return "https" in ({protocol} if isinstance(protocol, str) else protocol)


def web_options() -> dict[str, Any]:
    """Arguments of fsspec's file system of web servers.

    Content is asked for as it is: a server that compresses on the way tells no length and serves no ranges.

    Raises:
        ImportError: aiohttp is not installed.
    """
    from aiohttp import ClientTimeout  # noqa: PLC0415 - only such runs need it

    timeout = ClientTimeout(total=None, sock_connect=SILENCE_SECONDS, sock_read=SILENCE_SECONDS)
    return {"headers": {"Accept-Encoding": "identity"}, "client_kwargs": {"timeout": timeout}}


def open_web(file_system: Any, path: str, size_bytes: int | None) -> IO[bytes]:
    """A file of a web server as a binary stream; seekable only where the server serves ranges.

    Args:
        file_system: fsspec's.
        path: the URI.
        size_bytes: its size where that is known; a stream that ends elsewhere is an error.

    Raises:
        FileNotFoundError: it cannot be reached or is not there; `faults.fault_of` tells which.
    """
    info = file_system.info(path)
    told = info.get("size")
    if told is not None and info.get("partial", True) and _serves_ranges(file_system, path, told):
        return cast("IO[bytes]", file_system.open(path, "rb", size=told))
    stream = file_system.open(path, "rb", block_size=0)
    return io.BufferedReader(SequentialFile(stream, path, size_bytes if told is None else told), BUFFER_BYTES)


class SequentialFile(io.RawIOBase):
    """A stream that is read from its beginning to its end.

    Args:
        stream: what is read.
        uri: its name, for errors.
        size_bytes: where it must end, if that is known.
    """

    def __init__(self, stream: IO[bytes], uri: str, size_bytes: int | None) -> None:
        super().__init__()
        self._stream = stream
        self._uri = uri
        self._size_bytes = size_bytes
        self._num_read = 0

    def readable(self) -> bool:
        """Always."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read bytes.

        Raises:
            TransientError: it ends before or after its end.
        """
        data = self._stream.read(len(buffer))
        buffer[: len(data)] = data
        self._num_read += len(data)
        if self._size_bytes is not None and (not data or self._num_read > self._size_bytes):
            self._check_end(self._size_bytes)
        return len(data)

    def close(self) -> None:
        """Let the connection go."""
        if not self.closed:
            self._stream.close()
        super().close()

    def _check_end(self, size_bytes: int) -> None:
        if self._num_read != size_bytes:
            raise TransientError(
                self._uri,
                f"its server sent {self._num_read} bytes or more instead of {size_bytes}",
                "Start the run again; if it stays so, copy the file to other storage",
            )


def _serves_ranges(file_system: Any, path: str, size_bytes: int) -> bool:
    """Whether a server sends the last byte of a file alone."""
    if size_bytes < 2:
        return False
    with file_system.open(path, "rb", size=size_bytes, cache_type="none") as probe:
        probe.seek(size_bytes - 1)
        try:
            return len(probe.read(1)) == 1
        except ValueError:  # fsspec's word for an answer that is no range
            return False
