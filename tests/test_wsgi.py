"""The middleware: the framework runs to its end, and then the hub answers; whatever fails, somebody does."""

from __future__ import annotations

import contextvars
import functools
import gc
import logging
import os
import socket
import threading
import wsgiref.simple_server
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import flask
import pytest
import werkzeug.serving
import werkzeug.test

import afterload.flask
from afterload import handover, text
from afterload.live import Live
from afterload.negotiate import Request
from afterload.settings import Settings
from afterload.wsgi import HEAD, STREAM, Middleware
from tests.handover.raw import Raw, dechunked, get
from tests.servers.process import wait_until

EVENT_STREAM = ("Content-Type", "text/event-stream; charset=utf-8")
Address = tuple[str, int]


@pytest.fixture
def live() -> Iterator[Live]:
    live = Live(Settings(linger=0.2))
    yield live
    live.close()


@contextmanager
def serve(app: Any, kind: str = "werkzeug") -> Iterator[Address]:
    """A real server in a thread: Werkzeug's, whose connections are taken, or one that nobody knows."""
    server: Any
    if kind == "werkzeug":
        server = werkzeug.serving.make_server("127.0.0.1", 0, app, threaded=True)
    else:
        server = wsgiref.simple_server.make_server(
            "127.0.0.1", 0, app, handler_class=_Quiet, server_class=_Threaded
        )
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server.server_address
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Threaded(wsgiref.simple_server.WSGIServer):
    """wsgiref's server with a thread for each request, as far as it can be told from outside."""

    def process_request(self, request: Any, client_address: Any) -> None:
        def work() -> None:
            self.finish_request(request, client_address)
            self.shutdown_request(request)

        threading.Thread(target=work, daemon=True).start()


class _Quiet(wsgiref.simple_server.WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass

    def get_environ(self) -> dict[str, Any]:
        return super().get_environ() | {"wsgi.multithread": True}

    def handle(self) -> None:
        # As the original, but for `multithread`, which it fixes to False.
        self.raw_requestline = self.rfile.readline(65537)
        if self.parse_request():
            handler = wsgiref.simple_server.ServerHandler(
                self.rfile, self.wfile, self.get_stderr(), self.get_environ(), multithread=True
            )
            handler.request_handler = self  # type: ignore[attr-defined]
            handler.run(self.server.get_app())  # type: ignore[attr-defined]


def request_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if "process_request_thread" in thread.name]


class Events:
    """What a view leaves in the environ for an event stream."""

    content_type = "text/event-stream"
    upgrades = False
    alone = False

    @staticmethod
    def may_have(status: str) -> bool:
        return status.startswith("200")

    def __init__(self, connect: Callable[[], Any]) -> None:
        self._connect = connect
        self.closed = False

    def connect(self, hold: bool) -> Any:
        return self._connect()

    def close(self) -> None:
        self.closed = True


def follower(
    live: Live, *, status: str = "200 OK", headers: tuple[tuple[str, str], ...] = (), channel: str = "news"
) -> Callable[[dict[str, Any], Any], Iterable[bytes]]:
    """A WSGI app: /page is an ordinary page, anything else follows a channel."""

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/page":
            start_response("200 OK", [("Content-Type", "text/plain")])
            return [str(environ[HEAD]).encode()]
        page = live.follow((channel,))
        environ[STREAM] = Events(lambda: live.connect(page, Request("sse")))
        start_response(status, [EVENT_STREAM, *headers])
        return []

    return app


def on(where: Address, path: str = "/") -> Raw:
    raw = Raw(where).ask(path, headers={"Accept": "text/event-stream"})
    raw.until(b"\r\n\r\n")
    return raw


def held(live: Live, count: int) -> None:
    wait_until(lambda: live.viewers("news") == count, 20, f"{count} viewers")


def fields(raw: Raw) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in raw.head.decode("latin-1").split("\r\n")[1:]:
        name, _, value = line.partition(": ")
        found.setdefault(name.lower(), []).append(value)
    return found


