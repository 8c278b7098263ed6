"""Handover: taking the client's connection away from a WSGI server, to give it to the hub.

    watch(environ)                                      # before the framework runs
    found = find(environ, start_response)               # after it has run to its end
    start_response(status, headers)                     # through whatever wraps the server's own
    if isinstance(found, Claim): found.head()           # what has arrived at the server
    taken = take(found)
    if isinstance(taken, Taken):
        hub.adopt(taken.sock, ...)                      # the hub writes the whole response, head included
        return taken.body                               # the server believes it has answered
    ...                                                 # Refused: answer as usual, see fallback.py

No server that is taken from writes anything before the first bytes of a body. So the connection is taken once the
response is started: whatever fails before that is answered by the server, and what an error tracker or a
tracer around the app adds to the head is in it.

`swap` says how it is done; there is one module a server, which knows where that server keeps what is needed
and what forbids it. No server is imported: they are found through the objects at hand and `sys.modules`.
docs/decisions/0001-handover.md has what each server was seen to do.
"""

from __future__ import annotations

import errno
import os
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from . import gunicorn, request_body, werkzeug
from .claim import Claim, Headers, Refused
from .fallback import Body, Fallback
from .layers import layers
from .swap import Sink, swap

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

__all__ = [
    "Body",
    "Claim",
    "Fallback",
    "Headers",
    "Refused",
    "Taken",
    "find",
    "is_forking",
    "is_loaded",
    "layers",
    "max_requests",
    "several",
    "spare_threads",
    "stopping",
    "take",
    "watch",
    "worker",
]

_SERVERS = (gunicorn, werkzeug)
_OFF = {"off", "0", "no", "false"}
# https://www.rfc-editor.org/rfc/rfc9110#section-9.3.2, and 9.3.6
_WITHOUT_BODY = {"HEAD", "CONNECT"}


class _Answered(list[bytes]):
    """An empty body that keeps the dummy's far end open until the server is through with it."""

    __slots__ = ("_sink",)

    def __init__(self, sink: Sink) -> None:
        super().__init__()
        self._sink = sink

    def close(self) -> None:
        self._sink.close()


@dataclass(frozen=True)
class Taken:
    """A connection that is ours: nothing the server does from here on reaches the client.

    Attributes:
        sock: The connection: non-blocking, not inherited. Closing it is up to the caller, whatever becomes of the
            request.
        server: What it was taken from, such as ``gunicorn 27.0.1 gthread``.
        body: The body to return to the server: empty, with a ``close()`` as WSGI has it.
    """

    sock: socket.socket
    server: str
    body: list[bytes]
    _sink: Sink = field(repr=False)

    def close(self) -> None:
        """Let go of everything, when the connection could not be passed on after all."""
        self.sock.close()
        self._sink.close()


def watch(environ: WSGIEnvironment) -> None:
    """Count what is read of the request's body, so that `find` knows whether it was read whole.

    Call it before the framework runs.

    Args:
        environ: As the server gave it. Where a connection may be taken, its ``wsgi.input`` is replaced.
    """
    if request_body.has_body(environ) and _off() is None:
        request_body.watch(environ)


def find(environ: WSGIEnvironment, start_response: StartResponse) -> Claim | Refused:
    """Find the request's connection, and whether it may be taken.

    Call it in the thread that runs the request, before the response is started. Nothing is changed by it, but that of
    a request that is fit otherwise, the rest of the body is read (request_body.py).

    Args:
        environ: As the server gave it, and as `watch` has left it.
        start_response: The server's own, or one that wraps it.

    Returns:
        A `Claim` for `take`, or `Refused` with the reason.
    """
    refused = _off() or _unfit(environ)
    if refused is not None:
        return refused
    for server in _SERVERS:
        claim = server.probe(environ, start_response)
        if claim is not None:
            break
    else:
        name = str(environ.get("SERVER_SOFTWARE", "")) or "this server (it gives no SERVER_SOFTWARE)"
        return Refused(f"{name} is neither gunicorn nor Werkzeug's development server", lasting=True)
    if isinstance(claim, Refused):
        return claim
    reason = _not_plain(claim.connection)
    return claim if reason is None else Refused(reason, lasting=True)


