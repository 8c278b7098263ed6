"""The Flask extension: one URL that is a page and its stream, in apps of every shape."""

from __future__ import annotations

import doctest
import gc
import logging
import re
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import (
    Blueprint,
    Flask,
    Response,
    abort,
    current_app,
    make_response,
    redirect,
    render_template,
    request,
    session,
    url_for,
)
from flask.testing import FlaskClient
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from jinja2 import DictLoader
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.test import TestResponse

from afterload import LoopError, SettingError, text
from afterload import flask as module
from afterload.flask import Live
from afterload.testing import follow

SSE = {"Accept": "text/event-stream"}
TEMPLATES = {
    "page.html": "<p id=data>{{ title }}</p>{{ live_client() }}",
    "nonce.html": "{{ live_client(nonce=nonce) }}",
    "bare.html": "<script>new EventSource('')</script>",
    "still.html": "<p>still</p>",
    "macro.html": "{% macro client() %}{{ live_client() }}{% endmacro %}",
    "imports.html": "{% import 'macro.html' as m %}{{ m.client() }}",
}
POSITION = re.compile(r'data-position="([^"]*)"')

MakeApp = Callable[..., tuple[Flask, Live]]


def counting() -> Iterator[Any]:
    yield {"#data": 1}


def new_app(name: str = "shop") -> Flask:
    app = Flask(name)
    app.secret_key = "test"
    app.jinja_loader = DictLoader(TEMPLATES)
    return app


@pytest.fixture
def make() -> Iterator[MakeApp]:
    """Makes an app with its Live; what they started is ended after the test."""
    lives: list[Live] = []

    def make(**options: Any) -> tuple[Flask, Live]:
        app = new_app()
        lives.append(Live(app, **options))
        return app, lives[-1]

    yield make
    for live in lives:
        live.close()


@pytest.fixture
def app(make: MakeApp) -> Flask:
    """An app with a page of its own loop, and one that follows a channel."""
    app, live = make()

    @app.get("/own")
    def own() -> Response:
        return live.page("page.html", counting(), title="Own")

    @app.get("/orders")
    def orders() -> Response:
        return live.page("page.html", "orders", title="Orders")

    return app


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


def live_of(app: Flask) -> Live:
    live: Live = app.extensions["afterload"]
    return live


def opened(client: FlaskClient, url: str, **options: Any) -> TestResponse:
    """A stream's status and headers."""
    headers = {**SSE, **options.pop("headers", {})}
    with client.get(url, headers=headers, buffered=False, **options) as response:
        return response


def position(page: TestResponse) -> str:
    found = POSITION.search(page.text)
    assert found is not None
    return found[1]


def test_the_examples_in_the_docstrings_hold() -> None:
    assert doctest.testmod(module).failed == 0


# One URL


@pytest.mark.parametrize("url", ["/own", "/orders"])
@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("text/html", "text/html"),
        ("text/html,application/xhtml+xml,*/*;q=0.8", "text/html"),
        ("*/*", "text/html"),
        ("", "text/html"),
        ("text/html, text/event-stream;q=0.9", "text/html"),
        ("text/event-stream;q=0", "text/html"),
        ("text/event-stream", "text/event-stream"),
        ("text/event-stream, */*;q=0.1", "text/event-stream"),
        ("text/html;q=0.5, text/event-stream;q=0.6", "text/event-stream"),
    ],
)
def test_accept_chooses_between_the_page_and_its_stream(
    client: FlaskClient, url: str, accept: str, kind: str
) -> None:
    response = opened(client, url, headers={"Accept": accept})
    assert (response.status_code, response.content_type) == (200, f"{kind}; charset=utf-8")
    assert "Accept" in response.vary


def test_without_an_accept_header_it_is_the_page(client: FlaskClient) -> None:
    assert client.get("/own").mimetype == "text/html"


@pytest.mark.parametrize("accept", ["*/*", "text/event-stream"])
def test_head_is_the_page_without_its_body(client: FlaskClient, accept: str) -> None:
    response = client.head("/own", headers={"Accept": accept})
    assert (response.status_code, response.mimetype, response.data) == (200, "text/html", b"")
    assert "Accept" in response.vary


