"""What a client sends with its request, read to its end before the connection is taken.

A viewer that sends is one too many: what is left of a form would arrive at the hub, which takes more than a little for
a flood; and a connection that is closed with bytes unread is reset, which may destroy what the browser has yet to read.
So a request that has a body is taken only when all of it was read.

Werkzeug's server does not know what was read of it, and views read forms lazily, or not at all. So `watch` puts a
`RequestBody` in the place of ``wsgi.input``, which counts, and `read_rest` reads what the framework has left. A
streamed template may still ask for that, so it is kept.

What stands around the app may put an input of its own there first. If that has other bytes than the client sent, the
count is wrong, and what was not read goes to the hub, which discards it.
"""

from __future__ import annotations

import io
import socket
from typing import TYPE_CHECKING, Any

from .claim import Refused

if TYPE_CHECKING:
    from wsgiref.types import WSGIEnvironment

__all__ = ["MOST", "PATIENCE", "RequestBody", "has_body", "read_rest", "watch"]

BODY = "afterload.body"
# Half of what a form may have in Werkzeug. It is kept in memory until the request is through.
MOST = 262_144
# Seconds for which the client may be silent meanwhile, as gunicorn has it for what it reads of a body itself. A view
# that reads a form waits for longer; but here a view may wait that reads none.
PATIENCE = 5.0
_STEP = 65_536
# Of servers that have connections which can be taken; what others give is left alone.
_SOCKETS = {"gunicorn.socket", "werkzeug.socket"}


class RequestBody(io.BufferedIOBase):
    """A request's input that knows how much of it is still to come.

    Args:
        source: the server's own.
        length: bytes in it, or None if the source ends by itself.
    """

    def __init__(self, source: Any, length: int | None) -> None:
        self._source = source
        self._left = length
        self._ahead = io.BytesIO()
        self._failure: str | None = None

    def readable(self) -> bool:
        """As files have it."""
        return True

    def read(self, size: int | None = -1, /) -> bytes:
        """As files have it; never more than the body."""
        return self._read("read", size)

    def read1(self, size: int = -1, /) -> bytes:
        """As files have it."""
        return self._read("read", size)

    def readline(self, size: int | None = -1, /) -> bytes:
        """As files have it; never more than the body."""
        return self._read("readline", size)

    def _read(self, how: str, size: int | None) -> bytes:
        size = -1 if size is None else size
        data: bytes = getattr(self._ahead, how)(size)
        if len(data) == size or (how == "readline" and data.endswith(b"\n")):
            return data
        return data + self._from_source(how, size - len(data) if size >= 0 else -1)

    def _from_source(self, how: str, size: int) -> bytes:
        if self._failure is not None:
            raise OSError(self._failure)
        if self._left == 0:
            return b""
        if self._left is not None:
            size = self._left if size < 0 else min(size, self._left)
        try:
            data: bytes = getattr(self._source, how)(*((size,) if size >= 0 else ()))
        except Exception as error:
            # Where in the body the server stands now is not known, so nobody may read on.
            self._failure = f"the request's body could not be read to its end: {error!r}"
            raise
        if self._left is not None:
            self._left -= len(data)
        elif not data:
            self._left = 0
        return data

    def read_ahead(self, most: int) -> str | None:
        """Reads what is left, if that is no more than so many bytes, and keeps it for `read`.

        Returns:
            Why it could not be read to its end, or None.
        """
        if self._left is not None and self._left > most:
            return f"{self._left} bytes of the request's body were left unread, more than {most}"
        at, count = self._ahead.tell(), 0
        self._ahead.seek(0, io.SEEK_END)
        try:
            while self._left != 0 and count <= most:
                data = self._from_source("read", _STEP)
                if not data:
                    break
                count += self._ahead.write(data)
        except Exception:  # noqa: BLE001 - each server's parser has its own, and it is returned
            return self._failure
        finally:
            self._ahead.seek(at)
        if count > most:
            return f"more than {most} bytes of the request's body were left unread"
        return f"the request's body ended {self._left} bytes early" if self._left else None


def watch(environ: WSGIEnvironment) -> None:
    """Count what is read of the body of a request that has one.

    Args:
        environ: As the server gave it. Its ``wsgi.input`` is replaced if the server is one whose connections can be
            taken.
    """
    if not _SOCKETS & environ.keys():
        return
    length = None
    if not environ.get("HTTP_TRANSFER_ENCODING"):
        try:
            length = int(environ["CONTENT_LENGTH"])
        except ValueError:
            return
        if length < 0:
            return
    elif not environ.get("wsgi.input_terminated"):
        return
    environ[BODY] = environ["wsgi.input"] = RequestBody(environ["wsgi.input"], length)


def read_rest(environ: WSGIEnvironment, connection: socket.socket) -> Refused | None:
    """Read what the framework has left of the request's body; the last thing before a connection is found fit.

    Args:
        environ: As it was given to `watch`.
        connection: The server's, that the body comes from.

    Returns:
        `Refused` if the end was not reached.
    """
    body = environ.get(BODY)
    if body is None:
        unknown = Refused("the request has a body, and what was read of it is not known")
        return unknown if has_body(environ) else None
    before = connection.gettimeout()
    connection.settimeout(PATIENCE)
    try:
        reason = body.read_ahead(MOST)
    finally:
        connection.settimeout(before)
    return None if reason is None else Refused(reason)


def has_body(environ: WSGIEnvironment) -> bool:
    """Whether the client sends anything with its request."""
    return environ.get("CONTENT_LENGTH") not in (None, "", "0") or bool(environ.get("HTTP_TRANSFER_ENCODING"))
