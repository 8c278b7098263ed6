"""The Flask extension.

::

    live = Live(app)

    @app.get("/")
    def index():
        return live.page("index.html", spin())
"""

from __future__ import annotations

import hashlib
import importlib.resources
import logging
from contextlib import AbstractContextManager
from functools import cache
from typing import Any

from flask import Flask, Response, current_app, g, make_response, render_template, request, url_for
from markupsafe import Markup
from werkzeug.exceptions import Forbidden

from . import live as core
from .errors import LoopError
from .negotiate import Request, latin1_to_utf8, negotiate
from .position import Position
from .settings import Settings
from .wsgi import HEAD, STREAM, Middleware

__all__ = ["Live"]

logger = logging.getLogger("afterload.flask")

PATH = "/_afterload/afterload.js"
_ENDPOINT = "afterload_client"


class Live(core.Live):
    """Pages that follow Python loops, for a Flask app.

    Args:
        app: the app; or call `init_app` later.
        **settings: see `afterload.settings.Settings`; ``app.config["AFTERLOAD_LINGER"]`` and so on are the same.

    Raises:
        SettingError: a setting is unknown or out of range.

    Example:
        >>> from flask import Flask
        >>> app = Flask(__name__)
        >>> live = Live(app, linger=30)
    """

    def __init__(self, app: Flask | None = None, **settings: Any) -> None:
        super().__init__(Settings().updated(settings))
        self._app: Flask | None = None
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Connects an app. Nothing starts before the first request that needs it.

        Raises:
            SettingError: a setting in ``app.config`` is unknown or out of range.
            LoopError: this object has an app already.
        """
        if self._app is not None:
            raise LoopError(f"this Live belongs to {self._app!r} already; make one for each app")
        self._app = app
        prefix = "AFTERLOAD_"
        config = {
            key[len(prefix) :].lower(): value for key, value in app.config.items() if key.startswith(prefix)
        }
        self.settings = self.settings.updated(config)
        if not self.settings.namespace:
            self.settings = self.settings.updated({"namespace": app.import_name})
        app.extensions["afterload"] = self
        app.add_url_rule(PATH, _ENDPOINT, _client)
        app.jinja_env.globals["live_client"] = self.client
        app.wsgi_app = Middleware(app.wsgi_app, self)  # type: ignore[method-assign]

    def step_context(self) -> AbstractContextManager[Any]:
        """An app context for each step of a loop, so that what is bound to it does not outlive the step."""
        if self._app is None:
            raise LoopError("this Live has no app yet: Live(app), or live.init_app(app)")
        return self._app.app_context()

    def page(
        self,
        template: str,
        *sources: Any,
        into: str | None = None,
        restart: bool = True,
        away: str = "pause",
        **context: Any,
    ) -> Response:
        """Answers a view: the page, or its stream, on one URL.

        A request for HTML gets the rendered template. One for ``text/event-stream`` (the page's own, by
        ``live_client()`` or an EventSource) gets a stream of what the loop or the channels bring. The view runs
        for both, each time, so whatever it checks first decides who may follow.

        Args:
            template: a template's name.
            *sources: a generator (a loop of this viewer's own, not started before its stream connects); or any
                number of ``@live.loop`` loops and names of channels.
            into: target such as ``"#data"`` for plain strings.
            restart: a private loop that is gone, as after a restart of the server, begins anew.
            away: "pause" a private loop while its viewer is away, or let it "run"; for `linger` seconds.
            **context: for the template.

        Raises:
            LoopError: a source is nothing that can be followed.
        """
        page = self.follow(sources, into, restart, away)
        wanted = _negotiate()
        if wanted.wire == "html":
            response = self._html(page, template, context)
        else:
            response = self._stream(page, wanted)
        response.vary.add("Accept")
        return response

    def client(self, nonce: str | None = None) -> Markup:
        """The script element that makes a page follow; ``{{ live_client() }}`` in templates.

        Args:
            nonce: for a Content-Security-Policy.

        Raises:
            LoopError: the page is not made by `page`, so there is nothing it could follow.
        """
        position = g.get("_afterload_position")
        if position is None:
            raise LoopError("live_client() stands in a template that live.page() renders")
        g._afterload_client = True
        src = url_for(_ENDPOINT, v=_script()[1])
        extra = Markup(' nonce="{}"').format(nonce) if nonce else ""
        return Markup('<script src="{}" data-position="{}" async{}></script>').format(src, position, extra)

    def _html(self, page: core.Page, template: str, context: dict[str, Any]) -> Response:
        # A private loop begins with its stream, so its page has no position.
        g._afterload_position = "" if page.source is not None else str(self._head())
        response = make_response(render_template(template, **context))
        if not g.get("_afterload_client") and b"EventSource" not in response.get_data():
            logger.warning(
                "afterload: %r has neither {{ live_client() }} nor an EventSource, so its pages will not follow",
                template,
            )
        response.headers["Cache-Control"] = "private, no-cache"
        return response

    def _head(self) -> Position:
        try:
            position: Position = request.environ[HEAD]
        except KeyError:
            raise LoopError(
                "Live(app) wraps app.wsgi_app, and this request did not come through it"
            ) from None
        return position

    def _stream(self, page: core.Page, wanted: Request) -> Response:
        if wanted.cross_site and not self.settings.allow_cross_site:
            raise Forbidden("This stream is for pages of its own site.")
        if wanted.close:
            self.leave(wanted.position)
        if wanted.close or self.is_over(page, wanted.position):
            return Response(status=204, headers={"Cache-Control": "no-store"})
        self._head()
        request.environ[STREAM] = lambda: self.connect(page, wanted)
        response = Response(content_type="text/event-stream; charset=utf-8")
        response.headers["Cache-Control"] = "no-store, no-transform"
        response.headers["X-Accel-Buffering"] = "no"
        return response


def _negotiate() -> Request:
    headers = {name.lower(): latin1_to_utf8(value) for name, value in request.headers}
    return negotiate(request.method, headers, request.args)


@cache
def _script() -> tuple[str, str]:
    """The client's text, and a hash of it."""
    text = importlib.resources.files("afterload").joinpath("static/afterload.js").read_text("utf-8")
    return text, hashlib.sha256(text.encode()).hexdigest()[:12]


def _client() -> Response:
    text, version = _script()
    response = current_app.response_class(text, content_type="text/javascript; charset=utf-8")
    if request.args.get("v") == version:
        response.headers["Cache-Control"] = "public, max-age=31536000, immutable"
    else:
        response.headers["Cache-Control"] = "no-cache"
    response.headers["X-Content-Type-Options"] = "nosniff"
    return response
