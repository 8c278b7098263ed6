"""A connection as it is, byte for byte: HTTP libraries hide what these tests are about."""

from __future__ import annotations

import json
import socket
import ssl
from types import TracebackType
from typing import Any, Self

from tests.servers.process import HOST, Server

PATIENCE = 20.0


class Raw:
    """One connection to a server, with everything it has sent so far.

    Attributes:
        data: all bytes received.
    """

    def __init__(self, where: Server | str | tuple[str, int], *, tls: bool = False) -> None:
        if isinstance(where, Server):
            where = (HOST, where.port)
        if isinstance(where, str):
            plain = socket.socket(socket.AF_UNIX)
            plain.settimeout(PATIENCE)
            plain.connect(where)
        else:
            plain = socket.create_connection(where, timeout=PATIENCE)
        self.data = b""
        self.sock: socket.socket = plain
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            self.sock = context.wrap_socket(plain)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self.sock.close()

    def ask(
        self,
        path: str,
        *,
        method: str = "GET",
        version: str = "HTTP/1.1",
        headers: dict[str, str] | None = None,
        behind: bytes = b"",
    ) -> Self:
        """Send a request, and `behind` in the same segment."""
        lines = [f"{method} {path} {version}", "Host: test"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        self.sock.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + behind)
        return self

    def until(self, mark: bytes, count: int = 1) -> bytes:
        """Read until `mark` has come `count` times; everything received."""
        while self.data.count(mark) < count:
            more = self.sock.recv(65536)
            if not more:
                raise AssertionError(f"ended without {mark!r}: {self.data!r}")
            self.data += more
        return self.data

    def rest(self) -> bytes:
        """Read to the end; everything received."""
        while more := self.sock.recv(65536):
            self.data += more
        return self.data

    def silent(self) -> bool:
        """Whether nothing is there to read now, not even an end."""
        self.sock.setblocking(False)
        try:
            more = self.sock.recv(65536)
        except (BlockingIOError, ssl.SSLWantReadError):
            return True
        finally:
            self.sock.settimeout(PATIENCE)
        self.data += more
        return False

    @property
    def head(self) -> bytes:
        return self.data.partition(b"\r\n\r\n")[0]

    @property
    def body(self) -> bytes:
        return self.data.partition(b"\r\n\r\n")[2]


def get(
    where: Server | str | tuple[str, int],
    path: str,
    *,
    tls: bool = False,
    method: str = "GET",
    headers: dict[str, str] | None = None,
) -> Raw:
    """One whole answer, on a connection of its own."""
    with Raw(where, tls=tls) as raw:
        raw.ask(path, method=method, headers={"Connection": "close", **(headers or {})}).rest()
        return raw


def get_json(where: Server | str | tuple[str, int], path: str, *, tls: bool = False) -> Any:
    return json.loads(get(where, path, tls=tls).body)


def dechunked(body: bytes) -> bytes:
    """What a body in chunks holds; it has to be whole."""
    found, at = [], 0
    while True:
        line = body.index(b"\r\n", at)
        start, at = line + 2, line + 2 + int(body[at:line], 16)
        found.append(body[start:at])
        assert body[at : at + 2] == b"\r\n"
        at += 2
        if not found[-1]:
            assert at == len(body)
            return b"".join(found)