def test_a_post_is_answered_with_the_page(make: MakeApp) -> None:
    app, live = make()
    app.add_url_rule("/", "/", lambda: live.page("page.html", "orders"), methods=["POST"])
    assert app.test_client().post("/", headers=SSE).mimetype == "text/html"


def test_the_page_is_revalidated_and_the_stream_never_kept(client: FlaskClient) -> None:
    for url in ("/own", "/orders"):
        page, stream = client.get(url), opened(client, url)
        assert page.headers["Cache-Control"] == "private, no-cache"
        assert stream.headers["Cache-Control"] == "no-store, no-transform"
        assert stream.headers["X-Accel-Buffering"] == "no"
        assert "Content-Length" not in stream.headers


def test_the_end_of_everything_is_a_204_that_is_not_kept_either(client: FlaskClient) -> None:
    end = follow(client, "/own")[-1]
    response = client.get("/own", headers={**SSE, "Last-Event-ID": end.id})
    assert (response.status_code, response.data) == (204, b"")
    assert response.headers["Cache-Control"] == "no-store"
    assert "Accept" in response.vary


def test_the_template_gets_its_variables_and_the_client(client: FlaskClient) -> None:
    page = client.get("/orders")
    assert "<p id=data>Orders</p>" in page.text
    assert re.search(r'<script src="/_afterload/afterload.js\?v=\w+" data-position="[^"]+" async>', page.text)


def test_variables_may_have_any_name_but_those_of_the_options(make: MakeApp) -> None:
    app, live = make()
    app.jinja_loader = DictLoader({"x.html": "{{ template }} {{ self_ }} {{ sources }}{{ live_client() }}"})
    app.add_url_rule(
        "/", "/", lambda: live.page("x.html", "orders", template="a", self_="b", sources="c", page="d")
    )
    assert app.test_client().get("/").text.startswith("a b c<script")


def test_a_list_of_templates_renders_the_first_that_exists(make: MakeApp) -> None:
    app, live = make()
    app.add_url_rule("/", "/", lambda: live.page(["none.html", "page.html"], "orders", title="found"))
    assert "found" in app.test_client().get("/").text


def test_what_is_added_to_the_response_is_sent_with_the_page_and_the_stream(make: MakeApp) -> None:
    app, live = make()

    @app.get("/")
    def view() -> Response:
        response = make_response(live.page("page.html", counting()))
        response.headers["Content-Security-Policy"] = "default-src 'self'"
        response.set_cookie("seen", "1")
        response.vary.add("Cookie")
        return response

    @app.get("/accepted")
    def accepted() -> tuple[Response, int, dict[str, str]]:
        return live.page("page.html", counting()), 202, {"X-Job": "7"}

    client = app.test_client()
    for headers in ({}, SSE):
        response = opened(client, "/", headers={"Accept": "text/html", **headers})
        assert response.headers["Content-Security-Policy"] == "default-src 'self'"
        assert client.get_cookie("seen") is not None
        assert {"Accept", "Cookie"} <= set(response.vary)
        client.delete_cookie("seen")
    page, stream = client.get("/accepted"), opened(client, "/accepted")
    assert (page.status_code, page.headers["X-Job"]) == (202, "7")
    # an EventSource takes nothing but 200
    assert (stream.status_code, stream.headers["X-Job"]) == (200, "7")
    assert follow(client, "/accepted")[0].patches == [text("#data", 1)]


def test_the_session_is_saved_with_a_stream_too(make: MakeApp) -> None:
    app, live = make()

    @app.get("/")
    def view() -> Response:
        session["streams"] = session.get("streams", 0) + 1
        return live.page("page.html", "orders")

    client = app.test_client()
    opened(client, "/")
    opened(client, "/")
    with client.session_transaction() as saved:
        assert saved["streams"] == 2


# The view decides who follows


def test_the_view_decides_at_every_connect(make: MakeApp) -> None:
    app, live = make()
    started: list[int] = []

    def loop() -> Iterator[Any]:
        started.append(1)
        yield {"#data": 1}

    @app.get("/<kind>")
    def view(kind: str) -> Any:
        if kind == "secret":
            abort(403)
        if kind == "nothing":
            abort(404)
        if "user" not in session:
            return redirect("/login")
        return live.page("page.html", loop())

    client = app.test_client()
    assert opened(client, "/secret").status_code == 403
    assert opened(client, "/nothing").status_code == 404
    refused = opened(client, "/mine")
    assert (refused.status_code, refused.location) == (302, "/login")
    assert not started
    with client.session_transaction() as saved:
        saved["user"] = "ann"
    assert follow(client, "/mine")[0].patches == [text("#data", 1)]
    with client.session_transaction() as saved:
        del saved["user"]
    assert opened(client, "/mine").status_code == 302
    assert started == [1]


