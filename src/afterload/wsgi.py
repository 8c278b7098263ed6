"""Answers a stream request under a WSGI server: the framework runs to its end, then the hub takes over.

`Middleware` wraps the app outermost. A view that wants its response to be a stream, or a document that goes on
updating itself, leaves a `Stream` in the environ that says what is to be followed. When the framework is through (its
hooks run, its session saved, its contexts popped) that is connected, and the response is started as ever: through
whatever wraps the server's own `start_response`, an error tracker for example. Then the connection is taken from the
server and given to the hub, which writes the head that has arrived at the server and everything after. Where it cannot
be taken, the hub writes to a socket pair, and the server streams the other end.

Whatever fails on the way is logged, and the client gets an answer: until the connection is taken, nothing has
been written; once it is, only the hub writes.
"""

from __future__ import annotations

import contextvars
import itertools
import logging
import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from email.utils import formatdate
from types import FunctionType
from typing import TYPE_CHECKING, Any, Protocol

from . import handover
from .connecting import NoRoom
from .errors import HubError
from .hub.fanout import jittered
from .hub.hub import Hub
from .hub.sending import MSG_DONTWAIT, SEND_FLAGS
from .hub.viewer import Follow
from .live import Live
from .position import Position
from .wire import websocket

if TYPE_CHECKING:
    import socket
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

logger = logging.getLogger("afterload.wsgi")

HEAD = "afterload.head"
STREAM = "afterload.stream"
# Of the connection, not of the response (https://www.rfc-editor.org/rfc/rfc9110#section-7.6.1); or said of a
# body that is not the one sent: ours ends with the connection, and nobody compresses it.
_NOT_OURS = frozenset(
    "connection keep-alive proxy-connection te trailer transfer-encoding upgrade content-length "
    "content-encoding".split()
)
# A client in the app's own process iterates the body itself: no server's thread is held by it.
_TEST_CLIENTS = {"werkzeug.test", "webtest.app", "webtest.lint"}

Headers = list[tuple[str, str]]


class Stream(Protocol):
    """What is to be written behind the head of a response."""

    @property
    def content_type(self) -> str:
        """Of the response; one with another is not this one any more."""

    @property
    def upgrades(self) -> bool:
        """Whether the connection is to become a WebSocket."""

    def may_have(self, status: str) -> bool:
        """Whether a response with this status is still this one."""

    @property
    def alone(self) -> bool:
        """Whether nothing of it is shared with other viewers, nor with other processes."""

    def connect(self, hold: bool) -> Follow:
        """Starts what there is to be started; called once, when the framework is through.

        Args:
            hold: whether there is room for the viewer to stay.

        Raises:
            NoRoom: there is nothing it could be given then.
        """

    def close(self) -> None:
        """Called in the place of `connect` where the response is not answered by it."""


