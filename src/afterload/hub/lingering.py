"""How a connection is closed in order: with our FIN, and once the peer has sent its own."""

from __future__ import annotations

import socket

from .poller import Poller

DRAIN = 2.0  # seconds that a viewer may take to close after its last bytes
_STEP = 65_536


class Lingering:
    """Sockets that were sent everything, each until its peer has closed or time is up.

    Args:
        poller: waits for them.
    """

    def __init__(self, poller: Poller) -> None:
        self._poller = poller
        self._deadlines: dict[socket.socket, float] = {}

    def __len__(self) -> int:
        return len(self._deadlines)

    def add(self, sock: socket.socket) -> None:
        """Sends the FIN; the socket is this one's from now on."""
        try:
            sock.shutdown(socket.SHUT_WR)
        except OSError:
            sock.close()
            return
        self._poller.register(sock, lambda mask: self._read(sock))
        self._deadlines[sock] = self._poller.clock() + DRAIN

    def tick(self, now: float) -> None:
        """Closes those whose time is up."""
        for sock, deadline in list(self._deadlines.items()):
            if now > deadline:
                self._close(sock)

    def release(self) -> None:
        """Closes all of them without a word."""
        for sock in self._deadlines:
            sock.close()
        self._deadlines.clear()

    def _read(self, sock: socket.socket) -> None:
        try:
            data = sock.recv(_STEP)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._close(sock)

    def _close(self, sock: socket.socket) -> None:
        if self._deadlines.pop(sock, None) is not None:
            self._poller.unregister(sock)
            sock.close()