def test_a_stream_that_the_view_made_and_did_not_return_starts_nothing(make: MakeApp) -> None:
    app, live = make()
    started: list[int] = []

    def loop() -> Iterator[Any]:
        started.append(1)
        yield {}

    @app.get("/")
    def view() -> str:
        live.page("page.html", loop())
        return "something else"

    @app.get("/other")
    def other() -> Response:
        live.page("page.html", loop())
        return Response("data: mine\n\n", mimetype="text/event-stream")

    client = app.test_client()
    assert client.get("/", headers=SSE).text == "something else"
    assert client.get("/other", headers=SSE).text == "data: mine\n\n"
    assert not started


def test_hooks_see_the_stream_as_a_response_and_may_replace_it(make: MakeApp) -> None:
    app, live = make()
    seen: list[str] = []
    maintenance = False
    app.add_url_rule("/", "/", lambda: live.page("page.html", counting()))

    @app.after_request
    def after(response: Response) -> Response:
        seen.append(str(response.mimetype))
        if maintenance:
            return Response("closed for today", mimetype="text/html")
        response.headers["X-Hook"] = "was here"
        return response

    client = app.test_client()
    assert opened(client, "/").headers["X-Hook"] == "was here"
    assert seen == ["text/event-stream"]
    maintenance = True
    response = client.get("/", headers=SSE)
    assert (response.mimetype, response.text) == ("text/html", "closed for today")


def test_a_hook_that_refuses_leaves_nothing_behind(make: MakeApp) -> None:
    app, live = make()
    app.add_url_rule("/", "/", lambda: live.page("page.html", counting()))

    @app.after_request
    def after(response: Response) -> Response:
        response.status_code = 429
        return response

    assert opened(app.test_client(), "/").status_code == 429
    assert live.stats()["loops"] == live.stats()["viewers"] == 0


def test_the_request_is_over_before_the_stream_begins(make: MakeApp) -> None:
    app, live = make()
    torn_down: list[bool] = []
    app.teardown_request(lambda error: torn_down.append(True))
    app.add_url_rule("/", "/", lambda: live.page("page.html", "orders"))
    with app.test_client().get("/", headers=SSE, buffered=False) as response:
        assert torn_down == [True]
        assert response.status_code == 200


@pytest.mark.parametrize("kind", [None, type("Custom", (Response,), {"default_mimetype": "text/html"})])
def test_an_app_may_have_a_response_class_of_its_own(make: MakeApp, kind: type[Response] | None) -> None:
    app, live = make()
    if kind is not None:
        app.response_class = kind
    seen: list[type] = []
    app.add_url_rule("/", "/", lambda: live.page("page.html", counting()))

    @app.after_request
    def after(response: Response) -> Response:
        seen.append(type(response))
        return response

    client = app.test_client()
    assert client.get("/").mimetype == "text/html"
    assert follow(client, "/")[0].patches == [text("#data", 1)]
    assert all(issubclass(each, kind or Response) for each in seen)


# Where the app is, and how it is put together


def test_a_blueprint_has_its_own_templates_and_urls(make: MakeApp, tmp_path: Path) -> None:
    app, live = make()
    (tmp_path / "inner.html").write_text("{{ url_for('.there') }} {{ live_client() }}")
    blueprint = Blueprint("admin", "admin", template_folder=str(tmp_path), url_prefix="/admin")

    @blueprint.get("/here")
    def here() -> Response:
        return live.page("inner.html", counting())

    @blueprint.get("/there")
    def there() -> str:
        return url_for("admin.here")

    app.register_blueprint(blueprint)
    client = app.test_client()
    page = client.get("/admin/here").text
    assert page.startswith('/admin/there <script src="/_afterload/afterload.js?v=')
    assert follow(client, "/admin/here")[0].patches == [text("#data", 1)]