class Middleware:
    """Wraps a WSGI app whose views answer with streams of `live`.

    Args:
        app: the app.
        live: its hub, loops and settings.
    """

    def __init__(self, app: WSGIApplication, live: Live) -> None:
        self._app = app
        self._live = live
        self._slots = _Slots()
        self._lock = threading.Lock()
        self._said: set[str] = set()

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """As WSGI has it."""
        asked = time.monotonic()
        meeting = self._live.meeting
        if not meeting.is_serving:
            self._serve(environ, start_response)
        # The position of a page is taken before anything is read for it, so that nothing falls in between.
        shared = meeting.shared
        environ[HEAD] = Position(shared.epoch, shared.head(), rendered=True)
        handover.watch(environ)
        if _was_a_websocket(environ):
            # The client is to try another wire, and no view is to run for nothing.
            return _said(start_response, "426 Upgrade Required", b"A proxy lets no WebSocket through.\n")
        started = False
        started_stream: tuple[str, Headers, contextvars.Context] | None = None

        def start(status: str, headers: Headers, exc_info: Any = None) -> Callable[[bytes], object]:
            nonlocal started, started_stream
            started = True
            # An error page, or a response that a hook put in the place of the view's, is answered as it is.
            if (
                STREAM in environ
                and environ[STREAM].may_have(status)
                and _is(environ[STREAM].content_type, headers)
            ):
                # The framework's contexts are gone when the response is started, and a tracer around the app
                # may ask, as it could in any other response, which request this is.
                started_stream = status, headers, contextvars.copy_context()
                return lambda data: None
            started_stream = None
            return start_response(status, headers, exc_info) if exc_info else start_response(status, headers)

        try:
            body = self._app(environ, start)
            if not started:
                body = _Begun(body)
        except BaseException:
            _unused(environ)
            raise
        if started_stream is None:
            _unused(environ)
            return body
        _close(body)
        # An app around this one may have a Live too, and must not take it again.
        return self._answer(environ, start_response, environ.pop(STREAM), asked, *started_stream)

    def _answer(
        self,
        environ: WSGIEnvironment,
        start_response: StartResponse,
        stream: Stream,
        asked: float,
        status: str,
        headers: Headers,
        context: contextvars.Context,
    ) -> Iterable[bytes]:
        headers = _ours(headers)
        if environ.get("REQUEST_METHOD") == "HEAD":
            stream.close()
            context.run(start_response, status, headers)
            return []
        hub = self._live.hub
        address = str(environ.get("REMOTE_ADDR", ""))
        slot = None
        try:
            _head(status, headers)  # before anything is started: it may be none
            if stream.alone:
                self._warn_of_recycling(start_response)
            upgrade = _shake_hands(environ) if stream.upgrades else []
            hold = self._may_hold(environ, start_response, stream, address)
            found = handover.find(environ, start_response)
            if isinstance(found, handover.Refused) and stream.upgrades:
                logger.debug("afterload: a WebSocket is refused: %s", found.reason)
                raise websocket.Refused("501 Not Implemented", [], "There is no WebSocket here.")
            if isinstance(found, handover.Refused) and hold:
                slot = self._slot(environ, start_response, found)
                hold = slot is not None
        except websocket.Refused as refused:
            stream.close()
            if refused.is_missing and self._first("websockets"):
                logger.warning(
                    "afterload: over HTTP/1.1 pages try a WebSocket first, and the package websockets is not "
                    "installed: they follow by event streams, six tabs at most (pip install websockets)"
                )
            return _said(start_response, refused.status, f"{refused.why}\n".encode(), *refused.headers)
        except Exception:
            stream.close()
            logger.exception("afterload: a stream could not be started")
            return _failed(start_response)
        try:
            follow = stream.connect(hold)
        except NoRoom:
            _free(slot)
            return _busy(start_response, jittered(self._live.settings.short_retry))
        except Exception:
            _free(slot)
            logger.exception("afterload: a stream could not be started")
            return _failed(start_response)
        follow = replace(follow, address=address, hold=follow.hold and hold, asked=asked)
        try:
            context.run(start_response, status, headers)
        except BaseException:
            _free(slot)
            raise
        if not isinstance(found, handover.Refused):
            answer = _hand_over(self._live, found, follow, stream, upgrade)
            if not isinstance(answer, handover.Refused):
                return answer
            if stream.upgrades:
                return []  # no answer to its handshake: it tries another wire
            slot = self._slot(environ, start_response, answer) if follow.hold else None
        return self._stream_through(hub, environ, follow, slot)

    def _slot(
        self, environ: WSGIEnvironment, start_response: StartResponse, refused: handover.Refused
    ) -> _Slot | None:
        """Leave to hold a thread of the server: no more than a few streams do at a time."""
        if _is_test_client(start_response):
            most = self._live.settings.max_viewers
        else:
            most = self._live.settings.fallback_viewers
            spare = handover.spare_threads(environ, start_response)
            if spare is not None:
                most = min(most, spare)
            self._say_refused(refused, most)
        return self._slots.take(most)

    def _stream_through(
        self, hub: Hub, environ: WSGIEnvironment, follow: Follow, slot: _Slot | None
    ) -> Iterable[bytes]:
        """Has the server stream what the hub writes."""
        try:
            pair = handover.Fallback.open(environ, handover.stopping)
        except OSError as error:
            logger.error("afterload: no descriptor for a stream, the page is asked to come again: %s", error)
            _free(slot)
            return [follow.opening, follow.wire.bye(jittered(self._live.settings.short_retry))]
        body = _Body(pair.body, slot)
        try:
            hub.count("fallbacks")
            _adopt(self._live, pair.hub_end, replace(follow, hold=follow.hold and slot is not None))
        except BaseException:
            body.close()
            pair.hub_end.close()
            raise
        return body

    def _may_hold(
        self, environ: WSGIEnvironment, start_response: StartResponse, stream: Stream, address: str
    ) -> bool:
        """Whether a viewer may stay; that of another process's hub is for that one to say."""
        if not stream.alone:
            if self._is_cut_off(environ, start_response):
                return False
            if self._live.is_elsewhere:
                return True
        return self._live.hub.room(address) and not handover.stopping()

    def _serve(self, environ: WSGIEnvironment, start_response: StartResponse) -> None:
        """This process answers requests of others, and not of a test in it."""
        if not _is_test_client(start_response):
            self._live.serve(handover.several(environ, start_response) is not None)
            self._is_cut_off(environ, start_response)

    def _is_cut_off(self, environ: WSGIEnvironment, start_response: StartResponse) -> bool:
        """Whether what other processes publish would not reach the viewers of this one; said once."""
        why = self._live.meeting.is_cut_off
        if why and self._first("cut off"):
            several = handover.several(environ, start_response)
            logger.error(
                "afterload: pages get short streams and follow with a delay: %s, and there is no hub for all of "
                "them: %s",
                several,
                why,
            )
        return bool(why)

    def _warn_of_recycling(self, start_response: StartResponse) -> None:
        limit = handover.max_requests(start_response)
        if limit and self._first("recycled"):
            logger.warning(
                "afterload: gunicorn ends its worker after %d requests (max_requests), and with it each loop of a "
                "page's own, which begins anew elsewhere, and each job, which is lost; shared loops and channels go on",
                limit,
            )

    def _say_refused(self, refused: handover.Refused, most: int) -> None:
        if refused.lasting and self._first(refused.reason):
            logger.warning(
                "afterload: each page that follows holds a thread of the server; at most %d do, and others "
                "follow with a delay: %s",
                most,
                refused.reason,
            )
        else:
            logger.debug("afterload: a stream goes through the server: %s", refused.reason)

    def _first(self, what: str) -> bool:
        with self._lock:
            if what in self._said:
                return False
            self._said.add(what)
            return True


