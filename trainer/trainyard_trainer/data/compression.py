"""Streams of compressed files, by name of the compression."""

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable
from typing import IO, Any, cast

import zstandard

from trainyard_api.errors import DataError

DECOMPRESSION_ERRORS = (EOFError, zlib.error, lzma.LZMAError, zstandard.ZstdError)
"""What damaged files raise, besides OSError."""

MAXIMUM_WINDOW_BYTES = 1 << 28
"""Memory that a decompressor may use for its window; more is refused as hostile."""


class CountingReader(io.RawIOBase):
    """A binary file that reports how many bytes were read from it."""

    def __init__(self, file: IO[bytes], advance: Callable[[int], None]) -> None:
        super().__init__()
        self._file = file
        self._advance = advance

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """As the file is."""
        return self._file.seekable()

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move in the file."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """Place in the file."""
        return self._file.tell()

    def readinto(self, buffer: Any) -> int:
        """Read bytes, and report them."""
        data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        self._advance(len(data))
        return len(data)


def decompressed(raw: IO[bytes], compression: str | None, uri: str) -> IO[bytes]:
    """The plain bytes of a file.

    Args:
        raw: the stored bytes.
        compression: gzip, bz2, xz, zstd or None.
        uri: the file, for errors.

    Raises:
        DataError: the compression is not known.
    """
    if compression is None:
        return raw
    if compression == "gzip":
        return cast("IO[bytes]", gzip.GzipFile(fileobj=raw, mode="rb"))
    if compression == "bz2":
        return cast("IO[bytes]", bz2.BZ2File(raw, mode="rb"))
    if compression == "xz":
        return cast("IO[bytes]", lzma.LZMAFile(raw, mode="rb"))
    if compression == "zstd":
        decompressor = zstandard.ZstdDecompressor(max_window_size=MAXIMUM_WINDOW_BYTES)
        return io.BufferedReader(decompressor.stream_reader(raw, read_across_frames=True))
    raise DataError(uri, f"the compression {compression!r} is not known", "Use gzip, bz2, xz or zstd")