@pytest.mark.parametrize(
    ("config", "base", "environ"),
    [
        ({}, "http://localhost/shop", {}),
        ({}, "http://localhost", {"SCRIPT_NAME": "/shop"}),
        ({"APPLICATION_ROOT": "/shop"}, None, {}),
        ({"SERVER_NAME": "example.org", "APPLICATION_ROOT": "/shop"}, None, {}),
    ],
)
def test_the_client_is_found_below_the_root_of_the_app(
    app: Flask, config: dict[str, str], base: str | None, environ: dict[str, str]
) -> None:
    app.config.update(config)
    client = app.test_client()
    page = client.get("/orders", base_url=base, environ_overrides=environ)
    found = re.search(r'src="(/shop)(/_afterload/[^"]+)"', page.text)
    assert found is not None
    script = client.get(found[2], base_url=base, environ_overrides=environ)
    assert (script.status_code, script.mimetype) == (200, "text/javascript")


def test_an_app_that_matches_hosts_serves_the_client_on_each(make: MakeApp) -> None:
    app = Flask("hosts", host_matching=True, static_host="static.example")
    app.jinja_loader = DictLoader(TEMPLATES)
    live = Live(app)
    app.add_url_rule("/", "page", lambda host: live.page("page.html", "orders"), host="<host>")
    client = app.test_client()
    for base in ("http://one.example", "http://two.example:8080"):
        found = re.search(r'src="([^"]+)"', client.get("/", base_url=base).text)
        assert found is not None
        assert found[1].startswith("/_afterload/")  # of the page's own host, whatever its policy allows
        assert client.get(found[1], base_url=base).mimetype == "text/javascript"
    live.close()


def test_the_app_may_be_given_as_current_app() -> None:
    live = Live()
    app = new_app()
    with app.app_context():
        live.init_app(current_app)  # type: ignore[arg-type]
    app.add_url_rule("/", "/", lambda: live.page("page.html", counting()))
    assert follow(app.test_client(), "/")[0].patches == [text("#data", 1)]
    live.close()


def test_an_app_factory_connects_a_live_that_pages_and_loops_know_already() -> None:
    live = Live(linger=3)
    blueprint = Blueprint("main", "main")
    blueprint.add_url_rule("/", "page", lambda: live.page("page.html", clock))

    @live.loop
    def clock() -> Iterator[Any]:
        yield {"#time": 1}

    def create_app() -> Flask:
        app = new_app()
        app.config["AFTERLOAD_RETRY"] = 700
        app.register_blueprint(blueprint)
        live.init_app(app)
        return app

    app = create_app()
    assert (live.settings.linger, live.settings.retry) == (3.0, 700)
    assert app.extensions["afterload"] is live
    assert [block.event for block in follow(app.test_client(), "/")][-1] == "end"
    live.close()


def test_two_apps_in_one_process_know_nothing_of_each_other(make: MakeApp) -> None:
    (one, live_one), (two, live_two) = make(), make()
    for app, live in ((one, live_one), (two, live_two)):
        app.add_url_rule("/", "/", lambda live=live: live.page("page.html", "orders"))
    live_one.publish("orders", {"#data": "one"})
    live_two.publish("orders", {"#data": "two"})
    assert follow(one.test_client(), "/", limit=1)[0].patches == [text("#data", "one")]
    assert follow(two.test_client(), "/", limit=1)[0].patches == [text("#data", "two")]
    assert position(one.test_client().get("/")) != position(two.test_client().get("/"))


@pytest.mark.parametrize("subdomain", ["", "chat"])
def test_a_websocket_of_the_apps_own_is_left_alone(subdomain: str) -> None:
    app = Flask("shop", subdomain_matching=True)
    app.config["SERVER_NAME"] = "shop.example"
    live = Live(app)
    app.jinja_loader = DictLoader(TEMPLATES)

    @app.route("/talk", websocket=True, subdomain=subdomain)
    def talk() -> str:
        return request.environ["HTTP_UPGRADE"]

    @app.get("/")
    def index() -> Any:
        return live.page("page.html", "orders")

    asked = {"Upgrade": "websocket", "Connection": "Upgrade"}
    host = f"http://{subdomain}.shop.example" if subdomain else "http://shop.example"
    client = app.test_client()
    assert client.get("/talk", base_url=host, headers=asked).text == "websocket"
    page = client.get("/", base_url="http://shop.example", headers=asked)
    assert page.status_code == 400  # it has come to the view, and is no whole handshake
    live.close()