# The head that the hub writes is the framework's.


@pytest.mark.parametrize("kind", ["werkzeug", "unknown"])
def test_the_apps_headers_are_the_responses_and_those_of_the_connection_are_not(live, kind):
    headers = (
        ("Set-Cookie", "a=1; Path=/"),
        ("Set-Cookie", "b=2; Path=/"),
        ("X-After", "caf\u00e9"),
        ("Vary", "Accept"),
        ("Content-Length", "0"),
        ("Content-Encoding", "gzip"),
        *([("Transfer-Encoding", "chunked"), ("Keep-Alive", "timeout=5")] if kind == "werkzeug" else []),
    )
    with serve(Middleware(follower(live, headers=headers), live), kind) as where, on(where) as raw:
        raw.until(b"event: hello")
        live.publish("news", text("#a", "one"))
        raw.until(b'"one"')
        found = fields(raw)
        assert found["set-cookie"] == ["a=1; Path=/", "b=2; Path=/"]
        assert found["x-after"] == ["caf\u00e9"]
        assert found["vary"] == ["Accept"]
        assert found["content-type"] == [EVENT_STREAM[1]]
        assert len(found["date"]) == 1
        assert not found.keys() & {"content-length", "content-encoding", "transfer-encoding", "keep-alive"}
        if kind == "werkzeug":
            assert raw.head.startswith(b"HTTP/1.1 200 OK\r\n")
            assert found["connection"] == ["close"]
            assert live.stats()["handovers"] == 1
        else:
            assert live.stats()["fallbacks"] == 1


def test_what_a_wrapper_keeps_of_another_request_is_not_taken():
    """Werkzeug's; with gunicorn's objects it is tried in tests/handover/test_take.py."""
    kept: list[Any] = []
    found: list[Any] = []
    answered = threading.Event()

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/slow":
            kept.append(start_response)
            answered.wait(20)
        else:
            found.append(handover.find(environ, functools.partial(print, kept[0])))
            found.append(handover.find(environ, functools.partial(print, kept[0], start_response)))
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [environ["PATH_INFO"].encode()]

    with serve(app) as where, Raw(where).ask("/slow") as slow:
        wait_until(lambda: bool(kept), 20, "the slow request to have begun")
        assert dechunked(get(where, "/fast").body) == b"/fast"
        answered.set()
        slow.rest()
        assert dechunked(slow.body) == b"/slow"
    refused, claim = found
    assert isinstance(refused, handover.Refused)
    assert "Werkzeug's own is not to be found behind it" in refused.reason
    assert isinstance(claim, handover.Claim)


def test_a_date_that_the_app_gave_is_kept(live):
    date = "Thu, 01 Jan 1970 00:00:00 GMT"
    with serve(Middleware(follower(live, headers=(("Date", date),)), live)) as where, on(where) as raw:
        assert fields(raw)["date"] == [date]


def test_an_ordinary_page_is_the_apps_own_and_has_its_position(live):
    with serve(Middleware(follower(live), live)) as where:
        live.publish("news", text("#a", "one"))
        raw = get(where, "/page")
        assert raw.body.partition(b"\r\n")[2].startswith(f"{live.hub.log.epoch}.1~".encode())
        assert "fallbacks" not in live.stats()


# The framework has run to its end before the connection is held.