def take(claim: Claim) -> Taken | Refused:
    """Take a connection that was found, whole or not at all.

    Call it in the thread that runs the request, once `claim.head` has said what the response is: from here on
    the client gets nothing of the server's.

    Returns:
        `Taken`, or `Refused` with the reason. When refused, the connection is untouched, and the server
        waits for the body of the response that was started.
    """
    try:
        sock, sink = swap(claim.connection)
    except OSError as error:
        full = error.errno in (errno.EMFILE, errno.ENFILE)
        return Refused(f"the connection could not be taken: {error}", lasting=full)
    claim.close_after()
    return Taken(sock, claim.server, _Answered(sink), sink)


def several(environ: WSGIEnvironment, start_response: StartResponse) -> str | None:
    """Say why the viewers of shared channels should not be held by this process.

    Args:
        environ: As the server gave it.
        start_response: The server's own; gunicorn's settings cannot be seen through a middleware's.

    Returns:
        What the server does, for a log; None if this is its only process, and it stays.
    """
    found = gunicorn.several(start_response)
    if found is None and environ.get("wsgi.multiprocess"):
        name = str(environ.get("SERVER_SOFTWARE", "")) or "the server"
        found = f"{name} runs several processes (wsgi.multiprocess is true)"
    return found


def max_requests(start_response: StartResponse) -> int:
    """After how many requests the server ends this process; 0 if it does not say so.

    Args:
        start_response: The server's own.
    """
    return gunicorn.max_requests(start_response)


def worker() -> bool | None:
    """Whether this process, which a server runs for its requests, is one of several; known before the first request.

    Returns:
        None if it is not known to be one that answers requests.
    """
    return gunicorn.worker()


def is_loaded() -> bool:
    """Whether the server that this process is of has loaded the app to its end."""
    return gunicorn.is_loaded()


def is_forking() -> bool:
    """Whether this process was just forked by a server that has loaded the app before."""
    return gunicorn.is_forking()


def spare_threads(environ: WSGIEnvironment, start_response: StartResponse) -> int | None:
    """How many of its threads the server can do without and still answer requests.

    Args:
        environ: As the server gave it.
        start_response: The server's own.

    Returns:
        None if it has several, and does not say how many.
    """
    if not environ.get("wsgi.multithread"):
        return 0
    return gunicorn.spare_threads(start_response)


def stopping() -> bool | None:
    """Whether the server has been told to end, and waits for its requests to do so.

    Returns:
        None if it is a server that does not say.
    """
    return gunicorn.stopping()


def _off() -> Refused | None:
    if os.environ.get("AFTERLOAD_HANDOVER", "").strip().lower() in _OFF:
        return Refused("handover is switched off (AFTERLOAD_HANDOVER)", lasting=True)
    if sys.platform != "linux":
        return Refused(f"handover is tried on Linux only, and this is {sys.platform}", lasting=True)
    return None


def _unfit(environ: Mapping[str, Any]) -> Refused | None:
    """Why a request is not one to take a connection for, whatever the server."""
    method = environ.get("REQUEST_METHOD")
    if method in _WITHOUT_BODY:
        return Refused(f"the answer to {method!r} has no body")
    protocol = environ.get("SERVER_PROTOCOL")
    if protocol not in ("HTTP/1.0", "HTTP/1.1"):
        return Refused(f"the request came by {protocol!r}, not HTTP/1")
    return None


def _not_plain(connection: socket.socket) -> str | None:
    """Why a connection is not one whose bytes are the client's bytes.

    The socket says so, not `wsgi.url_scheme`: behind a proxy that one is "https" with a plain socket.
    """
    kind = type(connection)
    # By name as well: gevent puts its own class in the place of socket.socket.
    if kind is not socket.socket or kind.__module__ != "socket":
        return f"the connection is a {kind.__module__}.{kind.__qualname__}, not a plain socket"
    if connection.type != socket.SOCK_STREAM or connection.family not in _STREAMS:
        return f"the connection is {connection.family.name}, {connection.type.name}, not TCP or a Unix stream"
    return None


_STREAMS = (socket.AF_INET, socket.AF_INET6, getattr(socket, "AF_UNIX", None))