def test_a_websocket_of_what_stands_around_the_app_is_left_alone() -> None:
    app = new_app()
    inner = app.wsgi_app

    def around(environ: Any, start_response: Any) -> Any:
        if not environ["PATH_INFO"].startswith("/socket.io/"):
            return inner(environ, start_response)
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [environ["HTTP_UPGRADE"].encode()]

    app.wsgi_app = around  # type: ignore[method-assign]
    live = Live(app)
    asked = {"Upgrade": "websocket", "Connection": "Upgrade"}
    assert app.test_client().get("/socket.io/", headers=asked).text == "websocket"
    live.close()


def test_whole_urls_of_a_page_are_the_same_over_a_websocket(make: MakeApp) -> None:
    app, live = make()
    made = []

    @app.get("/")
    def index() -> Any:
        made.append(url_for("index", _external=True))
        return live.page("page.html", "orders")

    app.test_client().get("/")
    app.test_client().get("/", headers={"Upgrade": "websocket", "Connection": "Upgrade"})
    assert made == ["http://localhost/"] * 2


@pytest.mark.parametrize("inside", [False, True])
def test_an_app_may_be_mounted_in_another_that_has_a_live_too(make: MakeApp, inside: bool) -> None:
    inner, inner_live = make()
    inner.add_url_rule("/", "/", lambda: inner_live.page("page.html", counting()))
    outer = new_app("outer")
    outer_live = None if inside else Live(outer)
    outer.wsgi_app = DispatcherMiddleware(outer.wsgi_app, {"/inner": inner})  # type: ignore[method-assign]
    outer_live = outer_live or Live(outer)
    outer.add_url_rule("/", "/", lambda: outer_live.page("page.html", counting()))
    client = outer.test_client()
    for url in ("/", "/inner/"):
        assert follow(client, url)[0].patches == [text("#data", 1)]
    assert inner_live.stats()["connects"] == outer_live.stats()["connects"] == 1
    outer_live.close()


def test_a_live_belongs_to_one_app(make: MakeApp) -> None:
    app, live = make()
    with pytest.raises(LoopError, match="this Live belongs to <Flask 'shop'> already; make one for each app"):
        live.init_app(new_app())
    with pytest.raises(LoopError, match="<Flask 'shop'> has a Live already"):
        Live(app)


def test_a_page_of_another_apps_live_is_refused(make: MakeApp) -> None:
    (_, live), (other, _) = make(), make()
    other.testing = True
    other.add_url_rule("/", "/", lambda: live.page("page.html", "orders"))
    for headers in ({}, SSE):
        with pytest.raises(LoopError, match="belongs to <Flask 'shop'>, and the request is one to"):
            other.test_client().get("/", headers=headers)


def test_before_it_has_an_app_a_live_says_so() -> None:
    live = Live()
    for use in (lambda: live.publish("orders", "x"), lambda: live.hub, live.stats, live.step_context):
        with pytest.raises(LoopError, match=r"no app yet: Live\(app\), or live\.init_app\(app\)"):
            use()


def test_outside_a_request_flask_says_so(make: MakeApp) -> None:
    app, live = make()
    with pytest.raises(RuntimeError, match="Working outside of"):
        live.page("page.html", "orders")
    with app.test_request_context(), pytest.raises(LoopError, match=r"use app\.test_client\(\)"):
        live.page("page.html", "orders")


def test_nothing_starts_before_the_first_request(make: MakeApp) -> None:
    before = set(threading.enumerate())
    app, live = make()
    app.add_url_rule("/", "/", lambda: live.page("page.html", counting()))
    assert app.test_client().get("/").status_code == 200
    assert set(threading.enumerate()) <= before


# Settings


