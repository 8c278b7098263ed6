"""For every server whose connection cannot be taken: the hub writes into a socket pair.

The hub treats one end as if it were the browser. The server streams what arrives at the other, and so holds
one of its threads for each viewer (which is why `Live` allows only a few of these). One delivery path, one
back-pressure rule: a browser that reads slowly fills the server's socket, then the pair, and then the hub
stops sending.
"""

from __future__ import annotations

import contextlib
import os
import socket
import weakref
from collections.abc import Iterator
from typing import NamedTuple

__all__ = ["Body", "Fallback"]

_SIZE = 65536


class Body(Iterator[bytes]):
    """A response body of what the hub writes, until the hub closes its end.

    Iterating blocks until there is something. `close()` may be called from any thread, at any time, more
    than once; the hub sees the end of the connection at once.
    """

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        _bodies.add(self)

    def __iter__(self) -> Body:
        return self

    def __next__(self) -> bytes:
        try:
            data = self._end.recv(_SIZE)
        except OSError:  # closed under us, or reset by a hub that is gone
            data = b""
        if not data:
            self.close()
            raise StopIteration
        return data

    def close(self) -> None:
        """Tell the hub that the viewer has gone, and free the descriptor."""
        end = self._end
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)  # wakes a recv() in another thread; close() alone does not
        # Closed with bytes unread, a Unix socket gives its peer ECONNRESET; the hub should see a plain end.
        with contextlib.suppress(OSError):
            while end.recv(_SIZE, socket.MSG_DONTWAIT):
                pass
        end.close()

    def __del__(self) -> None:
        self.close()


class Fallback(NamedTuple):
    """Both ends of one streamed response.

    Attributes:
        hub_end: For the hub, non-blocking; it stands for the browser's connection.
        body: For the server, as the response's body.
    """

    hub_end: socket.socket
    body: Body

    @classmethod
    def open(cls) -> Fallback:
        """Make a pair.

        Raises:
            OSError: No descriptor left.
        """
        hub_end, end = socket.socketpair()
        hub_end.setblocking(False)
        end.setblocking(True)  # whatever socket.setdefaulttimeout() says
        return cls(hub_end, Body(end))


_bodies: weakref.WeakSet[Body] = weakref.WeakSet()


def _forked() -> None:
    # A child's copy would keep the pair open after its parent's end is closed. No shutdown() here: that
    # would end the parent's stream.
    for body in list(_bodies):
        body._end.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
