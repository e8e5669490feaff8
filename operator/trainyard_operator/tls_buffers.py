"""How much memory a TLS connection takes."""

from asyncio import sslproto

BUFFER_BYTES = 32 * 1024
"""Two TLS records; with asyncio's own 256 KiB, the pool of connections to the API server alone took 17 MB."""


def shrink_tls_buffers() -> None:
    """Have the TLS connections that asyncio opens from now on read with small buffers.

    asyncio has no setting for it; the size is an attribute of its protocol's class. What a buffer does not
    hold is read with the next call.
    """
    sslproto.SSLProtocol.max_size = BUFFER_BYTES