def test_the_apps_configuration_counts_more_than_arguments() -> None:
    app = new_app()
    app.config.from_mapping(AFTERLOAD_LINGER=4, AFTERLOAD_ALLOW_CROSS_SITE=True, OTHER=1)
    live = Live(app, linger=2, retry=600)
    assert (live.settings.linger, live.settings.retry, live.settings.allow_cross_site) == (4.0, 600, True)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("AFTERLOAD_LINGR", 1, "begins with AFTERLOAD_: there is no setting 'lingr'; did you mean 'linger'"),
        ("AFTERLOAD_LINGER", "15", "begins with AFTERLOAD_: setting 'linger' is a number, not '15'"),
        ("AFTERLOAD_RETRY", True, "begins with AFTERLOAD_: setting 'retry' is a whole number, not True"),
    ],
)
def test_a_wrong_setting_in_the_configuration_is_named_and_can_be_mended(
    name: str, value: Any, said: str
) -> None:
    app = new_app()
    app.config[name] = value
    live = Live()
    with pytest.raises(SettingError, match=re.escape(said)):
        live.init_app(app)
    del app.config[name]
    live.init_app(app)


def test_a_wrong_argument_is_named() -> None:
    with pytest.raises(SettingError, match="no setting 'hearbeat'; did you mean 'heartbeat'"):
        Live(hearbeat=3)


# The client in the page


def test_the_script_is_kept_for_ever_by_its_version_and_revalidated_without(client: FlaskClient) -> None:
    found = re.search(r'src="([^"]+)"', client.get("/orders").text)
    assert found is not None
    script = client.get(found[1])
    assert (script.status_code, script.content_type) == (200, "text/javascript; charset=utf-8")
    assert script.headers["Cache-Control"] == "public, max-age=31536000, immutable"
    assert script.headers["X-Content-Type-Options"] == "nosniff"
    assert "data-live" in script.text
    for url in ("/_afterload/afterload.js", "/_afterload/afterload.js?v=older"):
        other = client.get(url)
        assert (other.headers["Cache-Control"], other.data) == ("no-cache", script.data)
        again = client.get(url, headers={"If-None-Match": other.headers["ETag"]})
        assert (again.status_code, again.data) == (304, b"")


def test_the_script_element_may_have_a_nonce_which_is_escaped(make: MakeApp) -> None:
    app, live = make()
    app.add_url_rule("/", "/", lambda: live.page("nonce.html", "orders", nonce=request.args.get("nonce")))
    client = app.test_client()
    assert ' async nonce="abc123"></script>' in client.get("/?nonce=abc123").text
    assert 'nonce="&#34;&gt;&lt;script&gt;"' in client.get('/?nonce="><script>').text
    for none in ("/", "/?nonce="):
        assert "nonce" not in client.get(none).text


def test_the_client_may_stand_in_a_macro_that_is_imported(make: MakeApp) -> None:
    app, live = make()
    app.add_url_rule("/", "/", lambda: live.page("imports.html", "orders"))
    assert "afterload.js" in app.test_client().get("/").text


def test_the_client_outside_a_page_is_a_clear_error(make: MakeApp) -> None:
    app, live = make()
    app.testing = True
    app.add_url_rule("/", "/", lambda: render_template("page.html"))

    @app.get("/after")
    def after() -> str:
        live.page("page.html", "orders")
        return render_template("page.html")

    for url in ("/", "/after"):
        with pytest.raises(LoopError, match=r"live_client\(\) is for templates that live\.page\(\) renders"):
            app.test_client().get(url)


def test_a_template_without_a_client_is_one_warning(make: MakeApp, caplog: pytest.LogCaptureFixture) -> None:
    app, live = make()
    app.add_url_rule("/<name>", "page", lambda name: live.page(name, "orders"))
    client = app.test_client()
    with app.app_context():  # which all requests then share, with its `g`
        for _ in range(3):
            for name in ("page.html", "bare.html", "still.html"):
                client.get(f"/{name}")
    records = [r for r in caplog.records if r.name == "afterload.flask"]
    assert [r.levelno for r in records] == [logging.WARNING]
    assert "'still.html' has neither {{ live_client() }} nor an EventSource" in records[0].getMessage()


# The position that a page carries


def test_the_position_is_taken_before_the_view_reads_anything(make: MakeApp) -> None:
    app, live = make()
    live.publish("orders", {"#data": "old"})

    @app.before_request
    def before() -> None:
        live.publish("orders", {"#data": "while the hooks ran"})

    @app.get("/")
    def view() -> Response:
        if request.headers.get("Accept") != "text/event-stream":
            live.publish("orders", {"#data": "after the view had read its rows"})
        return live.page("page.html", "orders")

    client = app.test_client()
    at = position(client.get("/"))
    app.before_request_funcs.clear()
    [block] = follow(client, "/", limit=1, headers={"Last-Event-ID": at})
    assert (block.event, block.patches) == ("patch", [text("#data", "after the view had read its rows")])
    # had it been taken when the template was rendered, this page would now know that it has everything
    assert at.endswith(".1~")


