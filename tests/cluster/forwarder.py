"""Forwards connections from one address to another: `forwarder.py HOST:PORT HOST:PORT`."""

import asyncio
import sys

_CHUNK_BYTES = 65_536


async def forward(listen: str, target: str) -> None:
    """Accept connections at one address and carry their bytes to and from another, for ever."""
    target_host, target_port = target.rsplit(":", 1)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection(target_host, int(target_port))
        except OSError:
            writer.close()  # the client sees a closed connection, as it would without a forwarder
            return
        await asyncio.gather(_copy(reader, far_writer), _copy(far_reader, writer))

    host, port = listen.rsplit(":", 1)
    server = await asyncio.start_server(serve, host, int(port))
    async with server:
        await server.serve_forever()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Carry bytes until one side closes, then close the other."""
    try:
        while chunk := await reader.read(_CHUNK_BYTES):
            writer.write(chunk)
            await writer.drain()
    except ConnectionError:
        return  # a reset ends the connection just as a close does
    finally:
        writer.close()


if __name__ == "__main__":
    asyncio.run(forward(*sys.argv[1:]))