class _Slots:
    """How many streams hold a thread of the server."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._taken = 0

    def take(self, most: int) -> _Slot | None:
        with self._lock:
            if self._taken >= most:
                return None
            self._taken += 1
            return _Slot(self)

    def give_back(self) -> None:
        with self._lock:
            self._taken -= 1


class _Slot:
    """One of them; given back once, however often it is said."""

    def __init__(self, slots: _Slots) -> None:
        self._slots: _Slots | None = slots

    def free(self) -> None:
        slots, self._slots = self._slots, None
        if slots is not None:
            slots.give_back()


class _Body(Iterator[bytes]):
    """A fallback's body, that gives its slot back."""

    def __init__(self, body: handover.Body, slot: _Slot | None) -> None:
        self._body = body
        self._slot = slot

    def __next__(self) -> bytes:
        try:
            return next(self._body)
        except StopIteration:
            self.close()
            raise

    def close(self) -> None:
        self._body.close()
        if self._slot is not None:
            self._slot.free()

    def __del__(self) -> None:
        # A server that never closes its body, or never even iterates it, must not cost a slot.
        self.close()


class _Begun:
    """A body whose first bytes were asked for: its app starts the response with them, as a generator does."""

    def __init__(self, body: Iterable[bytes]) -> None:
        self._body = body
        try:
            self._rest = iter(body)
            self._first = list(itertools.islice(self._rest, 1))
        except BaseException:
            self.close()
            raise

    def __iter__(self) -> Iterator[bytes]:
        return itertools.chain(self._first, self._rest)

    def close(self) -> None:
        _close(self._body)


def _hand_over(
    live: Live, claim: handover.Claim, follow: Follow, stream: Stream, upgrade: Headers
) -> Iterable[bytes] | handover.Refused:
    """Gives the connection of a response that was started to the hub; nothing of the server's gets out then."""
    arrived = claim.head()
    if isinstance(arrived, handover.Refused):
        return arrived
    status, headers = arrived[0], _ours(arrived[1])
    if not (stream.may_have(status) and _is(stream.content_type, headers)):
        # What wraps start_response has made another answer of it, and has a body for that, if any.
        claim.close_after()
        return []
    # may fail, and so comes before the take: the server answers that yet
    head = _head(status, headers) if not upgrade else _upgrade_head(headers, upgrade)
    taken = handover.take(claim)
    if isinstance(taken, handover.Refused):
        return taken
    live.hub.count("handovers")
    try:
        _adopt(live, taken.sock, replace(follow, head=head))
    except BaseException:
        taken.close()
        raise
    return taken.body