def test_two_pages_of_one_request_carry_the_same_position(make: MakeApp) -> None:
    app, live = make()

    @app.get("/")
    def view() -> str:
        one = live.page("page.html", "a").get_data(as_text=True)
        live.publish("a", {"#data": 1})
        return one + live.page("page.html", "b").get_data(as_text=True)

    one, two = POSITION.findall(app.test_client().get("/").text)
    assert one == two != ""


def test_the_page_of_a_private_loop_has_no_position_yet(client: FlaskClient) -> None:
    assert position(client.get("/own")) == ""


def test_al_position_counts_where_there_is_no_last_event_id(app: Flask, client: FlaskClient) -> None:
    live = live_of(app)
    first, second, third = (live.publish("orders", {f"#n{i}": i}) for i in range(3))
    [block] = follow(client, f"/orders?a=%ff&al-position={first}&al-position={second}", limit=1)
    assert (block.event, block.id) == ("patch", third)
    assert block.patches == [text("#n1", 1), text("#n2", 2)]
    headers = {"Last-Event-ID": second}
    [block] = follow(client, f"/orders?al-position={first}", limit=1, headers=headers)
    assert block.patches == [text("#n2", 2)]


# Generators of requests that do not start them


def test_the_page_closes_the_generator_that_it_was_given(make: MakeApp) -> None:
    app, live = make()
    closed: list[str] = []

    def primed() -> Iterator[Any]:
        try:
            yield "first"
            yield "second"
        finally:
            closed.append(threading.current_thread().name)

    @app.get("/")
    def view() -> Response:
        loop = primed()
        next(loop)
        kept.append(loop)
        return live.page("page.html", loop)

    kept: list[Any] = []
    app.test_client().get("/")
    assert closed == [threading.current_thread().name]
    # nor does a stream that is refused, or over, start it
    opened(app.test_client(), "/", headers={"Al-Close": "1"})
    opened(app.test_client(), "/", headers={"Sec-Fetch-Site": "cross-site"})
    assert len(closed) == 3


@pytest.mark.filterwarnings("error")
def test_an_async_generator_that_no_stream_starts_leaves_no_warning(make: MakeApp) -> None:
    app, live = make()
    started: list[int] = []

    async def loop() -> AsyncIterator[Any]:
        started.append(1)
        yield {}

    app.add_url_rule("/", "/", lambda: live.page("page.html", loop()))
    unraisable: list[Any] = []
    hook, sys.unraisablehook = sys.unraisablehook, unraisable.append
    try:
        app.test_client().get("/")
        opened(app.test_client(), "/", headers={"Al-Close": "1"})
        gc.collect()
    finally:
        sys.unraisablehook = hook
    assert not started
    assert not unraisable


# Who asks


@pytest.mark.parametrize("site", ["same-origin", "same-site", "none", "", "nonsense"])
def test_a_page_of_the_same_site_may_follow(client: FlaskClient, site: str) -> None:
    assert opened(client, "/own", headers={"Sec-Fetch-Site": site}).status_code == 200


def test_a_page_of_another_site_starts_nothing_here(app: Flask, client: FlaskClient) -> None:
    response = opened(client, "/own", headers={"Sec-Fetch-Site": "cross-site"})
    assert response.status_code == 403
    assert live_of(app).stats()["loops"] == 0
    # a link on another site is no stream
    page = client.get("/own", headers={"Accept": "text/html", "Sec-Fetch-Site": "cross-site"})
    assert page.status_code == 200


def test_a_page_of_another_site_cannot_end_a_loop(app: Flask, client: FlaskClient) -> None:
    with client.get("/own", headers=SSE, buffered=False) as response:
        chunk = next(iter(response.response))
        found = re.search(rb"^id: (\S+)$", chunk, re.MULTILINE)
        assert found is not None
        key = found[1].decode()
        headers = {"Al-Close": "1", "Last-Event-ID": key, "Sec-Fetch-Site": "cross-site"}
        assert opened(client, "/own", headers=headers).status_code == 403
        assert live_of(app).loops.find_private(key.partition(".")[0], "counting", 0) is not None


