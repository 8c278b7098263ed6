"""For every server whose connection cannot be taken: the hub writes into a socket pair.

The hub treats one end as if it were the browser. The server streams what arrives at the other, and so holds
one of its threads for each viewer (which is why `Live` allows only a few of these). One delivery path, one
back-pressure rule: a browser that reads slowly fills the server's socket, then the pair, and then the hub
stops sending.

A server that streams a response notices that the client has gone only when it writes, a heartbeat later or
two; until then the viewer would go on holding its thread. Where the server shows us the connection without
letting it go (gunicorn and Werkzeug doing TLS), the body watches it, and ends at once.

A server that is told to end waits for its responses, and this one would not: so the body also asks, once a
second, whether it should.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import weakref
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from wsgiref.types import WSGIEnvironment

__all__ = ["Body", "Fallback"]

_SIZE = 65536
_LOOK = 1.0  # seconds between two looks at whether the server is ending


def _never() -> bool | None:
    return None


class Body(Iterator[bytes]):
    """A response body of what the hub writes, until the hub closes its end or the client has gone.

    Iterating blocks until there is something. As with any WSGI body, the thread that iterates also closes.
    """

    def __init__(
        self, end: socket.socket, connection: int | None = None, stopping: Callable[[], bool | None] = _never
    ) -> None:
        self._end = end
        self._stopping = stopping
        self._poll = None
        if connection is not None and hasattr(select, "POLLRDHUP"):
            self._poll = select.poll()
            self._poll.register(end, select.POLLIN)
            # Errors and hang-ups are always reported. Readable is not asked for: what a client sends
            # behind its request is nothing to us, and under TLS it may be a mere key update.
            self._poll.register(connection, select.POLLRDHUP)
        self._connection = connection
        _bodies.add(self)

    def __iter__(self) -> Body:
        return self

    def __next__(self) -> bytes:
        data = self._next()
        if not data:
            self.close()
            raise StopIteration
        return data

    def _next(self) -> bytes:
        """What the hub wrote next; nothing at the end."""
        while True:
            stopping = self._stopping()
            wait = 0.0 if stopping else _LOOK  # what is there already still goes out
            try:
                if self._poll is not None:
                    ready = self._poll.poll(wait * 1000)
                    if any(fd == self._connection for fd, _ in ready):
                        return b""
                    if not ready:
                        raise TimeoutError
                else:
                    # Not poll() here: under gevent it would stop every greenlet, and recv() does not.
                    self._end.settimeout(wait)
                return self._end.recv(_SIZE)
            except (TimeoutError, BlockingIOError):
                if stopping:
                    return b""
            except OSError:  # closed already, or reset by a hub that is gone
                return b""

    def close(self) -> None:
        """Tell the hub that the viewer has gone, and free the descriptor. May be called more than once."""
        self._poll = None
        end = self._end
        if end.fileno() < 0:
            return  # and a body that dies with the interpreter finds no modules to ask
        # Closed with bytes unread, a Unix socket gives its peer ECONNRESET; the hub is to see a plain end.
        with contextlib.suppress(OSError):
            end.setblocking(False)  # for one call there is MSG_DONTWAIT, but not on Windows
            end.shutdown(socket.SHUT_RDWR)
            while end.recv(_SIZE):
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
    def open(
        cls, environ: WSGIEnvironment | None = None, stopping: Callable[[], bool | None] = _never
    ) -> Fallback:
        """Make a pair.

        Args:
            environ: As the server gave it. With it, a client that goes away is noticed at once on servers
                that show their connection; without it, when the server next writes.
            stopping: Whether the server has been told to end. The body ends then, within a second.

        Raises:
            OSError: No descriptor left.
        """
        hub_end, end = socket.socketpair()
        hub_end.setblocking(False)
        end.setblocking(True)  # whatever socket.setdefaulttimeout() says
        return cls(hub_end, Body(end, _connection(environ or {}), stopping))


def _connection(environ: WSGIEnvironment) -> int | None:
    shown = environ.get("gunicorn.socket") or environ.get("werkzeug.socket")
    # Only real sockets: under gevent, waiting in poll() for a number would stop every greenlet.
    if not isinstance(shown, socket.socket) or socket.socket.__module__ != "socket":
        return None
    fd = shown.fileno()
    return fd if fd >= 0 else None


_bodies: weakref.WeakSet[Body] = weakref.WeakSet()


def _forked() -> None:
    # A child's copy would keep the pair open after its parent's end is closed. No shutdown() here: that
    # would end the parent's stream.
    for body in list(_bodies):
        body._end.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
