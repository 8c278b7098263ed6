"""The Flask extension.

::

    live = Live(app)

    @app.get("/")
    def index():
        return live.page("index.html", spin())

How one view is both the page and its stream: `Live.page` looks at the request. For HTML it renders the
template. For a stream it returns an ordinary, empty response; that goes through the app's hooks, gets its
cookies, may be replaced by another one, and when it is the one that is sent, asks `afterload.wsgi` to hand
the connection over.
"""

from __future__ import annotations

import hashlib
import importlib.resources
import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from flask import Flask, Response, current_app, make_response, render_template, request, url_for
from markupsafe import Markup
from werkzeug.exceptions import Forbidden

from . import live as core
from .errors import LoopError, SettingError
from .hub.thread import HubThread
from .hub.viewer import Follow
from .negotiate import Request, latin1_to_utf8, negotiate
from .page import Page
from .position import Position
from .settings import Settings
from .wsgi import HEAD, STREAM, Middleware

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

    from jinja2 import Template

__all__ = ["Live"]

logger = logging.getLogger("afterload.flask")

PATH = "/_afterload/afterload.js"
ENDPOINT = "afterload_client"
_PREFIX = "AFTERLOAD_"


@dataclass
class _Rendering:
    """A page while its template is rendered. Not in `g`, which may outlive a request in tests."""

    position: str
    has_client: bool = False


_rendering: ContextVar[_Rendering | None] = ContextVar("afterload_rendering", default=None)


