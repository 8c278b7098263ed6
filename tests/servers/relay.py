"""A TCP relay in front of a server, whose lines a test can cut: what a train in a tunnel does to a page."""

from __future__ import annotations

import contextlib
import selectors
import socket
import struct
import threading
from types import TracebackType
from typing import Self

# closed with this linger of 0 s, a line ends with a reset
RESET = struct.pack("ii", 1, 0)


class Relay:
    """Passes bytes on, both ways, between its own port and a server's.

    Args:
        port: of the server, on loopback.

    Attributes:
        unplugged: set to true to have new lines end at once, until it is false again.
    """

    def __init__(self, port: int) -> None:
        self.unplugged = False
        self._to = ("127.0.0.1", port)
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._peers: dict[socket.socket, socket.socket] = {}
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="relay", daemon=True)

    @property
    def url(self) -> str:
        """Where it listens, without a slash at its end."""
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def cut(self, *, reset: bool = False) -> int:
        """Cuts every line that is open now; how many there were. New ones are passed on.

        Args:
            reset: cut them by RST, as a process that was killed or a firewall may, and not by FIN.
        """
        with self._lock:
            lines = list(self._peers)
            for end in lines:
                self._drop(end, reset=reset)
        return len(lines) // 2

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join(5)
        self.cut()
        self._listener.close()
        self._selector.close()

    def _run(self) -> None:
        while not self._over.is_set():
            for key, _ in self._selector.select(0.05):
                with self._lock:
                    if key.fileobj is self._listener:
                        self._accept()
                    elif key.fileobj in self._peers:
                        self._pass_on(key.fileobj)  # type: ignore[arg-type]

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        if self.unplugged:
            client.close()
            return
        try:
            server = socket.create_connection(self._to, timeout=5)
        except OSError:
            client.close()
            return
        for end, other in ((client, server), (server, client)):
            end.settimeout(5)
            self._peers[end] = other
            self._selector.register(end, selectors.EVENT_READ)

    def _pass_on(self, end: socket.socket) -> None:
        try:
            data = end.recv(65536)
            if data:
                self._peers[end].sendall(data)
        except OSError:
            data = b""
        if not data:
            self._drop(end)

    def _drop(self, end: socket.socket, *, reset: bool = False) -> None:
        other = self._peers.pop(end, None)
        if other is None:
            return
        del self._peers[other]
        for sock in (end, other):
            self._selector.unregister(sock)
            with contextlib.suppress(OSError):
                if reset:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                else:
                    sock.shutdown(socket.SHUT_RDWR)  # closed with bytes unread it would be a reset
            sock.close()
