"""The Flask extension.

::

    live = Live(app)

    @app.get("/")
    def index():
        return live.page("index.html", spin())

How one view is both the page and its stream: `Live.page` looks at the request. For HTML it renders the
template. For a stream it returns an ordinary, empty response; that goes through the app's hooks, gets its
cookies, may be replaced by another one, and when it is the one that is sent, asks `afterload.wsgi` to hand
the connection over. `Live.document` and `Live.stream_template` do the same for a response that is the page.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
import weakref
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from flask import (
    Flask,
    Response,
    current_app,
    has_request_context,
    make_response,
    render_template,
    request,
    url_for,
)
from markupsafe import Markup
from werkzeug.exceptions import Forbidden, NotFound

from .. import live as core
from ..errors import JobError, LoopError, SettingError
from ..hub.rendezvous import default_namespace
from ..hub.thread import HubThread
from ..jobs import Job
from ..loops import SharedLoop
from ..negotiate import Request
from ..noscript import Shown
from ..page import Page, followed
from ..paint import Paint
from ..position import Position
from ..settings import Settings, checked
from ..wire import document
from ..wsgi import HEAD, Middleware
from . import client, rendering, streamed
from .asked import asked
from .rendering import PAINTED, Painted, Rendering, name_of
from .responses import Document, Events, Template, written
from .routing import routing_pages

if TYPE_CHECKING:
    import jinja2

__all__ = ["Live"]

logger = logging.getLogger("afterload.flask")

_PREFIX = "AFTERLOAD_"


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
        self._namespace = ""
        self._shares = False
        self._warned: set[tuple[str, ...]] = set()  # templates, and what of them
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
        self._namespace = self.settings.namespace or _namespace_of(app)
        app.extensions["afterload"] = self
        any_host: dict[str, Any] = {"host": "<afterload_host>"} if app.url_map.host_matching else {}
        app.add_url_rule(client.PATH, client.ENDPOINT, client.answer, **any_host)
        app.jinja_env.globals.update(
            live_client=self.client, live_updates=self.updates, live_patch=self.patch, live_state=self.state
        )
        app.jinja_env.globals.setdefault("live", self)
        self._carried = streamed.Carried(app)
        app.create_url_adapter = routing_pages(app.create_url_adapter)  # type: ignore[method-assign]
        app.wsgi_app = Middleware(app.wsgi_app, self)  # type: ignore[method-assign]
        self.attend()

    def _begin(self) -> HubThread:
        self._connected()  # or the hub would be made with settings that are not the app's
        return super()._begin()

    def _connected(self) -> Flask:
        if self._app is None:
            raise LoopError("this Live has no app yet: Live(app), or live.init_app(app)")
        return self._app

    @property
    def namespace(self) -> str:
        """Whose channels these are: of all processes of this app on this host; of nobody else under `app.testing`."""
        return "" if self._connected().testing else self._namespace

    def serve(self, several: bool) -> None:
        """See `live.Live`."""
        super().serve(several)
        if self.namespace and _named.setdefault(self.namespace, self) is not self and not self._shares:
            self._shares = True
            logger.warning(
                "afterload: two apps of this process have the namespace %r, and so the same channels and loops: where "
                "they are not to, name them, Live(app, namespace=...)",
                self.namespace,
            )

    def _is_ready(self) -> bool:
        return self._app is not None

    def step_context(self) -> AbstractContextManager[Any]:
        """An app context for each step of a loop, so that what is bound to it does not outlive the step."""
        return self._connected().app_context()

    def page(
        self,
        template: str | jinja2.Template | list[str | jinja2.Template],
        /,
        *sources: Any,
        into: str | None = None,
        restart: bool = True,
        away: str = "pause",
        owner: str = "",
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
            owner: whom the page belongs to, such as the id of who is logged in; for `revoke`.
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
        page = self.follow(sources, into, restart, away, owner)
        head = self._head()
        wanted = asked()
        response: Response
        if wanted.wire == "html":
            page.close()
            # A private loop begins with its stream, so its page has no position.
            response = self._html(page, head, template, context)
        else:
            response = self._stream(page, wanted)
        response.vary.add("Accept")
        return response

    def job(self, id: str | None = None) -> Job:
        """A job, of whichever process of the app; or without an id, the job that this is called in.

        In a view, a job that is unknown is answered with 404. A page that is open already, and whose job was lost with
        its process, is told so instead.

        Args:
            id: as of `Job.id`; one that a request has brought need not be checked before.

        Raises:
            JobError: there is no such job, or it has ended longer ago than `loop_retention`. In a request it is a
                `werkzeug.exceptions.NotFound` as well.
            LoopError: no id is given, and this is no job, or a thread that a job has started.
            HubError: the hub cannot be asked.

        Example:
            >>> from flask import Flask
            >>> app = Flask(__name__)
            >>> live = Live(app)
            >>> @app.get("/imports/<id>")
            ... def follow_import(id):
            ...     return live.page("import.html", live.job(id))
        """
        if id is None or not has_request_context():
            return super().job(id)
        wanted = asked()
        if wanted.wire != "html" and (wanted.position is not None or wanted.bad_position):
            return self.find_gone(str(id))
        try:
            return super().job(id)
        except JobError as error:
            raise _NoJobError(error.id) from error

    def client(self, nonce: str | None = None) -> Markup:
        """The script element that makes a page follow; ``{{ live_client() }}`` in templates.

        Args:
            nonce: for a Content-Security-Policy.

        Raises:
            LoopError: the template is not rendered by `page`, so there is nothing it could follow.
        """
        page = rendering.present(
            "page",
            "live_client() is for templates that live.page() renders; elsewhere it has nothing to follow",
        )
        values: dict[str, Any] = {"v": client.script()[1]}
        if self._connected().url_map.host_matching:
            values["afterload_host"] = request.host
        extra = Markup(' nonce="{}"').format(nonce) if nonce else ""
        script = Markup('<script src="{}" data-position="{}" async{}></script>').format(
            url_for(client.ENDPOINT, **values), page.position, extra
        )
        page.scripts.append(str(script))
        return script

    def state(self, channel: str | SharedLoop | Job) -> Paint:
        """What a channel shows at present, for the page that a view makes: ``{{ live.state("orders")["#count"] }}``.

        In a template, or in a view, so that a page is right in its HTML, whenever it is opened. What is given is a
        mapping of ``#id`` to the content of the element: text, which the template escapes, or `Markup`, with all that
        was added. ``.get("#rows", default)`` says what the element would show else. The page's stream goes on from
        there, and nothing is shown twice.

        Use it for all that an element contains, and for all elements that the channel adds to. In templates it is
        ``live_state`` as well. Outside of a request it is what `live.Live.state` gives.

        Args:
            channel: a shared loop, a job, or a channel's name; in a template, one that the page follows.

        Raises:
            LoopError: as of `live.Live.state`; or the page does not follow the channel.
            HubError: as of `publish`.
            Exception: what the channel's snapshot source raises.

        Example:
            >>> from flask import Flask
            >>> app = Flask(__name__)
            >>> live = Live(app)
            >>> _ = live.publish("orders", {"#count": 12})
            >>> with app.app_context():
            ...     live.state("orders").get("#count", 0)
            '12'
        """
        name = followed(channel)
        if not rendering.follows(name) or not self._has_position():
            return super().state(name)
        painted: dict[str, Painted] = request.environ.setdefault(PAINTED, {})
        if name not in painted:
            at, present = self._present(name, request.environ[HEAD])
            # A page that fetches itself is brought to what its loops show by its stream, a moment later.
            parts = () if present.run and "Last-Event-ID" in request.headers else present.parts
            paint = Paint(name, parts, at)
            painted[name] = Painted(paint if present.run else self._showable(paint), present.run)
        return painted[name].paint

    def _has_position(self) -> bool:
        """Whether this is in a request to this object's app, and it came by `Middleware`."""
        return has_request_context() and current_app == self._app and HEAD in request.environ

    def document(
        self,
        template: str | jinja2.Template | list[str | jinja2.Template],
        /,
        *sources: Any,
        into: str | None = None,
        owner: str = "",
        **context: Any,
    ) -> Response:
        """Answers a view with a document that goes on updating itself: one response, no second request.

        The template says with ``{{ live_updates() }}``, as a direct child of the body, where it goes on:
        what is before it is sent at once, then everything that the loop or the channels bring, and when they
        are over, what is behind it. All of the template is rendered in the view.

        A loop of the page's own ends when its viewer leaves, as a document cannot come back; loaded again, it
        begins anew. A request for ``text/event-stream`` gets what it gets from `page`.

        Args:
            template: as of `page`.
            *sources: as of `page`.
            into: as of `page`.
            owner: as of `page`.
            **context: for the template, under any name but those above.

        Raises:
            LoopError: as of `page`; or the template does not call ``live_updates()`` once.
            Forbidden: as of `page`.

        Example:
            >>> from flask import Flask
            >>> app = Flask(__name__)
            >>> live = Live(app)
            >>> @app.get("/hello")
            ... def hello():
            ...     def letters():
            ...         for letter in "hello":
            ...             yield {"#data": letter}
            ...             live.sleep(1)
            ...     return live.document("hello.html", letters())
        """
        page = self.follow(sources, into, owner=owner)
        head = self._head()
        wanted = asked()
        response: Response
        if wanted.wire == "html":
            rendered = Rendering("document", channels=page.channels)
            try:
                with rendered.entered():
                    html = make_response(render_template(template, **context)).get_data(as_text=True)
                before, behind = rendered.split(html, template)
                head = _position(page, head, html, template)
            except BaseException:
                page.close()
                raise
            # A loop of its own would begin anew, and what was posted would not be posted again.
            may_come_again = page.source is None and request.method == "GET"
            shown = Shown(before, into, rendered.nonce, may_come_again, time.monotonic)
            opening = shown.html + str(document.opening(rendered.nonce)) + shown.opening()
            ending = document.closed(behind, shown.closing())
            stream = Document(self, page, head, _utf8(opening), _utf8(ending), shown)
            response = written(stream)
        else:
            response = self._stream(page, wanted)
        response.vary.add("Accept")
        return response

    def stream_template(
        self,
        template: str | jinja2.Template | list[str | jinja2.Template],
        /,
        *,
        buffering: int | None = None,
        **context: Any,
    ) -> Response:
        """Answers a view with a template that is sent while it is rendered, and holds no worker meanwhile.

        As `flask.stream_template`: the template has `request`, `session` and `g`, `url_for` works, and the
        functions of `teardown_request` and `teardown_appcontext` run once, when it is through or its viewer
        has left. Behind its first piece it runs in a thread of its own (one of `max_loops`), and waits while its
        viewer has yet to take 64 KB. Async generators may be given to any template.

        In the template ``{{ live_patch("#data", value) }}`` replaces what an element shows that is in the
        page already.

        Args:
            template: as of `page`.
            buffering: so many of the template's pieces are sent together, 2 or more; see
                `jinja2.environment.TemplateStream.enable_buffering`.
            **context: for the template, under any name but those above.

        Raises:
            LoopError: buffering is no such number; or as of `page`.

        Example:
            >>> from flask import Flask
            >>> app = Flask(__name__)
            >>> live = Live(app)
            >>> @app.get("/rows")
            ... def rows():
            ...     return live.stream_template("rows.html", rows=range(1000))
        """
        self._head()
        if buffering is not None and not (type(buffering) is int and buffering >= 2):
            raise LoopError(f"buffering is a whole number from 2, or None, not {buffering!r}")
        source = streamed.generate(template, context, buffering, Rendering("stream_template"))
        response: Response = written(Template(self, name_of(template), source, self._carried))
        return response

    def updates(self, nonce: str | None = None) -> Markup:
        """Where a document begins to update itself; ``{{ live_updates() }}`` in templates.

        Args:
            nonce: for a Content-Security-Policy.

        Raises:
            LoopError: the template is rendered neither by `document` nor by `stream_template`; or it has
                called this before.
        """
        return rendering.updates(nonce)

    def patch(self, *things: Any) -> Markup:
        """Patches the page that a streamed template has written so far; ``{{ live_patch("#data", value) }}``.

        What it returns is an element that applies itself and is gone, so it stands where an element may: not
        inside of a tag, a script or a textarea.

        Args:
            *things: ``#id`` of an element that comes before, and what it is to show: escaped, unless it is
                `Markup`. Or one thing that a loop may yield, such as ``append("#log", row)``.

        Raises:
            PatchError: there is no such target or value, or nothing to patch.
            LoopError: the template is not rendered by `stream_template`.
        """
        return rendering.patch(*things)

    def _html(self, page: Page, head: Position, template: Any, context: dict[str, Any]) -> Response:
        # A private loop begins with its stream, so its page has no position.
        position = "" if page.source is not None else str(head)
        rendered = Rendering("page", position, page.channels)
        with rendered.entered():
            response = make_response(render_template(template, **context))
        if painted := _painted(page):
            self._say_painted(response, rendered, head, painted, template)
        if not rendered.scripts and b"EventSource" not in response.get_data():
            self._warn_of(template)
        response.headers["Cache-Control"] = "private, no-cache"
        return response

    def _say_painted(
        self, response: Response, rendered: Rendering, head: Position, painted: list[Painted], template: Any
    ) -> None:
        """Has the script of a page say what its HTML shows; that is known only now that it is made."""
        html = response.get_data(as_text=True)
        whole, lacking = rendering.shown(painted, html)
        for channel, missing in lacking.items():
            if self._is_first(name_of(template), channel):
                logger.warning(
                    "afterload: %r shows some of what the loop %r has brought, but not %s; so its pages fetch "
                    "themselves once more. Show that from live.state(%r) as well, or nothing of it",
                    name_of(template),
                    channel,
                    ", ".join(missing),
                    channel,
                )
        said = Markup('data-position="{}" data-painted="{}"').format(
            head.with_painted(rendered.channels, whole), json.dumps([one.paint.channel for one in painted])
        )
        for script in dict.fromkeys(rendered.scripts):
            if script not in html:
                raise LoopError(
                    f"{name_of(template)!r} shows a state, so its script has to say so; but what live_client() has "
                    "returned is not in the page as it was"
                )
            html = html.replace(script, script.replace(f'data-position="{rendered.position}"', said))
        response.set_data(html)

    def _is_first(self, *what: str) -> bool:
        with self._warning:
            if what in self._warned:
                return False
            self._warned.add(what)
            return True

    def _warn_of(self, template: Any) -> None:
        name = name_of(template)
        if not self._is_first(name):
            return
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
        # A poll is told of the ends, as its 204 says something else.
        if wanted.close or (wanted.wire != "poll" and self.is_over(page, wanted.position)):
            page.close()
            return current_app.response_class(status=204, headers={"Cache-Control": "no-store"})
        return written(Events(self, page, wanted))


