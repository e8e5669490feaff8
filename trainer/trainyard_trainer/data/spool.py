"""Files that are read from their end, as Parquet is, where they are stored compressed or come as a stream."""

import tempfile
from contextlib import ExitStack
from typing import IO, cast

from trainyard_api.errors import DataError
from trainyard_trainer.data.compression import decompressed

UNPACKED_BYTES = 1 << 30
"""What any compressed file may unpack to."""
MAXIMUM_UNPACKED_RATIO = 20
"""How far a larger one may; Parquet is compressed already, and plain text to a tenth at best."""
COPY_BYTES = 1 << 20


def seekable(
    raw: IO[bytes], compression: str | None, size_bytes: int, uri: str, stack: ExitStack
) -> IO[bytes]:
    """The plain bytes of a file as a seekable one: itself, or a temporary file on the disk.

    Args:
        raw: the stored bytes.
        compression: of the whole file, or None.
        size_bytes: how many bytes are stored.
        uri: the file, for errors.
        stack: deletes the temporary file.

    Raises:
        DataError: it is longer than its store tells, or unpacks to far more than any text does.
        OSError: it cannot be read, or the disk is full; `readers.file_errors` tells what it means.
    """
    if compression is None and raw.seekable():
        return raw
    limit = size_bytes
    if compression is not None:
        limit = max(UNPACKED_BYTES, MAXIMUM_UNPACKED_RATIO * size_bytes)
    plain = cast("IO[bytes]", stack.enter_context(tempfile.TemporaryFile()))  # noqa: SIM115 - the stack does
    stream = decompressed(raw, compression, uri)
    num_bytes = 0
    while block := stream.read(COPY_BYTES):
        num_bytes += len(block)
        if num_bytes > limit:
            raise DataError(
                uri,
                f"it has {size_bytes} bytes and unpacks to more than {limit}",
                "It is a decompression bomb, or was changed: unpack it, or remove it from the source",
            )
        plain.write(block)
    plain.seek(0)
    return plain