def test_other_sites_may_follow_where_the_app_allows_it(make: MakeApp) -> None:
    app, live = make(allow_cross_site=True)
    app.add_url_rule("/", "/", lambda: live.page("page.html", counting()))
    headers = {"Sec-Fetch-Site": "cross-site"}
    assert follow(app.test_client(), "/", headers=headers)[0].patches == [text("#data", 1)]


# Whatever a client sends

HOSTILE = st.one_of(
    st.text(st.characters(max_codepoint=255, exclude_characters="\r\n"), max_size=200),
    st.from_regex(r"\A[A-Za-z0-9_~-]{0,70}\.[0-9]{0,20}~{0,2}\Z"),
    st.sampled_from(["0", "x" * 5000, "\xff\xfe", "\0", "e.1\0", "..", "\u00e9.1", "e1.١"]),
)


def as_wsgi(text: str) -> str:
    """Any text as a WSGI server gives it: bytes as latin-1."""
    return text.encode("latin-1" if max(text, default="") <= "\xff" else "utf-8").decode("latin-1")


@pytest.fixture(scope="module")
def attacked() -> Iterator[Flask]:
    app = new_app()
    live = Live(app, max_loops=10_000)
    app.add_url_rule("/own", "own", lambda: live.page("page.html", counting()))
    app.add_url_rule("/lost", "lost", lambda: live.page("page.html", counting(), restart=False))
    app.add_url_rule("/shared", "shared", lambda: live.page("page.html", "orders"))
    live.publish("orders", {"#data": 1})
    yield app
    live.close()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(url=st.sampled_from(["/own", "/lost", "/shared"]), sent=HOSTILE, query=HOSTILE, known=st.booleans())
def test_no_bytes_of_a_client_are_an_error(
    attacked: Flask, caplog: pytest.LogCaptureFixture, url: str, sent: str, query: str, known: bool
) -> None:
    """A stream is asked for, so the answer is one, and the hub goes on: all else would stop an EventSource."""
    # what a page sends that was told of its loop's end already: the one position there is that is not in any log
    assume(not (sent or query).startswith("~lost-"))
    attacked.testing = True  # an exception in a view reaches the test
    live = live_of(attacked)
    client = attacked.test_client()
    if known:
        sent = f"{live.hub.log.epoch}.{sent}"
    raw = {
        "HTTP_ACCEPT": "text/event-stream",
        "HTTP_LAST_EVENT_ID": as_wsgi(sent),
        "QUERY_STRING": f"al-position={as_wsgi(query)}",
    }
    with client.get(url, environ_overrides=raw, buffered=False) as response:
        assert (response.status_code, response.mimetype) == (200, "text/event-stream")
        assert next(iter(response.response)).startswith(b"event: hello\n")
    assert live.hub.poller.errors == 0
    assert not [r for r in caplog.records if r.levelno >= logging.ERROR]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(["HTTP_ACCEPT", "HTTP_AL_CLOSE", "HTTP_SEC_FETCH_SITE", "QUERY_STRING"]),
    value=HOSTILE,
)
def test_no_header_of_a_client_is_an_error(attacked: Flask, name: str, value: str) -> None:
    assume(value.strip(" \t").lower() not in ("1", "cross-site"))  # these say something
    attacked.testing = True
    value = as_wsgi(value)
    for accept in ("text/html", f"text/event-stream;x={value}"):
        raw = {"HTTP_ACCEPT": accept, name: value}
        with attacked.test_client().get("/shared", environ_overrides=raw, buffered=False) as response:
            assert response.status_code == 200
    with attacked.test_client().get("/_afterload/afterload.js", environ_overrides=raw) as response:
        assert response.status_code == 200


def test_after_all_that_a_viewer_is_still_served(attacked: Flask) -> None:
    live = live_of(attacked)
    deadline = time.monotonic() + 10
    while live.stats()["viewers"]:
        assert time.monotonic() < deadline, "viewers are left"
        time.sleep(0.002)
    live.publish("orders", {"#data": "fine"})
    assert follow(attacked.test_client(), "/shared", limit=1)[0].patches == [text("#data", "fine")]
    assert follow(attacked.test_client(), "/own")[-1].status == "done"