def test_hooks_run_the_session_is_saved_and_the_context_is_gone_before_a_viewer_is_held():
    app = flask.Flask("site")
    app.secret_key = "for the session"
    live = afterload.flask.Live(app)
    done: list[str] = []

    @app.get("/")
    def index() -> Any:
        flask.session["user"] = "ada"
        flask.after_this_request(lambda response: done.append("after_this_request") or response)
        response = live.page("none.html", "news")
        response.set_cookie("mine", "1")
        response.call_on_close(lambda: done.append("closed"))
        return response

    @app.after_request
    def after(response: Any) -> Any:
        done.append("after")
        response.headers["X-After"] = "yes"
        return response

    @app.teardown_request
    def teardown(error: BaseException | None) -> None:
        done.append(f"request {error}")

    @app.teardown_appcontext
    def teardown_app(error: BaseException | None) -> None:
        done.append(f"context {error}")

    real = live.connect
    live.connect = lambda *args: done.append("connected") or real(*args)  # type: ignore[method-assign]
    try:
        with serve(app) as where, on(where) as raw:
            raw.until(b"event: hello")
            names = {cookie.partition("=")[0] for cookie in fields(raw)["set-cookie"]}
            assert names == {"session", "mine"}
            assert fields(raw)["x-after"] == ["yes"]
            order = ["after_this_request", "after", "request None", "context None", "closed", "connected"]
            assert done == order
            wait_until(lambda: not request_threads(), 20, "the server's thread to be free")
    finally:
        live.close()


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (lambda: flask.abort(403), 403),
        (lambda: flask.redirect("/login"), 302),
        (lambda: flask.make_response("moved on", 410), 410),
        (lambda: 1 / 0, 500),
    ],
)
def test_a_view_that_answers_something_else_is_answered_with_that(answer, status):
    app = flask.Flask("site")
    app.logger.disabled = True
    live = afterload.flask.Live(app)
    connected = []
    live.connect = lambda *args: connected.append(args)  # type: ignore[method-assign, assignment, misc]

    @app.get("/")
    def index() -> Any:
        live.page("none.html", "news")
        return answer()

    with serve(app) as where:
        raw = get(where, "/", headers={"Accept": "text/event-stream"})
        assert raw.head.startswith(f"HTTP/1.1 {status} ".encode())
        assert b"Traceback" not in raw.data
        assert connected == []
    live.close()


def test_a_hook_that_answers_in_the_place_of_the_view_is_the_answer(live):
    inner = follower(live)

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        inner(environ, lambda *args: None)
        start_response("200 OK", [("Content-Type", "text/html"), ("Content-Length", "6")])
        return [b"closed"]

    with serve(Middleware(app, live)) as where:
        assert get(where, "/").body == b"closed"


def test_an_app_that_fails_after_it_has_started_is_answered_with_its_error_page(live):
    inner = follower(live)

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        inner(environ, start_response)
        try:
            raise RuntimeError("too late")
        except RuntimeError as error:
            start_response(
                "500 Oh",
                [("Content-Length", "5"), EVENT_STREAM],
                (RuntimeError, error, error.__traceback__),
            )
            return [b"sorry"]

    with serve(Middleware(app, live)) as where:
        raw = get(where, "/")
        assert raw.head.startswith(b"HTTP/1.1 500 ")
        assert raw.body == b"sorry"


@pytest.mark.parametrize("path", ["/", "/page"])
def test_an_app_that_starts_its_response_with_its_first_bytes_is_understood(live, path):
    """PEP 3333 allows it, and every middleware that is a generator does it."""
    inner, closed = follower(live), []

    def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        try:
            yield from inner(environ, start_response)
        finally:
            closed.append(environ["PATH_INFO"])

    with serve(Middleware(app, live)) as where, on(where, path) as raw:
        raw.until(b"event: hello" if path == "/" else str(live.hub.log.epoch).encode())
        wait_until(lambda: closed == [path], 20, "the app's body to be closed")


def test_a_stream_that_a_hook_has_made_an_error_is_that_error(live):
    with serve(Middleware(follower(live, status="401 Unauthorized"), live)) as where:
        assert get(where, "/").head.startswith(b"HTTP/1.1 401 Unauthorized")
        assert live.stats()["viewers"] == 0
        assert "connects" not in live.stats()


def test_head_starts_nothing(live):
    with serve(Middleware(follower(live), live)) as where:
        raw = get(where, "/", method="HEAD")
        assert raw.head.startswith(b"HTTP/1.1 200 OK")
        assert raw.body == b""
        assert live.stats()["viewers"] == 0
        assert "connects" not in live.stats()


# What fails is logged, and answered.