class Live(core.Live):
    """Pages that follow Python loops, for a Flask app.

    Args:
        app: the app; or call `init_app` later.
        **settings: see `afterload.settings.Settings`. ``app.config["AFTERLOAD_LINGER"]`` and so on are the
            same, count more, and are read when the app is connected.

    Raises:
        SettingError: a setting is unknown, of the wrong type or out of range.
        LoopError: as of `init_app`.

    Example:
        >>> from flask import Flask
        >>> app = Flask(__name__)
        >>> live = Live(app, linger=30)
    """

    def __init__(self, app: Flask | None = None, **settings: Any) -> None:
        super().__init__(Settings().updated(settings))
        self._app: Flask | None = None
        self._unfollowed: set[str] = set()  # templates that were warned of
        self._warning = threading.Lock()
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Connects an app. Nothing starts before the first request that needs it.

        Args:
            app: with its configuration; what is put there afterwards is not seen. Its client script has the
                endpoint ``afterload_client``, for hooks that ask who may have what.

        Raises:
            SettingError: a setting in ``app.config`` is unknown, of the wrong type or out of range.
            LoopError: this object has an app already, or the app another `Live`.
        """
        app = getattr(app, "_get_current_object", lambda: app)()  # where it was given as current_app
        if self._app is not None:
            raise LoopError(f"this Live belongs to {self._app!r} already; make one for each app")
        if "afterload" in app.extensions:
            raise LoopError(f"{app!r} has a Live already; one is enough for any number of pages")
        config = {
            key.removeprefix(_PREFIX).lower(): value
            for key, value in app.config.items()
            if key.startswith(_PREFIX)
        }
        try:
            self.settings = self.settings.updated(config)
        except SettingError as error:
            raise SettingError(f"in app.config, where each name begins with {_PREFIX}: {error}") from error
        self._app = app
        app.extensions["afterload"] = self
        any_host: dict[str, Any] = {"host": "<afterload_host>"} if app.url_map.host_matching else {}
        app.add_url_rule(PATH, ENDPOINT, _client, **any_host)
        app.jinja_env.globals["live_client"] = self.client
        app.wsgi_app = Middleware(app.wsgi_app, self)  # type: ignore[method-assign]

    def _begin(self) -> HubThread:
        self._connected()  # or the hub would be made with settings that are not the app's
        return super()._begin()

    def _connected(self) -> Flask:
        if self._app is None:
            raise LoopError("this Live has no app yet: Live(app), or live.init_app(app)")
        return self._app

    def step_context(self) -> AbstractContextManager[Any]:
        """An app context for each step of a loop, so that what is bound to it does not outlive the step."""
        return self._connected().app_context()

    def page(
        self,
        template: str | Template | list[str | Template],
        /,
        *sources: Any,
        into: str | None = None,
        restart: bool = True,
        away: str = "pause",
        **context: Any,
    ) -> Response:
        """Answers a view: the page, or its stream, on one URL.

        A request for HTML gets the rendered template. One for ``text/event-stream`` (the page's own, by
        ``live_client()`` or an EventSource) gets a stream of what the loop or the channels bring. The view
        runs for both, each time, so whatever it checks first decides who may follow. Cookies and headers may
        be added to what is returned as to any response.

        **In a loop** each step, from one `yield` to the next, has an app context of its own: `current_app` is
        there, `g` is new each time, and functions of `teardown_appcontext` run after it. There is no request:
        take from it (and from `session`, and the user that is logged in) what the loop needs in the view, and
        give it to the generator. `render_template` works. `url_for` needs ``app.config["SERVER_NAME"]`` and
        gives whole URLs, or with ``_external=False`` paths; without it Flask raises a RuntimeError, and the
        loop has failed. Or make the URLs in the view.

        Args:
            template: a template's name (or what else `flask.render_template` takes).
            *sources: a generator (a loop of this viewer's own, not started before its stream connects); or
                any number of ``@live.loop`` loops and names of channels.
            into: target such as ``"#data"`` for plain strings.
            restart: a private loop that is gone, as after a restart of the server, begins anew; if False, its
                page is told that it is lost.
            away: "pause" a private loop while its viewer is away, or let it "run"; for `linger` seconds.
            **context: for the template, under any name but those above.

        Raises:
            LoopError: a source is nothing that can be followed, or an argument is wrong; or the request is
                not one to this object's app.
            Forbidden: the stream is asked for by a page of another site, and `allow_cross_site` is off.

        Example:
            >>> from flask import Flask
            >>> app = Flask(__name__)
            >>> live = Live(app)
            >>> @app.get("/")
            ... def index():
            ...     def count():
            ...         for i in range(10):
            ...             yield {"#count": i}
            ...             live.sleep(1)
            ...     return live.page("index.html", count(), title="Counting")
        """
        page = self.follow(sources, into, restart, away)
        head = self._head()
        wanted = _negotiate()
        response: Response
        if wanted.wire == "html":
            page.close()
            # A private loop begins with its stream, so its page has no position.
            response = self._html("" if page.source is not None else str(head), template, context)
        else:
            response = self._stream(page, wanted)
        response.vary.add("Accept")
        return response

    def client(self, nonce: str | None = None) -> Markup:
        """The script element that makes a page follow; ``{{ live_client() }}`` in templates.

        Args:
            nonce: for a Content-Security-Policy.

        Raises:
            LoopError: the template is not rendered by `page`, so there is nothing it could follow.
        """
        rendering = _rendering.get()
        if rendering is None:
            raise LoopError(
                "live_client() is for templates that live.page() renders; elsewhere it has nothing to follow"
            )
        rendering.has_client = True
        values: dict[str, Any] = {"v": _script()[1]}
        if self._connected().url_map.host_matching:
            values["afterload_host"] = request.host
        extra = Markup(' nonce="{}"').format(nonce) if nonce else ""
        return Markup('<script src="{}" data-position="{}" async{}></script>').format(
            url_for(ENDPOINT, **values), rendering.position, extra
        )

    def _html(self, position: str, template: Any, context: dict[str, Any]) -> Response:
        rendering = _Rendering(position)
        with _set(rendering):
            response = make_response(render_template(template, **context))
        if not rendering.has_client and b"EventSource" not in response.get_data():
            self._warn_of(template)
        response.headers["Cache-Control"] = "private, no-cache"
        return response

    def _warn_of(self, template: Any) -> None:
        name = str(getattr(template, "name", None) or template)
        with self._warning:
            if name in self._unfollowed:
                return
            self._unfollowed.add(name)
        logger.warning(
            "afterload: %r has neither {{ live_client() }} nor an EventSource, so pages made from it do not "
            "follow, unless a script of their own does",
            name,
        )

    def _head(self) -> Position:
        """The position at which the request came in, before the view has read anything."""
        if current_app._get_current_object() is not self._connected():  # type: ignore[attr-defined]
            raise LoopError(f"this Live belongs to {self._app!r}, and the request is one to {current_app!r}")
        try:
            position: Position = request.environ[HEAD]
        except KeyError:
            raise LoopError(
                "Live(app) wraps app.wsgi_app, and this request did not come through it; in a test use "
                "app.test_client()"
            ) from None
        return position

    def _stream(self, page: Page, wanted: Request) -> Any:
        if wanted.cross_site and not self.settings.allow_cross_site:
            page.close()
            raise Forbidden("This stream is for pages of its own site.")
        if wanted.close:
            self.leave(wanted.position)
        if wanted.close or self.is_over(page, wanted.position):
            page.close()
            return current_app.response_class(status=204, headers={"Cache-Control": "no-store"})
        base: Any = current_app.response_class
        response = _stream_class(base)(content_type="text/event-stream; charset=utf-8")
        response.connect = lambda: self.connect(page, wanted)
        response.headers["Cache-Control"] = "no-store, no-transform"
        response.headers["X-Accel-Buffering"] = "no"
        return response


@cache
def _stream_class(base: type[Any]) -> type[Any]:
    """A response class that stands for a stream.

    It asks for the handover only when it is called as a WSGI app, which is the last that happens to a
    response: one that a view or a hook made and then did not return starts nothing.
    """

    class Stream(base):  # type: ignore[misc]
        connect: Callable[[], Follow]

        def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
            environ[STREAM] = self.connect
            response: Any = self
            if 200 <= response.status_code < 300:
                # A view may say 202 for its page; an EventSource takes nothing but 200.
                response.status_code = 200
            body: Iterable[bytes] = super().__call__(environ, start_response)
            return body

    return Stream


@contextmanager
def _set(rendering: _Rendering) -> Iterator[None]:
    token = _rendering.set(rendering)
    try:
        yield
    finally:
        _rendering.reset(token)


def _negotiate() -> Request:
    headers = {name.lower(): latin1_to_utf8(value) for name, value in request.headers}
    return negotiate(request.method, headers, _query())


def _query() -> dict[str, str]:
    """The query, of each name the first. `request.args` fails on bytes that are no UTF-8."""
    pairs = parse_qsl(request.query_string.decode("utf-8", "replace"), errors="replace")
    return dict(reversed(pairs))


@cache
def _script() -> tuple[str, str]:
    """The client's text, and a hash of it."""
    text = importlib.resources.files("afterload").joinpath("static/afterload.js").read_text("utf-8")
    return text, hashlib.sha256(text.encode()).hexdigest()[:12]


def _client(afterload_host: str = "") -> Response:
    text, version = _script()
    response = current_app.response_class(text, content_type="text/javascript; charset=utf-8")
    if _query().get("v") == version:
        response.headers["Cache-Control"] = "public, max-age=31536000, immutable"
    else:
        response.headers["Cache-Control"] = "no-cache"
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.set_etag(version)
    response.make_conditional(request)
    return response
