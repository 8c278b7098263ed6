"""A reader of whole responses: when their first byte came, and what was in them."""

from __future__ import annotations

import re
import selectors
import socket
import time
from dataclasses import dataclass, field

from .system import BenchError

# Between two looks at who has sent something. To be woken by each small write is what no network does, and it is
# the slower sender that would pay more.
PAUSE = 0.001
_ROW = re.compile(rb"@(\d+)@")
# A document says there, now and then, what it shows: the same rows once more.
_WITHOUT_SCRIPTS = re.compile(rb"<noscript>.*?</noscript>", re.DOTALL)


@dataclass
class Reading:
    """One response on its way.

    Attributes:
        asked: when.
        first: seconds until the first byte behind the head.
        parts: what has come.
    """

    asked: float
    first: float | None = None
    parts: list[bytes] = field(default_factory=list)

    def take(self, data: bytes, at: float) -> None:
        self.parts.append(data)
        if self.first is None and b"".join(self.parts).partition(b"\r\n\r\n")[2]:
            self.first = at - self.asked

    def body(self) -> bytes:
        """What came behind the head.

        Raises:
            BenchError: it is none of a 200, or not whole.
        """
        head, _, body = b"".join(self.parts).partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200 "):
            raise BenchError(f"answered {head[:100]!r}")
        return unchunked(body) if b"transfer-encoding: chunked" in head.lower() else body

    def rows(self) -> list[int]:
        """The numbers of the rows in it, for a browser that runs scripts."""
        return [int(number) for number in _ROW.findall(_WITHOUT_SCRIPTS.sub(b"", self.body()))]


def unchunked(body: bytes) -> bytes:
    """What is in a chunked body.

    Raises:
        BenchError: it ends too early.
    """
    data: list[bytes] = []
    at = 0
    while True:
        line = body.find(b"\r\n", at)
        size = int(body[at:line], 16) if line > 0 else -1
        at = line + 2
        if size == 0:
            return b"".join(data)
        if size < 0 or len(body) < at + size + 2:
            raise BenchError(f"a chunked body was cut after {len(body):,} bytes")
        data.append(body[at : at + size])
        at += size + 2


def read(port: int, path: str, viewers: int = 1, timeout: float = 60.0) -> list[Reading]:
    """Asks `viewers` times at once, and reads each answer until the server closes it.

    Raises:
        BenchError: an answer has no end in time.
    """
    request = (
        f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAccept: text/html\r\nConnection: close\r\n\r\n"
    )
    found, until = [], time.monotonic() + timeout
    with selectors.DefaultSelector() as selector:
        try:
            for _ in range(viewers):
                sock = socket.create_connection(("127.0.0.1", port), timeout)
                found.append(Reading(time.monotonic()))
                selector.register(sock, selectors.EVENT_READ, found[-1])
                sock.sendall(request.encode())
            while keys := [key for key, _ in selector.select(until - time.monotonic())]:
                at = time.monotonic()
                for key in keys:
                    assert isinstance(key.fileobj, socket.socket)
                    data = key.fileobj.recv(1 << 18)
                    if data:
                        key.data.take(data, at)
                    else:
                        selector.unregister(key.fileobj)
                        key.fileobj.close()
                if not selector.get_map():
                    return found
                if all(reading.first is not None for reading in found):
                    time.sleep(PAUSE)
            raise BenchError(f"{path} has no end after {timeout:.0f} s")
        finally:
            for key in list(selector.get_map().values()):
                assert isinstance(key.fileobj, socket.socket)
                key.fileobj.close()