def failing(live: Live, error: Exception) -> Any:
    inner = follower(live)

    def fail() -> Any:
        raise error

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        body = inner(environ, start_response)
        environ[STREAM] = Events(fail)
        return body

    return Middleware(app, live)


@pytest.mark.parametrize("kind", ["werkzeug", "unknown"])
def test_a_stream_that_cannot_be_started_is_a_plain_500_and_a_log_record(live, caplog, kind):
    with serve(failing(live, RuntimeError("secret detail")), kind) as where:
        raw = get(where, "/")
    assert b" 500 Internal Server Error\r\n" in raw.data
    assert b"secret detail" not in raw.data
    assert b"Traceback" not in raw.data
    [record] = [r for r in caplog.records if r.name == "afterload.wsgi" and r.levelno == logging.ERROR]
    assert "secret detail" in str(record.exc_info)


@pytest.mark.parametrize(
    "header", [("X-Bad", "a\r\nX-Injected: 1"), ("X-Bad\n", "a"), ("X-Bad", "\u20ac"), ("X-Bad", "a\0")]
)
def test_a_header_that_is_none_is_a_500_and_takes_no_connection(live, caplog, header):
    with serve(Middleware(follower(live, headers=(header,)), live)) as where:
        raw = get(where, "/")
    assert raw.head.startswith(b"HTTP/1.1 500 ")
    assert b"X-Injected" not in raw.data
    assert "handovers" not in live.stats()


def test_without_a_descriptor_for_the_take_the_response_that_was_started_is_streamed(
    live, monkeypatch, caplog
):
    def none_left(connection: socket.socket) -> Any:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(handover, "swap", none_left)
    with serve(Middleware(follower(live, headers=(("X-After", "yes"),)), live)) as where, on(where) as raw:
        raw.until(b"event: hello")
        held(live, 1)
        live.publish("news", text("#a", "one"))
        raw.until(b'"one"')
        assert raw.data.count(b"HTTP/1.") == 1
        assert fields(raw)["x-after"] == ["yes"]
        assert raw.body.count(b"HTTP") == 0
    assert (live.stats()["fallbacks"], "handovers" in live.stats()) == (1, False)
    assert "the connection could not be taken: [Errno 24] Too many open files" in caplog.text


