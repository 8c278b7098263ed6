"""Answers a stream request under a WSGI server: the framework runs to its end, then the hub takes over.

`Middleware` wraps the app outermost. A view that wants its response to be a stream leaves a `Stream` in the
environ; when the framework is through (its hooks run, its session saved, its contexts popped) the connection is
taken from the server and given to the hub, which writes the response head of the framework and everything after.
Where the connection cannot be taken, the hub writes into a socket pair, and the server streams its other end.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from dataclasses import replace
from email.utils import formatdate
from typing import TYPE_CHECKING, Any

from . import handover
from .hub.viewer import Follow
from .live import Live
from .position import Position

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

logger = logging.getLogger("afterload.wsgi")

HEAD = "afterload.head"
STREAM = "afterload.stream"
# Of the connection, not of the response (RFC 9110 §7.6.1), or replaced by "until the connection closes".
_HOP_BY_HOP = frozenset(
    "connection keep-alive proxy-connection te trailer transfer-encoding upgrade content-length".split()
)

Headers = list[tuple[str, str]]


class Middleware:
    """Wraps a WSGI app whose views answer with streams of `live`.

    Args:
        app: the app.
        live: its hub, loops and settings.
    """

    def __init__(self, app: WSGIApplication, live: Live) -> None:
        self._app = app
        self._live = live
        self._fallbacks = 0
        self._lock = threading.Lock()
        self._warned = False

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        # The position of a page is taken before anything is read for it, so that nothing falls in between.
        hub = self._live.hub
        environ[HEAD] = Position(hub.log.epoch, hub.head(), rendered=True)
        stream: tuple[str, Headers] | None = None

        def start(status: str, headers: Headers, exc_info: Any = None) -> Callable[[bytes], object]:
            nonlocal stream
            if STREAM in environ and status.startswith("200") and exc_info is None:
                stream = status, headers
                return lambda data: None
            stream = None
            return start_response(status, headers, exc_info) if exc_info else start_response(status, headers)

        body = self._app(environ, start)
        if stream is None:
            return body
        close = getattr(body, "close", None)
        if close is not None:
            close()
        return self._hold(environ, start_response, environ[STREAM](), *stream)

    def _hold(
        self,
        environ: WSGIEnvironment,
        start_response: StartResponse,
        follow: Follow,
        status: str,
        headers: Headers,
    ) -> Iterable[bytes]:
        hub = self._live.hub
        follow = replace(follow, address=str(environ.get("REMOTE_ADDR", "")))
        if follow.hold and (self._conflict(environ, start_response) or not hub.room(follow.address)):
            follow = replace(follow, hold=False)
        taken = handover.take(environ, start_response)
        if isinstance(taken, handover.Taken):
            hub.adopt(taken.sock, replace(follow, head=_head(status, headers)))
            hub.count("handovers")
            return taken.finish(status, headers)
        logger.debug("afterload: answered through the server, as %s", taken.reason)
        held = follow.hold and self._take_slot(environ)
        fallback = handover.Fallback.open(environ)
        hub.adopt(fallback.hub_end, replace(follow, hold=held))
        hub.count("fallbacks")
        start_response(status, headers)
        return _Body(fallback.body, self._free_slot if held else None)

    def _conflict(self, environ: WSGIEnvironment, start_response: StartResponse) -> bool:
        conflict = handover.conflict(environ, start_response)
        if conflict is not None and not self._warned:
            self._warned = True
            logger.error("afterload: pages get short streams and follow with a delay: %s", conflict)
        return conflict is not None

    def _take_slot(self, environ: WSGIEnvironment) -> bool:
        """Whether a stream may hold the server's thread: never its last one."""
        most = self._live.settings.fallback_viewers
        if "SERVER_SOFTWARE" not in environ:
            most = self._live.settings.max_viewers  # a test client: there is no server
        elif not environ.get("wsgi.multithread"):
            most = 0
        with self._lock:
            if self._fallbacks >= most:
                return False
            self._fallbacks += 1
            return True

    def _free_slot(self) -> None:
        with self._lock:
            self._fallbacks -= 1


class _Body:
    """A fallback's body, that gives its slot back once."""

    def __init__(self, body: handover.Body, free: Callable[[], None] | None) -> None:
        self._body = body
        self._free = free

    def __iter__(self) -> _Body:
        return self

    def __next__(self) -> bytes:
        return next(self._body)

    def close(self) -> None:
        self._body.close()
        free, self._free = self._free, None
        if free is not None:
            free()


def _head(status: str, headers: Headers) -> bytes:
    lines = [f"HTTP/1.1 {status}"]
    names = set()
    for name, value in headers:
        if name.lower() not in _HOP_BY_HOP:
            names.add(name.lower())
            lines.append(f"{name}: {value}")
    if "date" not in names:
        lines.append(f"Date: {formatdate(usegmt=True)}")
    lines.append("Connection: close")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
