"""What a view returns where its response is written by the hub: an ordinary, empty response, and what is behind it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar

from flask import current_app

from .. import live as core
from ..connecting import NoRoom
from ..hub.viewer import Follow
from ..negotiate import JSON, Request
from ..negotiate import STREAM as STREAM_TYPE
from ..noscript import Shown
from ..page import Page
from ..position import Position
from ..wsgi import STREAM
from . import streamed

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

# Not no-store: a browser that goes back shows what it has, and does not have all of it done once more.
_AS_A_PAGE = "private, no-cache, no-transform"


def written(stream: Events | Document | Template) -> Any:
    """A response with that behind its head."""
    base: Any = current_app.response_class
    kind = stream.content_type
    response = _stream_class(base)(
        content_type=kind if kind == JSON else f"{kind}; charset=utf-8",
        headers={"Cache-Control": stream.cached, "X-Accel-Buffering": "no"},
    )
    response.stream = stream
    return response


@dataclass
class Events:
    """What a page follows, on any of its wires; see `wsgi.Stream`."""

    cached: ClassVar[str] = "no-store, no-transform"
    live: core.Live
    page: Page
    wanted: Request

    @property
    def content_type(self) -> str:
        """See `wsgi.Stream`."""
        return JSON if self.wanted.wire == "poll" else STREAM_TYPE

    @property
    def upgrades(self) -> bool:
        """See `wsgi.Stream`."""
        return self.wanted.wire == "websocket"

    @property
    def alone(self) -> bool:
        """See `wsgi.Stream`."""
        return self.page.source is not None

    def called(self) -> None:
        """Nothing needs to be kept of the request."""

    def may_have(self, status: str) -> bool:
        """See `wsgi.Stream`."""
        return status.startswith("200")

    def connect(self, hold: bool) -> Follow:
        """See `wsgi.Stream`."""
        return self.live.connect(self.page, self.wanted)

    def close(self) -> None:
        """See `wsgi.Stream`."""
        self.page.close()


@dataclass
class Document:
    """A document that goes on; see `wsgi.Stream`."""

    content_type: ClassVar[str] = "text/html"
    upgrades: ClassVar[bool] = False
    cached: ClassVar[str] = _AS_A_PAGE
    live: core.Live
    page: Page
    head: Position
    opening: bytes
    ending: bytes
    shown: Shown

    @property
    def alone(self) -> bool:
        """See `wsgi.Stream`."""
        return self.page.source is not None

    def called(self) -> None:
        """Nothing needs to be kept of the request."""

    def may_have(self, status: str) -> bool:
        """See `wsgi.Stream`."""
        return _has_body(status)

    def connect(self, hold: bool) -> Follow:
        """See `wsgi.Stream`."""
        try:
            if self.alone and not hold:
                raise NoRoom
            return self.live.connect_document(self.page, self.head, self.opening, self.ending, self.shown)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """See `wsgi.Stream`."""
        self.page.close()


@dataclass
class Template:
    """A streamed template; see `wsgi.Stream`."""

    content_type: ClassVar[str] = "text/html"
    upgrades: ClassVar[bool] = False
    cached: ClassVar[str] = _AS_A_PAGE
    alone: ClassVar[bool] = True
    live: core.Live
    name: str
    source: Iterator[str]
    carried: streamed.Carried
    contexts: AbstractContextManager[Any] | None = field(default=None, init=False)

    def called(self) -> None:
        """The contexts of the request go on in another thread."""
        self.contexts = self.carried.carry()

    def may_have(self, status: str) -> bool:
        """See `wsgi.Stream`."""
        return _has_body(status)

    def connect(self, hold: bool) -> Follow:
        """See `wsgi.Stream`."""
        assert self.contexts is not None
        try:
            if not hold:
                raise NoRoom
            return self.live.connect_text(streamed.within(self.contexts, self.source), self.name)
        except NoRoom:
            self.close()
            raise

    def close(self) -> None:
        """See `wsgi.Stream`."""
        if self.contexts is not None:
            with self.contexts:  # what was put off is done now
                pass


def _has_body(status: str) -> bool:
    # https://www.rfc-editor.org/rfc/rfc9110#section-6.4.1-8
    return not status.startswith(("1", "204", "205", "304"))


@cache
def _stream_class(base: type[Any]) -> type[Any]:
    """A response class that stands for a stream.

    It asks for the handover only when it is called as a WSGI app, which is the last that happens to a
    response: one that a view or a hook made and then did not return starts nothing.
    """

    class Streaming(base):  # type: ignore[misc]
        stream: Events | Document | Template

        def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
            self.stream.called()
            environ[STREAM] = self.stream
            response: Any = self
            if isinstance(self.stream, Events) and 200 <= response.status_code < 300:
                # A view may say 202 for its page; an EventSource takes nothing but 200.
                response.status_code = 200
            body: Iterable[bytes] = super().__call__(environ, start_response)
            return body

    return Streaming