@pytest.mark.parametrize("kind", ["werkzeug", "unknown"])
def test_the_response_is_started_once_and_with_what_the_framework_knew_of_the_request(live, kind):
    request: contextvars.ContextVar[str] = contextvars.ContextVar("request", default="none")
    seen: list[tuple[str, str]] = []
    inner = follower(live)

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        token = request.set(environ["PATH_INFO"])
        try:
            return inner(environ, start_response)
        finally:
            request.reset(token)

    middleware = Middleware(app, live)

    def tracked(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        def start(status: str, headers: Any) -> Any:
            seen.append((status, request.get()))
            return start_response(status, headers)

        return middleware(environ, start)

    with serve(tracked, kind) as where:
        for count, path in enumerate(("/one", "/two"), 1):
            with on(where, path) as raw:
                raw.until(b"event: hello")
                assert len(seen) == count
        get(where, "/three", method="HEAD")
    assert seen == [("200 OK", "/one"), ("200 OK", "/two"), ("200 OK", "/three")]
    assert request.get() == "none"


def test_a_hub_that_cannot_take_the_connection_lets_it_go(live, monkeypatch):
    def full(*args: Any) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(live.hub, "adopt", full)
    with serve(Middleware(follower(live), live)) as where:
        assert get(where, "/").data == b""
    with serve(Middleware(follower(live), live), "unknown") as where:
        get(where, "/")  # an error page of the server's, or a cut; but an end
    gc.collect()


@pytest.mark.parametrize("kind", ["werkzeug", "unknown"])
def test_a_hub_that_ended_meanwhile_lets_the_connection_go(live, kind):
    hub, inner = live.hub, follower(live)

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        body = inner(environ, start_response)
        stream = environ[STREAM]

        def and_close() -> Any:
            follow = stream.connect(True)
            live._closing = True  # as in the middle of live.close(): the hub is not replaced any more
            hub.closed = True
            return follow

        environ[STREAM] = Events(and_close)
        return body

    with serve(Middleware(app, live), kind) as where, Raw(where).ask("/") as raw:
        raw.rest()  # an end, and not for ever nothing
    hub.closed = live._closing = False


def test_without_a_descriptor_a_page_is_asked_to_come_again(live, monkeypatch, caplog):
    def none_left(*args: Any) -> Any:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(handover.Fallback, "open", none_left)
    middleware = Middleware(follower(live), live)
    with serve(middleware, "unknown") as where:
        for _ in range(3):
            raw = get(where, "/")
            assert b" 200 OK\r\n" in raw.data  # any other status stops a browser's EventSource for good
            assert raw.body.startswith(b"event: bye\nretry: ")
    assert "Too many open files" in caplog.text
    monkeypatch.undo()
    with serve(middleware, "unknown") as where, viewers(where, 2):
        held(live, 2)  # no slot was lost by it


# Where the connection cannot be taken.


@contextmanager
def viewers(where: Address, count: int) -> Iterator[list[Raw]]:
    opened = [on(where) for _ in range(count)]
    try:
        for raw in opened:
            raw.until(b"event: hello")
        yield opened
    finally:
        for raw in opened:
            raw.close()


def test_no_more_threads_than_allowed_are_held_and_others_get_short_streams(live, caplog):
    live.publish("news", text("#a", "before"))
    with serve(Middleware(follower(live), live), "unknown") as where:
        with viewers(where, live.settings.fallback_viewers):
            held(live, 2)
            short = on(where)
            body = short.rest().partition(b"\r\n\r\n")[2]
            blocks = [block.partition(b"\n")[0] for block in body.split(b"\n\n")]
            assert blocks == [b"event: hello", b"event: snapshot", b"event: bye", b""]
            retry = int(body.rpartition(b"retry: ")[2].partition(b"\n")[0])
            assert live.settings.short_retry <= retry <= live.settings.short_retry * 1.5
            held(live, 2)
            short.close()
        # Nobody tells this server that they have gone; it learns when it writes.
        wait_until(
            lambda: live.publish("news", text("#a", "x")) and not live.viewers("news"), 20, "them to go"
        )
        with viewers(where, 2):
            held(live, 2)
    [record] = [r for r in caplog.records if r.name == "afterload.wsgi"]
    assert record.levelno == logging.WARNING
    assert "at most 2 do" in record.getMessage()
    assert "is neither gunicorn nor Werkzeug's development server" in record.getMessage()


@pytest.mark.parametrize(("spare", "count"), [(0, 0), (1, 1), (None, 2), (9, 2)])
def test_the_servers_last_thread_is_never_held(live, monkeypatch, spare, count):
    monkeypatch.setattr(handover, "spare_threads", lambda environ, start_response: spare)
    with serve(Middleware(follower(live), live), "unknown") as where:
        opened = [on(where) for _ in range(4)]
        for raw in opened[count:]:
            assert b"event: bye" in raw.rest()
        held(live, count)
        for raw in opened:
            raw.close()


def call(middleware: Middleware, **more: Any) -> Iterable[bytes]:
    """As a server does that nobody knows, without any of its manners."""
    environ = {
        "REQUEST_METHOD": "GET", "SERVER_PROTOCOL": "HTTP/1.1", "PATH_INFO": "/", "SERVER_SOFTWARE": "rude",
        "REMOTE_ADDR": "192.0.2.1", "wsgi.multithread": True, "wsgi.multiprocess": False, **more,
    }  # fmt: skip
    return middleware(environ, lambda status, headers, exc_info=None: None)


def test_a_server_that_never_iterates_or_closes_costs_no_slot(live):
    middleware = Middleware(follower(live), live)
    for _ in range(5):
        body = call(middleware)
        del body
    bodies = [call(middleware) for _ in range(live.settings.fallback_viewers)]
    held(live, 2)
    for body in bodies:
        body.close()  # type: ignore[attr-defined]
        body.close()  # type: ignore[attr-defined]
    held(live, 0)
    with_more = [call(middleware) for _ in range(3)]
    held(live, 2)
    del with_more
    held(live, 0)


def test_a_server_that_refuses_the_headers_costs_no_slot_and_no_descriptor(live):
    middleware = Middleware(follower(live), live)
    live.hub.poller.wake()

    def refuses(status: str, headers: Any, exc_info: Any = None) -> Any:
        raise ValueError("no such header")

    environ = {"REQUEST_METHOD": "GET", "SERVER_SOFTWARE": "rude", "wsgi.multithread": True}
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        with pytest.raises(ValueError, match="no such header"):
            middleware({**environ, "PATH_INFO": "/", "SERVER_PROTOCOL": "HTTP/1.1"}, refuses)
    assert len(os.listdir("/proc/self/fd")) <= before
    bodies = [call(middleware) for _ in range(2)]
    held(live, 2)
    del bodies


def test_a_test_client_holds_nobodys_thread_and_may_follow_as_often_as_it_likes(live, caplog):
    client = werkzeug.test.Client(Middleware(follower(live), live))
    opened = [client.get("/", buffered=False) for _ in range(5)]
    held(live, 5)
    live.publish("news", text("#a", "one"))
    for response in opened:
        found = b""
        for chunk in response.response:
            found += chunk
            if b'"one"' in found:
                break
        response.close()
    held(live, 0)
    assert caplog.records == []


def test_a_test_client_is_known_behind_a_tracker_too(live, caplog):
    middleware = Middleware(follower(live), live)

    def tracked(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        return middleware(environ, functools.partial(lambda inner, *args: inner(*args), start_response))

    client = werkzeug.test.Client(tracked)
    opened = [client.get("/", buffered=False) for _ in range(5)]
    held(live, 5)
    for response in opened:
        response.close()
    held(live, 0)
    assert caplog.records == []


def test_a_server_without_a_name_is_not_taken_for_a_test_client(live):
    """uWSGI gives no SERVER_SOFTWARE, and has a few threads like any other."""
    middleware = Middleware(follower(live), live)
    nameless = {"SERVER_SOFTWARE": ""}
    bodies = [call(middleware, **nameless) for _ in range(4)]
    assert [b"event: bye" in b"".join(body) for body in bodies[2:]] == [True, True]
    held(live, 2)
    del bodies


# Limits, and set-ups that cannot work.


@pytest.mark.parametrize("setting", ["max_viewers", "max_viewers_per_address"])
def test_past_the_limits_viewers_get_short_streams(setting):
    live = Live(Settings(**{setting: 2}))
    try:
        with serve(Middleware(follower(live), live)) as where, viewers(where, 2) as opened:
            held(live, 2)
            with on(where) as short:
                assert b"event: bye" in short.rest()
            opened[0].close()
            held(live, 1)
            with on(where) as again:
                again.until(b"event: hello")
                held(live, 2)
            if setting == "max_viewers_per_address":
                with Raw(where).ask("/", headers={"X-Forwarded-For": "192.0.2.9"}) as other:
                    other.until(b"event: hello")  # an address that a client only claims is none
    finally:
        live.close()


def conflicts(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno == logging.ERROR]


def test_several_processes_are_told_of_once_at_the_first_request_and_get_short_streams(live, caplog):
    middleware = Middleware(follower(live), live)

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        return middleware({**environ, "wsgi.multiprocess": True}, start_response)

    with serve(app) as where:
        get(where, "/page")
        [message] = conflicts(caplog)
        assert "short streams" in message
        assert "runs several processes" in message
        for _ in range(3):
            with on(where) as raw:
                assert b"event: bye" in raw.rest()
        assert len(conflicts(caplog)) == 1
        assert live.stats()["handovers"] == 3  # a short stream needs no thread of the server's either


def test_it_is_told_of_once_however_many_requests_come_first(live, caplog):
    middleware = Middleware(follower(live), live)
    barrier = threading.Barrier(8)

    def ask() -> None:
        barrier.wait()
        b"".join(call(middleware, **{"wsgi.multiprocess": True}))

    asking = [threading.Thread(target=ask) for _ in range(8)]
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join()
    assert len(conflicts(caplog)) == 1


def test_viewers_are_sent_away_as_soon_as_the_server_is_told_to_end(live, monkeypatch):
    told = threading.Event()
    monkeypatch.setattr(handover, "stopping", told.is_set)
    with serve(Middleware(follower(live), live)) as where, on(where) as raw:
        raw.until(b"event: hello")
        held(live, 1)
        told.set()
        assert b"event: bye" in raw.rest()
        with on(where) as late:
            assert b"event: bye" in late.rest()  # on a connection that was kept alive, for example
        held(live, 0)


def test_a_position_is_taken_before_the_app_reads_anything(live):
    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        live.publish("news", text("#a", "while the view reads"))
        start_response("200 OK", [("Content-Length", "0")])
        return [str(environ[HEAD]).encode()]

    assert b"".join(call(Middleware(app, live))) == f"{live.hub.log.epoch}.0~".encode()


@pytest.mark.parametrize("body", [b"a=1", b"a=" + b"x" * 100_000], ids=["small", "large"])
@pytest.mark.parametrize("kind", ["werkzeug", "unknown"])
def test_a_stream_may_answer_any_method_and_what_was_sent_is_as_it_was(live, kind, body):
    """More about it, on every server, in tests/handover/test_posted.py."""
    inner = follower(live)
    inputs: list[Any] = []

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        inputs.append(environ["wsgi.input"])
        return inner(environ, start_response)

    with serve(Middleware(app, live), kind) as where, Raw(where) as raw:
        raw.ask("/", method="POST", headers={"Content-Length": str(len(body))}, behind=body)
        raw.until(b"event: hello")
        live.publish("news", text("#a", "one"))
        raw.until(b'"one"')
        counted = "handovers" if kind == "werkzeug" else "fallbacks"
        assert live.stats()[counted] == 1
        assert inputs[0].read(len(body)) == body
        live.hub.finish("news", "done")
        raw.rest()


def test_two_of_them_around_one_app_hold_a_viewer_once(live):
    outer = Live(Settings())
    try:
        with serve(Middleware(Middleware(follower(live), live), outer)) as where, on(where) as raw:
            raw.until(b"event: hello")
            held(live, 1)
            live.publish("news", text("#a", "one"))
            raw.until(b'"one"')
            assert outer.stats()["viewers"] == 0
            assert live.stats()["handovers"] == 1  # seen through the other
    finally:
        outer.close()


def test_the_fallback_streams_the_same_blocks(live):
    bodies = {}
    for kind in ("werkzeug", "unknown"):
        with serve(Middleware(follower(live, channel=kind), live), kind) as where, on(where) as raw:
            raw.until(b"event: hello")
            wait_until(lambda kind=kind: live.viewers(kind) == 1, 20, "the viewer")
            live.publish(kind, text("#a", "one"))
            live.hub.finish(kind, "done")
            body = raw.rest().partition(b"\r\n\r\n")[2]
            bodies[kind] = [line for line in body.split(b"\n") if b"retry" not in line and b"id" not in line]
    werkzeug_, unknown = bodies.values()
    assert [line.replace(b"werkzeug", b"unknown") for line in werkzeug_] == unknown
    assert len(unknown) > 5


def test_chunks_can_be_read_back():
    assert dechunked(b"3\r\nabc\r\nA\r\n0123456789\r\n0\r\n\r\n") == b"abc0123456789"
    with pytest.raises(ValueError, match="not found"):
        dechunked(b"3\r\nabc\r\n")


def test_a_port_is_given_back_after_each_of_these(live):
    with serve(follower(live)) as where:
        pass
    with socket.socket() as probe:
        assert probe.connect_ex(where) != 0