def _adopt(live: Live, sock: socket.socket, follow: Follow) -> None:
    try:
        live.adopt(sock, _begun(sock, follow))
    except HubError as error:
        # It was told that all is well. Its page comes again, and finds a hub or is told that there is none.
        if count := live.sent_away.count():
            logger.error(
                "afterload: a page is sent away (so many since the last such record: %d): %s", count, error
            )
        sock.close()
        return
    if live.hub.closed:
        sock.close()  # it ended meanwhile, and nobody else would
    elif follow.begin is not None:
        follow.begin()


def _begun(sock: socket.socket, follow: Follow) -> Follow:
    """Sends what a page begins with, as far as it can be sent at once: the way through the hub is longer."""
    if not (follow.opening and MSG_DONTWAIT):
        return follow
    data = follow.head + follow.opening
    try:
        sent = sock.send(data, SEND_FLAGS)
    except OSError:
        return follow  # the hub will see
    return replace(follow, head=b"", opening=data[sent:], sent=sent)


def _failed(start_response: StartResponse) -> Iterable[bytes]:
    return _said(start_response, "500 Internal Server Error", b"Internal Server Error\n")


def _busy(start_response: StartResponse, retry: int) -> Iterable[bytes]:
    """There is no room for what would have to be written whole."""
    text = b"The server is busy. Please load this page again in a moment.\n"
    return _said(
        start_response, "503 Service Unavailable", text, ("Retry-After", str(math.ceil(retry / 1000)))
    )


def _said(
    start_response: StartResponse, status: str, text: bytes, *headers: tuple[str, str]
) -> Iterable[bytes]:
    start_response(
        status,
        [
            ("Content-Type", "text/plain; charset=utf-8"),
            ("Content-Length", str(len(text))),
            ("Cache-Control", "no-store"),
            *headers,
        ],
    )
    return [text]


def _unused(environ: WSGIEnvironment) -> None:
    """A stream that a view has made is not the response."""
    stream = environ.pop(STREAM, None)
    if stream is not None:
        stream.close()


def _free(slot: _Slot | None) -> None:
    if slot is not None:
        slot.free()


def _close(body: object) -> None:
    close = getattr(body, "close", None)
    if close is not None:
        close()


def _is(content_type: str, headers: Headers) -> bool:
    return any(
        name.lower() == "content-type" and value.lower().startswith(content_type) for name, value in headers
    )


def _is_test_client(start_response: StartResponse) -> bool:
    return any(
        getattr(layer, "__module__", None) in _TEST_CLIENTS
        for layer in handover.layers(start_response)
        if type(layer) is FunctionType
    )


def _ours(headers: Headers) -> Headers:
    return [(name, value) for name, value in headers if name.lower() not in _NOT_OURS]


def _was_a_websocket(environ: WSGIEnvironment) -> bool:
    """Whether a WebSocket was asked for before a proxy took that out."""
    ours = websocket.PROTOCOL in str(environ.get("HTTP_SEC_WEBSOCKET_PROTOCOL", ""))
    return ours and not environ.get("HTTP_UPGRADE")


def _shake_hands(environ: WSGIEnvironment) -> Headers:
    """The headers by which a WebSocket is opened.

    Raises:
        websocket.Refused: there is none.
    """
    return websocket.handshake(
        str(environ.get("PATH_INFO", "")),
        [
            (name.removeprefix("HTTP_").replace("_", "-").title(), str(value))
            for name, value in environ.items()
            if name.startswith(("HTTP_SEC_WEBSOCKET_", "HTTP_UPGRADE", "HTTP_CONNECTION"))
        ],
    )


def _upgrade_head(headers: Headers, upgrade: Headers) -> bytes:
    kept = [(name, value) for name, value in headers if name.lower() != "content-type"]
    return _head("101 Switching Protocols", kept + upgrade, "")


def _head(status: str, headers: Headers, connection: str = "close") -> bytes:
    """The response head, as the hub is to write it.

    Raises:
        ValueError: a status or header has a line end, or what is no latin-1.
    """
    lines = [f"HTTP/1.1 {status}"]
    lines += [f"{name}: {value}" for name, value in headers]
    if all(name.lower() != "date" for name, _ in headers):
        lines.append(f"Date: {formatdate(usegmt=True)}")
    if connection:
        lines.append(f"Connection: {connection}")
    for line in lines:
        if "\r" in line or "\n" in line or "\0" in line:
            # https://www.rfc-editor.org/rfc/rfc9110#section-5.5: it would end the header, and begin another
            raise ValueError(f"a response header has a CR, LF or NUL: {line!r}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