class _NoJobError(JobError, NotFound):
    """A view that asks for a job that there is not is answered with 404."""

    def __init__(self, id: str) -> None:
        NotFound.__init__(self, "There is no such job, or it is not remembered any more.")
        self.id = id

    __str__ = JobError.__str__


_named: weakref.WeakValueDictionary[str, Live] = weakref.WeakValueDictionary()  # those that serve


def _namespace_of(app: Flask) -> str:
    """The namespace of an app that names none."""
    name = checked("namespace", os.environ.get("AFTERLOAD_NAMESPACE", ""), str)
    return name or default_namespace(app.name, app.root_path)


def _painted(page: Page) -> list[Painted]:
    """The channels of a page of whose states this request has shown something."""
    found: dict[str, Painted] = request.environ.get(PAINTED, {})
    return [one for name, one in found.items() if name in page.channels and one.paint.is_touched]


def _position(page: Page, head: Position, html: str, template: Any) -> Position:
    """That of a document, which goes on from what is in it.

    Raises:
        LoopError: it cannot.
    """
    whole, lacking = rendering.shown(_painted(page), html)
    for channel, missing in lacking.items():
        raise LoopError(
            f"{name_of(template)!r} shows some of what the loop {channel!r} has brought, but not {', '.join(missing)}, "
            f"and a document cannot fetch itself: show that from live.state({channel!r}) as well, or nothing of it"
        )
    return head.with_painted(page.channels, whole)


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "replace")
