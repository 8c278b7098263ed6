"""``python -m tests.deploy.published FD PORT ...``: what ``docker run --publish`` does, from inside a pod.

Each FD is a socket that listens outside of the pod; its connections are passed on to PORT inside.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from pathlib import Path

# A page that left without a word is the app's business, not that of the line to it.
_GONE = (OSError, EOFError)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(*_GONE):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.write_eof()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int) -> None:
    with contextlib.suppress(*_GONE):
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", port)
        back = asyncio.create_task(_copy(inner_reader, writer))
        there = asyncio.create_task(_copy(reader, inner_writer))
        # The answer may end while the browser still says nothing, and then it is over; not the other way round.
        await back
        there.cancel()
        inner_writer.close()
    writer.close()


async def main(*pairs: str) -> None:
    # So that nobody needs to be root here for a server on port 80.
    Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").write_text("0")
    servers = []
    for fd, port in zip(pairs[::2], map(int, pairs[1::2]), strict=True):
        listener = socket.socket(fileno=int(fd))
        servers.append(await asyncio.start_server(lambda r, w, p=port: _pass_on(r, w, p), sock=listener))
    print("published", flush=True)
    await asyncio.gather(*(server.serve_forever() for server in servers))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
