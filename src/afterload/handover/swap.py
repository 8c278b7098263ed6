"""Takes a connection out from under a server that goes on believing it has it.

A server that ran our application does things to its socket afterwards: it writes a head and a last
chunk, shuts the socket down, drains it, closes it, or, after an error, writes an error page. Holding a
second descriptor of the same connection (a bare ``dup``) saves it from ``close`` only; ``shutdown``
acts on the connection itself, whoever else holds it. So the *number* the server uses is pointed
elsewhere:

    ours = dup(fd)                  the connection, now held by us as well
    near, far = socketpair()        a dummy; far is half-closed: who reads near reads the end at once
    dup2(near, fd)                  atomic: from here on the server's number means the dummy

What the server writes lands in ``far`` and is thrown away. Its shutdown and close hit the dummy. Its
drain (gunicorn from 26, Werkzeug) reads an end of file and costs no time. ``far`` stays open until the
server has written what it has to say, so that it sees no EPIPE and logs nothing.

This is correct only while nothing has the number registered with an epoll: a registration follows the
*connection*, not the number, would go on firing for our viewer, and could no longer be removed. The
servers we do this to unregister a connection before they run the application (docs/decisions/0001).
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct

__all__ = ["Sink", "swap"]

_DRAIN = 65536
# select(2) knows no descriptor from this number on, and some code in applications still uses it.
_ABOVE = 1024
# struct timeval, 1 s. An error page larger than the dummy's buffer (the Flask debugger can make one)
# must fail, not hold a server thread for ever.
_PATIENCE = struct.pack("@ll", 1, 0)


class Sink:
    """The far end of the dummy: swallows what the server writes, until closed or forgotten."""

    __slots__ = ("_far",)

    def __init__(self, far: socket.socket) -> None:
        self._far = far

    def close(self) -> None:
        """Let go of the dummy. May be called more than once."""
        far = self._far
        if far.fileno() < 0:
            return
        # Closed with bytes unread, a Unix socket gives its peer ECONNRESET instead of an end of file.
        with contextlib.suppress(OSError):
            while far.recv(_DRAIN):
                pass
        far.close()

    def __del__(self) -> None:
        # A server that never calls close() on the body must not cost a descriptor.
        self.close()


def swap(connection: socket.socket) -> tuple[socket.socket, Sink]:
    """Take `connection` away from its owner, whole or not at all.

    Args:
        connection: A plain connected stream socket, registered with no epoll.

    Returns:
        Our own socket for the connection (non-blocking, closed on exec), and the sink to be kept until the
        owner has written its last.

    Raises:
        OSError: No descriptor left, or the connection is closed already. Nothing was changed.
    """
    fd = connection.fileno()
    if fd < 0:
        raise OSError("the connection is closed already")
    with contextlib.ExitStack() as undo:
        ours = _dup(fd)
        undo.callback(os.close, ours)
        near, far = socket.socketpair()
        undo.callback(far.close)
        with near:
            near.setblocking(True)  # whatever socket.setdefaulttimeout() says
            near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _PATIENCE)
            far.setblocking(False)
            far.shutdown(socket.SHUT_WR)
            os.dup2(near.fileno(), fd, inheritable=False)
        undo.pop_all()
    # Only now: non-blocking is a property of the connection, and until the dup2 the server had it too.
    # Family, type and protocol are given, so that no system call can fail here.
    taken = socket.socket(connection.family, connection.type, connection.proto, fileno=ours)
    taken.setblocking(False)
    return taken, Sink(far)


def _dup(fd: int) -> int:
    """A duplicate for a viewer, out of the way of everybody else's descriptors.

    A server that finds none left when it accepts a connection may end (gunicorn's threaded worker does), and
    all its viewers with it.
    """
    import fcntl  # neither is there on Windows, where nothing is swapped
    import resource

    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if limit == resource.RLIM_INFINITY or limit >= 2 * _ABOVE:
        return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _ABOVE)
    ours = os.dup(fd)
    if ours >= limit * 3 // 4:
        os.close(ours)
        raise OSError(errno.EMFILE, f"the rest of {limit} descriptors (ulimit -n) is left to the server")
    return ours
