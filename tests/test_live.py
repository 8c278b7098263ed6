"""Loops and channels as an app meets them: through views, with a real hub behind a test client."""

from __future__ import annotations

import asyncio
import doctest
import functools
import gc
import itertools
import logging
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, current_app, g, render_template, request, url_for
from flask.testing import FlaskClient
from jinja2 import DictLoader

from afterload import LoopError, PatchError, SettingError, append, text
from afterload import live as core
from afterload.flask import Live
from afterload.runs import FAILED, Seldom, Stopped, sleep
from afterload.testing import follow
from afterload.wire.sse import Decoder, Event

SSE = {"Accept": "text/event-stream"}
FOREVER = 3600.0


def until(condition: Callable[[], Any], what: str = "it did not happen", seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.002)


class Stream:
    """A page's open stream, block by block."""

    def __init__(self, client: FlaskClient, url: str, **headers: str) -> None:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        self.response = client.get(url, headers={**SSE, **names}, buffered=False)
        assert (self.response.status_code, self.response.mimetype) == (200, "text/event-stream")
        self.raw = b""
        self._chunks = iter(self.response.response)
        self._decoder = Decoder()
        self._events: list[Event] = []

    def next(self) -> Event | None:
        """The next block, `hello` included; None at the end."""
        while not self._events:
            chunk = next(self._chunks, None)
            if chunk is None:
                return None
            self.raw += chunk
            self._events += self._decoder.feed(chunk)
        return self._events.pop(0)

    def rest(self) -> list[Event]:
        return list(iter(self.next, None))

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.response.close()


@pytest.fixture
def app() -> Flask:
    app = Flask(__name__)
    app.jinja_loader = DictLoader({"page.html": "{{ live_client() }}", "row.html": "<li>{{ row }}</li>"})
    return app


@pytest.fixture
def live(app: Flask) -> Iterator[Live]:
    live = Live(app, ahead_entries=1, linger=FOREVER, max_loops=20)
    yield live
    live.close()


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


def page(app: Flask, live: Live, url: str, make: Callable[[], Any], **options: Any) -> None:
    """A view at a URL, whose page follows what `make` returns: one thing, or a tuple of them."""

    def view() -> Any:
        sources = make()
        return live.page("page.html", *(sources if isinstance(sources, tuple) else (sources,)), **options)

    app.add_url_rule(url, url, view)


class Counting:
    """A loop that counts, sync or async, and what became of its runs."""

    def __init__(self, kind: str, most: float = float("inf")) -> None:
        self.starts = 0
        self.count = 0
        self.closed = threading.Event()
        self.most = most
        self.make: Callable[[], Any] = self.asynchronous if kind == "async" else self.synchronous

    def synchronous(self) -> Iterator[Any]:
        self.starts += 1
        try:
            for i in itertools.count():
                if i >= self.most:
                    break
                self.count = i
                yield str(i)
        finally:
            self.closed.set()

    async def asynchronous(self) -> AsyncIterator[Any]:
        self.starts += 1
        try:
            for i in itertools.count():
                if i >= self.most:
                    break
                self.count = i
                yield str(i)
                await asyncio.sleep(0)
        finally:
            self.closed.set()


kinds = pytest.mark.parametrize("kind", ["sync", "async"])


def test_the_examples_in_the_docstrings_hold() -> None:
    assert doctest.testmod(core).failed == 0


# A loop of each viewer's own


@kinds
def test_each_viewer_has_a_run_of_its_own_that_counts_from_0(
    app: Flask, live: Live, client: FlaskClient, kind: str
) -> None:
    loop = Counting(kind)
    page(app, live, "/", loop.make)
    with Stream(client, "/") as one:
        one.next()
        assert [one.next().data for _ in range(3)] == ["0", "1", "2"]  # type: ignore[union-attr]
        with Stream(client, "/") as two:
            two.next()
            assert [two.next().data for _ in range(3)] == ["0", "1", "2"]  # type: ignore[union-attr]
            assert one.next().data == "3"  # type: ignore[union-attr]
    assert loop.starts == 2


@kinds
def test_the_html_request_starts_no_loop(app: Flask, live: Live, client: FlaskClient, kind: str) -> None:
    loop = Counting(kind)
    page(app, live, "/", loop.make)
    for _ in range(3):
        assert client.get("/").status_code == 200
    assert (loop.starts, live.stats()["loops"]) == (0, 0)


@kinds
def test_a_viewer_that_is_back_goes_on_where_it_was(
    app: Flask, live: Live, client: FlaskClient, kind: str
) -> None:
    loop = Counting(kind)
    page(app, live, "/", loop.make)
    first = follow(client, "/", limit=3)
    second = follow(client, "/", limit=3, headers={"Last-Event-ID": first[-1].id})
    assert [block.text for block in (*first, *second)] == ["0", "1", "2", "3", "4", "5"]
    assert loop.starts == 1


@kinds
def test_a_page_that_says_it_will_not_come_back_ends_its_loop_at_once(
    app: Flask, live: Live, client: FlaskClient, kind: str
) -> None:
    loop = Counting(kind)
    page(app, live, "/", loop.make)
    last = follow(client, "/", limit=2)[-1]
    assert not loop.closed.is_set()  # the linger is an hour
    response = client.get("/", headers={**SSE, "Al-Close": "1", "Last-Event-ID": last.id})
    assert (response.status_code, response.data) == (204, b"")
    assert loop.closed.wait(20)
    until(lambda: live.stats()["loops"] == 0)
    # and is not known any more: who comes with its position begins anew
    again = follow(client, "/", limit=2, headers={"Last-Event-ID": last.id})
    assert [block.event for block in again] == ["reset", "message"]
    assert loop.starts == 2


def test_closing_with_a_position_that_is_none_does_nothing(
    app: Flask, live: Live, client: FlaskClient
) -> None:
    loop = Counting("sync")
    page(app, live, "/", loop.make)
    page(app, live, "/shared", lambda: "orders")
    for url in ("/", "/shared"):
        for position in ("", "0", "unknown.3", "nonsense \xff"):
            headers = {**SSE, "Al-Close": "1", "Last-Event-ID": position}
            assert client.get(url, headers=headers).status_code == 204
    assert (loop.starts, live.stats()["loops"]) == (0, 0)


@kinds
def test_a_loop_that_is_gone_begins_anew_and_the_page_is_put_back_first(
    app: Flask, live: Live, client: FlaskClient, kind: str
) -> None:
    loop = Counting(kind, most=1)
    page(app, live, "/", loop.make)
    for position in ("some-other-life.7", "nonsense"):
        with Stream(client, "/", Last_Event_ID=position) as stream:
            hello, *blocks = stream.rest()
        assert hello.event == "hello"
        assert hello.id not in (position, "0")
        assert [block.event for block in blocks] == ["reset", "message", "end"]
    assert loop.starts == 2


@kinds
def test_a_loop_that_must_not_begin_anew_is_lost_and_then_asked_for_no_more(
    app: Flask, live: Live, client: FlaskClient, kind: str
) -> None:
    loop = Counting(kind, most=1)
    page(app, live, "/", loop.make, restart=False)
    ids = set()
    for position in ("some-other-life.7", "nonsense"):
        [end] = follow(client, "/", headers={"Last-Event-ID": position})
        assert (end.event, end.channel, end.status) == ("end", "~", "lost")
        assert end.message == "The server no longer has what this page was following."
        ids.add(end.id)
        # a bare EventSource knows no `end`, and comes back once
        assert client.get("/", headers={**SSE, "Last-Event-ID": end.id}).status_code == 204
    assert loop.starts == 0
    assert [block.text for block in follow(client, "/", limit=1)] == ["0"]  # a new page is none that is back


def test_a_position_that_was_lost_elsewhere_begins_anew_where_that_is_allowed(
    app: Flask, live: Live, client: FlaskClient
) -> None:
    page(app, live, "/strict", Counting("sync").make, restart=False)
    page(app, live, "/", Counting("sync").make)
    [lost] = follow(client, "/strict", headers={"Last-Event-ID": "gone.1"})
    assert follow(client, "/", limit=1, headers={"Last-Event-ID": lost.id})[0].event == "reset"


@kinds
def test_a_loop_may_run_on_while_its_viewer_is_away(
    app: Flask, live: Live, client: FlaskClient, kind: str
) -> None:
    loop = Counting(kind, most=50)
    page(app, live, "/", loop.make, away="run")
    first = follow(client, "/", limit=1)
    assert loop.closed.wait(20)
    assert loop.count == 49
    rest = follow(client, "/", headers={"Last-Event-ID": first[-1].id})
    assert [block.text for block in (*first, *rest[:-1])] == [str(i) for i in range(50)]
    assert rest[-1].status == "done"


def test_a_paused_loop_takes_no_step_while_its_viewer_is_away(
    app: Flask, live: Live, client: FlaskClient
) -> None:
    loop, other = Counting("sync"), Counting("sync", most=100)
    page(app, live, "/", loop.make)
    page(app, live, "/other", other.make)
    last = follow(client, "/", limit=1)[-1]
    until(lambda: live.stats()["viewers"] == 0)
    count = loop.count
    follow(client, "/other")  # another loop takes a hundred steps meanwhile
    assert loop.count <= count + 1  # the one it was in
    assert not loop.closed.is_set()
    assert follow(client, "/", limit=1, headers={"Last-Event-ID": last.id})[0].text == "1"


def test_a_page_of_another_view_does_not_get_into_the_loop_by_its_key(
    app: Flask, live: Live, client: FlaskClient
) -> None:
    one = Counting("sync")

    def other() -> Iterator[Any]:
        yield "other"

    page(app, live, "/one", one.make)
    page(app, live, "/other", other)
    at = follow(client, "/one", limit=2)[-1].id
    blocks = follow(client, "/other", headers={"Last-Event-ID": at})
    assert [(block.event, block.text) for block in blocks[:2]] == [("reset", ""), ("message", "other")]
    assert follow(client, "/one", limit=1, headers={"Last-Event-ID": at})[0].text == "2"


def test_an_ended_loop_stops_its_page_by_204_and_only_at_its_end(
    app: Flask, live: Live, client: FlaskClient
) -> None:
    page(app, live, "/", Counting("sync", most=2).make)
    blocks = follow(client, "/")
    assert follow(client, "/", headers={"Last-Event-ID": blocks[-1].id}) == []
    rest = follow(client, "/", headers={"Last-Event-ID": blocks[0].id})
    assert [(b.event, b.text, b.status) for b in rest] == [("message", "1", ""), ("end", "", "done")]


# What a step of a loop has


def failing_or(live: Live) -> list[tuple[str, BaseException]]:
    found: list[tuple[str, BaseException]] = []
    live.on_error(lambda loop, error: found.append((loop, error)))
    return found


@kinds
def test_each_step_has_an_app_context_of_its_own(
    app: Flask, live: Live, client: FlaskClient, kind: str
) -> None:
    torn_down: list[Any] = []
    app.teardown_appcontext(lambda error: torn_down.append(g.get("step")))

    def step(i: int) -> dict[str, Any]:
        before, g.step = g.get("step"), i
        return {"#app": current_app.name, "#before": before, "#i": i}

    def sync() -> Iterator[Any]:
        for i in range(3):
            yield step(i)

    async def asynchronous() -> AsyncIterator[Any]:
        for i in range(3):
            await asyncio.sleep(0)
            yield step(i)

    errors = failing_or(live)
    page(app, live, "/", sync if kind == "sync" else asynchronous)
    *blocks, _ = follow(client, "/")
    assert not errors
    assert [block.patches for block in blocks] == [
        [text("#app", app.name), text("#before", None), text("#i", i)] for i in range(3)
    ]
    assert [each for each in torn_down if each is not None] == [0, 1, 2]


def test_a_shared_loop_has_an_app_context_too(app: Flask, live: Live, client: FlaskClient) -> None:
    @live.loop
    def named() -> Iterator[Any]:
        yield {"#app": current_app.name}

    page(app, live, "/", lambda: named)
    assert follow(client, "/")[0].patches == [text("#app", app.name)]


def test_a_template_can_be_rendered_in_a_step(app: Flask, live: Live, client: FlaskClient) -> None:
    def rows() -> Iterator[Any]:
        yield append("#rows", render_template("row.html", row="<3"))

    def markup() -> Iterator[Any]:
        from markupsafe import Markup

        yield append("#rows", Markup(render_template("row.html", row="<3")))

    page(app, live, "/", markup)
    assert follow(client, "/")[0].patches[0].content == "<li>&lt;3</li>"


def test_a_url_needs_the_servers_name_and_says_so(
    app: Flask, live: Live, client: FlaskClient, caplog: pytest.LogCaptureFixture
) -> None:
    def links() -> Iterator[Any]:
        yield {"#whole": url_for("/"), "#path": url_for("/", _external=False)}

    errors = failing_or(live)
    page(app, live, "/", links)
    assert follow(client, "/")[-1].status == "failed"
    until(lambda: errors)
    assert "SERVER_NAME" in str(errors[0][1])
    assert "SERVER_NAME" in caplog.text
    app.config["SERVER_NAME"] = "example.org"
    blocks = follow(client, "http://example.org/")
    assert blocks[0].patches == [text("#whole", "http://example.org/"), text("#path", "/")]


def test_there_is_no_request_in_a_step_and_flask_says_so(app: Flask, live: Live, client: FlaskClient) -> None:
    def loop() -> Iterator[Any]:
        yield {"#path": request.path}

    errors = failing_or(live)
    page(app, live, "/", loop)
    assert follow(client, "/")[-1].status == "failed"
    until(lambda: errors)
    assert "Working outside of request context" in str(errors[0][1])


# Shared loops and channels


def test_loops_and_channels_come_over_one_connection(app: Flask, live: Live, client: FlaskClient) -> None:
    go = threading.Event()

    @live.loop
    def clock() -> Iterator[Any]:
        yield {"#time": 1}
        go.wait(20)
        yield {"#time": 2}

    page(app, live, "/", lambda: (clock, "orders", "user-7", "orders"))
    with Stream(client, "/") as stream:
        hello = stream.next()
        assert hello is not None
        assert '"channels":["clock","orders","user-7"]' in hello.data
        live.publish("user-7", {"#mail": 1})
        live.publish("orders", {"#count": 2})
        live.publish("user-8", {"#mail": 3})
        go.set()
        while not all(part in stream.raw for part in (b'"#mail","1"', b'"#count","2"', b'"#time","2"')):
            assert stream.next() is not None
        assert b'"#mail","3"' not in stream.raw
    assert live.stats()["connects"] == 1


def test_what_is_published_reaches_a_page_wherever_it_comes_from(
    app: Flask, live: Live, client: FlaskClient
) -> None:
    @live.loop
    def robot() -> Iterator[Any]:
        live.publish("orders", {"#loop": 1})
        yield {"#robot": 1}

    @app.post("/order")
    def order() -> str:
        return live.publish("orders", {"#request": 1})

    page(app, live, "/", lambda: "orders")
    page(app, live, "/robot", lambda: robot)
    live.publish("orders", {"#before": 1})
    with Stream(client, "/") as stream:
        assert stream.next().event == "hello"  # type: ignore[union-attr]
        snapshot = stream.next()
        assert snapshot is not None
        assert (snapshot.event, '["text","#before","1"]' in snapshot.data) == ("snapshot", True)
        for name, publish in {
            "#request": lambda: client.post("/order"),
            "#thread": lambda: in_thread(lambda: live.publish("orders", {"#thread": 1})),
            "#loop": lambda: follow(client, "/robot"),
            "#task": lambda: asyncio.run(publishing(live)),
        }.items():
            publish()
            block = stream.next()
            assert block is not None
            assert (block.event, f'["text","{name}","1"]' in block.data) == ("patch", True)


def in_thread(function: Callable[[], Any]) -> None:
    thread = threading.Thread(target=function)
    thread.start()
    thread.join()


async def publishing(live: Live) -> None:
    live.publish("orders", {"#task": 1})


def test_the_position_of_an_entry_resumes_after_it(app: Flask, live: Live, client: FlaskClient) -> None:
    page(app, live, "/", lambda: "orders")
    positions = [live.publish("orders", {f"#n{i}": i}) for i in range(3)]
    for i, position in enumerate(positions[:-1]):
        [block] = follow(client, "/", limit=1, headers={"Last-Event-ID": position})
        assert (block.event, block.id) == ("patch", positions[-1])
        assert block.patches == [text(f"#n{j}", j) for j in range(i + 1, 3)]


@pytest.mark.parametrize("position", ["elsewhere.1", "nonsense", "\xff\xfe", "x" * 500])
def test_a_page_of_which_nothing_is_known_fetches_itself(
    app: Flask, live: Live, client: FlaskClient, position: str
) -> None:
    page(app, live, "/", lambda: "orders")
    live.publish("orders", {"#count": 1})
    [block] = follow(client, "/", limit=1, headers={"Last-Event-ID": position})
    assert block.event == "refresh"


def test_all_that_one_call_publishes_is_one_block(app: Flask, live: Live, client: FlaskClient) -> None:
    page(app, live, "/", lambda: "orders")
    at = live.publish("orders", {"#a": 0})
    live.publish("orders", {"#a": 1, "#b": 2}, [append("#log", "x"), None], append("#log", "y"))
    [block] = follow(client, "/", limit=1, headers={"Last-Event-ID": at})
    assert block.patches == [text("#a", 1), text("#b", 2), append("#log", "x"), append("#log", "y")]


def test_to_a_loops_channel_others_may_publish_too(app: Flask, live: Live, client: FlaskClient) -> None:
    @live.loop(name="times")
    def clock() -> Iterator[Any]:
        yield {"#time": 1}
        live.sleep(FOREVER)

    page(app, live, "/", lambda: clock)
    with Stream(client, "/") as stream:
        while b"#time" not in stream.raw:
            stream.next()
        assert live.viewers(clock) == live.viewers("times") == 1
        live.publish(clock, {"#note": "hi"})
        block = stream.next()
        assert block is not None
        assert '"times"' in block.data


@pytest.mark.parametrize("name", ["", "~", "x" * 201, 5, None, b"orders", ["orders"], "\ud800", str.upper])
def test_a_channels_name_that_is_none_is_refused_and_shown(live: Live, name: Any) -> None:
    with pytest.raises(PatchError, match=r"a channel's name is .*: ") as caught:
        live.publish(name, {"#a": 1})
    assert caught.value.value == name
    assert len(str(caught.value)) < 250
    assert live.stats()["published"] == 0


@pytest.mark.parametrize("name", ["x" * 200, "user/7 é\u2028\n", "<script>", "0"])
def test_any_other_text_is_a_channels_name(app: Flask, live: Live, client: FlaskClient, name: str) -> None:
    page(app, live, "/", lambda: name)
    live.publish(name, {"#a": 1})
    assert follow(client, "/", limit=1)[0].patches == [text("#a", 1)]


@pytest.mark.parametrize(
    ("things", "said"),
    [
        (({"#good": 1, "#rows": [1, 2]},), r"'#rows'.*\[1, 2\]"),
        (({"#rows": {"a": 1}},), r"'#rows'.*\{'a': 1\}"),
        (({"rows": 1},), "'rows'"),
        (({"#a": b"bytes"},), r"'#a'.*b'bytes'"),
        (({"#a": 1}, object()), "object"),
        ((), "there is nothing to publish to 'orders'"),
        ((None, [], {}), "there is nothing to publish to 'orders'"),
    ],
)
def test_a_bad_value_is_named_and_nothing_of_its_entry_is_published(
    app: Flask, live: Live, client: FlaskClient, things: tuple[Any, ...], said: str
) -> None:
    page(app, live, "/", lambda: "orders")
    with Stream(client, "/") as stream:
        stream.next()
        with pytest.raises(PatchError, match=said):
            live.publish("orders", *things)
        live.publish("orders", {"#fine": 1})
        block = stream.next()
        assert block is not None
        assert block.data == '["orders",1,[["text","#fine","1"]]]'


# Loops that fail


def test_a_loop_that_fails_ends_its_channel_and_disturbs_no_other(
    app: Flask, live: Live, client: FlaskClient, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[tuple[str, str]] = []

    @live.on_error
    def broken(loop: str, error: BaseException) -> None:
        raise KeyError("the handler's own")

    @live.on_error
    def tell(loop: str, error: BaseException) -> None:
        told.append((loop, str(error)))

    @live.loop
    def clock() -> Iterator[Any]:
        yield {"#time": 1}
        raise RuntimeError("secret of the database")

    page(app, live, "/", lambda: (clock, "orders"))
    with Stream(client, "/") as stream:
        event = stream.next()
        while event is not None and event.event != "end":
            event = stream.next()
        assert event is not None
        assert event.data == f'{{"channel":"clock","status":"failed","message":"{FAILED}"}}'
        live.publish("orders", {"#count": 1})
        while b'["text","#count","1"]' not in stream.raw:
            assert stream.next() is not None
        assert b"secret" not in stream.raw
    until(lambda: told)
    assert told == [("clock", "secret of the database")]
    failed, handler = [r for r in caplog.records if r.levelno >= logging.ERROR]
    assert failed.getMessage() == "afterload: the loop 'clock' failed"
    assert failed.exc_info is not None
    assert isinstance(failed.exc_info[1], RuntimeError)
    assert failed.exc_info[2] is not None
    assert "the on_error handler" in handler.getMessage()


@kinds
def test_a_value_that_cannot_be_shown_fails_the_loop_that_yields_it(
    app: Flask, live: Live, client: FlaskClient, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    def sync() -> Iterator[Any]:
        yield {"#rows": [1, 2]}

    async def asynchronous() -> AsyncIterator[Any]:
        yield {"#rows": [1, 2]}

    errors = failing_or(live)
    page(app, live, "/", sync if kind == "sync" else asynchronous)
    [end] = follow(client, "/")
    assert (end.status, end.message) == ("failed", FAILED)
    until(lambda: errors)
    name, error = errors[0]
    assert name.endswith(f"<locals>.{'sync' if kind == 'sync' else 'asynchronous'}")
    assert isinstance(error, PatchError)
    assert (error.target, error.value) == ("#rows", [1, 2])


# More loops than may run


@pytest.fixture
def crowded(app: Flask) -> Iterator[Live]:
    """A Live that lets one loop run."""
    live = Live(app, max_loops=1, linger=FOREVER, ahead_entries=1)
    yield live
    live.close()


@kinds
def test_a_viewer_for_whom_there_is_no_loop_is_asked_to_come_back(
    app: Flask, crowded: Live, client: FlaskClient, kind: str
) -> None:
    loop = Counting(kind)
    page(app, crowded, "/", loop.make)
    with Stream(client, "/") as first:
        first.next()
        held = first.next()
        assert held is not None
        for position in ("0", "gone.7"):
            with Stream(client, "/", Last_Event_ID=position) as second:
                hello, bye = second.rest()
            assert (hello.event, hello.id) == ("hello", position)  # what it shows is still of that loop
            assert bye.event == "bye"
            assert 5000 <= (bye.retry or 0) <= 7500
        # nobody else notices
        assert first.next().data == "1"  # type: ignore[union-attr]
    client.get("/", headers={**SSE, "Al-Close": "1", "Last-Event-ID": held.id})
    until(lambda: crowded.stats()["loops"] == 0)
    assert [b.event for b in follow(client, "/", limit=2, headers={"Last-Event-ID": "gone.7"})] == [
        "reset",
        "message",
    ]
    assert loop.starts == 2
    assert crowded.stats()["loops_refused"] == 2


def test_what_else_a_page_follows_comes_also_where_its_loop_cannot_start(
    app: Flask, crowded: Live, client: FlaskClient
) -> None:
    @crowded.loop
    def clock() -> Iterator[Any]:
        yield {"#time": 1}

    page(app, crowded, "/own", Counting("sync").make)
    page(app, crowded, "/", lambda: (clock, "orders"))
    crowded.publish("orders", {"#count": 1})
    with Stream(client, "/own") as own:
        own.next()
        own.next()
        snapshot, bye = follow(client, "/")
        assert (snapshot.event, snapshot.patches) == ("snapshot", [text("#count", 1)])
        assert bye.event == "bye"
        crowded.publish("orders", {"#count": 2})
        patch, bye = follow(client, "/", headers={"Last-Event-ID": snapshot.id})
        assert (patch.event, patch.patches) == ("patch", [text("#count", 2)])


def test_a_storm_of_refused_loops_is_one_log_record(
    app: Flask, crowded: Live, client: FlaskClient, caplog: pytest.LogCaptureFixture
) -> None:
    page(app, crowded, "/", Counting("sync").make)
    with Stream(client, "/") as first:
        first.next()
        first.next()
        for _ in range(50):
            assert [block.event for block in follow(client, "/")] == ["bye"]
    [record] = [r for r in caplog.records if r.name == "afterload"]
    assert record.levelno == logging.WARNING
    assert "'Counting.synchronous' was not started" in record.getMessage()
    assert "max_loops" in record.getMessage()


def test_trouble_that_lasts_is_told_of_again_with_its_number() -> None:
    now = 0.0
    seldom = Seldom(60, lambda: now)
    assert [seldom.count() for _ in range(10)] == [1, *[0] * 9]
    now = 59.9
    assert seldom.count() == 0
    now = 60.0
    assert [seldom.count(), seldom.count()] == [11, 0]


# What a page may follow


def sync_loop() -> Iterator[Any]:
    yield {}


async def async_loop() -> AsyncIterator[Any]:
    yield {}


async def coroutine() -> None: ...


@pytest.mark.parametrize(
    ("sources", "said"),
    [
        ((), "a page needs something to follow: a generator, a @live.loop, or names of channels"),
        ((sync_loop,), r"sync_loop is a function: pass sync_loop\(\) for a loop of each viewer's own"),
        ((async_loop,), r"async_loop is a function: pass async_loop\(\)"),
        ((sync_loop(), "orders"), "one private loop, or any number of shared loops and channels, not both"),
        (("orders", sync_loop()), "one private loop, or any number of shared loops and channels, not both"),
        (("",), "a channel's name is a str of 1 to 200 characters and not '~': ''"),
        (("~",), "a channel's name is a str of 1 to 200 characters and not '~': '~'"),
        ((["a", "b"],), r"a generator, a @live\.loop, a job, or a channel's name, and not \['a', 'b'\]"),
        ((iter([1]),), "a generator, a @live.loop, a job, or a channel's name, and not <list_iterator"),
        ((None,), "a channel's name, and not None"),
        (tuple(f"c{i}" for i in range(51)), r"at most 50 channels \(max_channels_per_viewer\), not 51"),
    ],
)
def test_what_cannot_be_followed_is_an_error_that_says_what_can(
    live: Live, sources: tuple[Any, ...], said: str
) -> None:
    with pytest.raises(LoopError, match=said):
        live.follow(sources)


def test_a_coroutine_is_an_error_and_not_also_a_warning(live: Live) -> None:
    with pytest.raises(LoopError, match=r"coroutine\(\) is a coroutine; a loop is a generator"):
        live.follow((coroutine(),))
    gc.collect()  # where it would be warned of, and warnings are errors


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"away": "stop"}, 'away is "pause" or "run", not \'stop\''),
        ({"into": "data"}, "into is a target such as \"#data\", not 'data'"),
        ({"into": "#a b"}, "into is a target"),
        ({"into": ""}, "into is a target"),
    ],
)
def test_options_that_are_wrong_are_named(live: Live, options: dict[str, Any], said: str) -> None:
    with pytest.raises(LoopError, match=said):
        live.follow(("orders",), **options)


@pytest.mark.parametrize(
    ("channels", "owner", "said"),
    [
        ((), None, r"revoke\(\) needs names of channels, or owner="),
        ((), "", r"owner is the str that a view has given to page\(\), and '' would"),
        (("orders",), 7, r"owner is the str that a view has given to page\(\), and 7 would"),
        (("orders", ""), None, "a channel's name is a str of 1 to 200 characters"),
        ((None,), "bob", "a channel's name, and not None"),
    ],
)
def test_what_cannot_be_revoked_is_an_error_that_says_why(
    live: Live, channels: tuple[Any, ...], owner: Any, said: str
) -> None:
    with pytest.raises(LoopError, match=said):
        live.revoke(*channels, owner=owner)


def test_a_channel_named_twice_counts_once(live: Live) -> None:
    assert live.follow(("a", "b", "a")).channels == ("a", "b")


# @live.loop


def needs(argument: int) -> Iterator[Any]:
    yield argument


@pytest.mark.parametrize(
    ("function", "options", "error", "said"),
    [
        (len, {}, LoopError, "needs a generator function"),
        (coroutine, {}, LoopError, "needs a generator function"),
        (needs, {}, LoopError, "'needs' needs argument"),
        (functools.partial(needs, 1), {}, LoopError, r"needs another name, @live\.loop\(name=\.\.\.\)"),
        (sync_loop, {"name": ""}, LoopError, "needs another name"),
        (sync_loop, {"name": "~"}, LoopError, "needs another name"),
        (sync_loop, {"name": 5}, LoopError, "needs another name"),
        (sync_loop, {"linger": -1}, SettingError, "'linger' is 0 to .*, not -1"),
        (sync_loop, {"linger": float("inf")}, SettingError, "'linger' is a finite number"),
        (sync_loop, {"linger": "1"}, SettingError, "'linger' is a number, not '1'"),
    ],
)
def test_a_loop_that_cannot_be_shared_is_an_error_where_it_is_defined(
    live: Live, function: Any, options: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        live.loop(**options)(function)


def test_a_name_is_given_once(live: Live) -> None:
    live.loop(sync_loop)
    with pytest.raises(LoopError, match=r"there is a shared loop 'sync_loop' already: <function sync_loop"):
        live.loop(name="sync_loop")(async_loop)
    assert live.loop(name="another")(sync_loop).name == "another"


def test_a_shared_loop_is_still_the_function_it_was(live: Live) -> None:
    loop = live.loop(name="partial")(functools.partial(needs, 7))
    assert next(loop()) == 7  # type: ignore[call-overload]
    assert live.loop(sync_loop).__name__ == "sync_loop"


# Its life in a process


def test_after_close_it_lives_again_and_old_pages_heal(app: Flask, live: Live, client: FlaskClient) -> None:
    page(app, live, "/", lambda: "orders")
    old = live.publish("orders", {"#count": 1})
    with Stream(client, "/") as stream:
        live.close()
        assert stream.rest()[-1].event == "bye"
    live.publish("orders", {"#count": 2})
    assert follow(client, "/", limit=1, headers={"Last-Event-ID": old})[0].event == "refresh"
    assert follow(client, "/", limit=1)[0].patches == [text("#count", 2)]


def test_close_ends_the_loops_and_may_be_called_twice(app: Flask, live: Live, client: FlaskClient) -> None:
    loops = [Counting("sync"), Counting("async")]
    for i, loop in enumerate(loops):
        page(app, live, f"/{i}", loop.make)
    for i in range(len(loops)):
        follow(client, f"/{i}", limit=2)
    live.close(20)
    live.close()
    assert all(loop.closed.is_set() for loop in loops)


def test_what_a_loop_publishes_while_it_is_closed_begins_no_new_life(
    app: Flask, live: Live, client: FlaskClient
) -> None:
    published = threading.Event()

    def loop() -> Iterator[Any]:
        try:
            yield {"#a": 1}
            live.sleep(FOREVER)
        finally:
            live.publish("log", {"#ended": 1})
            published.set()

    page(app, live, "/", loop)
    follow(client, "/", limit=1)
    epoch = live.hub.log.epoch
    live.close(20)
    assert published.is_set()
    assert live._thread is not None
    assert live._thread.hub.log.epoch == epoch


def test_threads_that_need_it_at_once_get_the_same_hub(live: Live) -> None:
    start = threading.Barrier(16)
    found = []

    def get() -> None:
        start.wait(20)
        loops, hub = live.loops, live.hub
        found.append((id(hub), loops.hub is hub))

    threads = [threading.Thread(target=get) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 16
    assert set(found) == {(id(live.hub), True)}


def test_an_app_that_is_dropped_leaves_no_thread_and_no_socket(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def use(streams: bool) -> list[threading.Thread]:
        before = set(threading.enumerate())
        app = Flask("dropped")
        app.jinja_loader = DictLoader({"page.html": "{{ live_client() }}"})
        live = Live(app, linger=FOREVER)

        @live.loop(linger=3)  # while it runs, it keeps its app
        def clock() -> Iterator[Any]:
            for i in itertools.count():
                yield {"#time": i}
                sleep(0.001)

        page(app, live, "/own", Counting("async").make)
        page(app, live, "/shared", lambda: clock)
        for url in ("/own", "/shared"):
            app.test_client().get(url)
            if streams:
                follow(app.test_client(), url, limit=2)
        return [thread for thread in threading.enumerate() if thread not in before]

    unraisable: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", unraisable.append)
    assert use(streams=False) == []
    threads = use(streams=True)
    assert {each.name for each in threads} >= {"afterload-hub", "afterload-async", "afterload-loop clock"}
    until(lambda: gc.collect() is not None and not any(each.is_alive() for each in threads))
    gc.collect()
    assert [str(each.exc_value) for each in unraisable] == []
    assert not caplog.records


def test_lives_that_are_over_are_not_kept(live: Live) -> None:
    hubs = []
    for _ in range(3):
        live.publish("orders", {"#count": 1})
        hubs.append(weakref.ref(live.hub))
        live.close()
    live.publish("orders", {"#count": 1})
    until(lambda: gc.collect() is not None and all(hub() is None for hub in hubs))


def test_a_loop_whose_app_is_gone_ends_without_a_word() -> None:
    live = core.Live()
    loops = live.loops
    with loops.step_context():
        pass
    del live
    until(lambda: gc.collect() is not None and loops.hub.closed)
    with pytest.raises(Stopped):
        loops.step_context()


FORK = """
import os, signal, threading
from flask import Flask
from afterload.flask import Live

live = Live(Flask("x"))
live.publish("orders", {"#a": 1})
epoch = live.hub.log.epoch
held, forked = threading.Event(), threading.Event()

def hold():
    with live._lock:
        held.set()
        forked.wait()

thread = threading.Thread(target=hold)
thread.start()
held.wait()
child = os.fork()
if not child:
    signal.alarm(20)  # ends it if it waits for the lock, which nobody in it will give back
    live.publish("orders", {"#a": 2})
    os._exit(0 if live.hub.log.epoch != epoch and live.hub.log.head == 1 else 3)
forked.set()
thread.join()
_, status = os.waitpid(child, 0)
assert live.hub.log.epoch == epoch
print("child", os.waitstatus_to_exitcode(status))
"""


@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="no fork here")
def test_a_forked_child_has_a_hub_of_its_own_whatever_its_parent_was_doing() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORK], capture_output=True, text=True, check=False, timeout=50
    )
    assert (done.stdout, done.stderr) == ("child 0\n", "")


EXIT = """
import asyncio
import os
from flask import Flask
from afterload.flask import Live
from afterload.testing import follow

app = Flask(__name__, template_folder=".")
live = Live(app)

@live.loop
def thread():
    try:
        while True:
            yield {"#a": 1}
            live.sleep(60)
    finally:
        os.write(1, b"thread cleaned up\\n")  # in one: both may end at once

@live.loop
async def task():
    try:
        while True:
            yield {"#b": 1}
            await asyncio.sleep(60)
    finally:
        os.write(1, b"task cleaned up\\n")

for loop in (thread, task):
    url = f"/{loop.name}"
    app.add_url_rule(url, loop.name, lambda loop=loop: live.page("none.html", loop))
for url in ("/thread", "/task"):
    follow(app.test_client(), url, limit=1)
"""


def test_loops_clean_up_when_the_process_ends() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", EXIT], capture_output=True, text=True, check=False, timeout=50
    )
    assert sorted(done.stdout.splitlines()) == ["task cleaned up", "thread cleaned up"]
    assert done.stderr == ""


# What a type checker sees

TYPED = """
from collections.abc import AsyncIterator, Iterator
from typing import Any, assert_type

from flask import Flask, Response

from afterload import text
from afterload.flask import Live
from afterload.loops import SharedLoop
from afterload.testing import Block, follow

app = Flask(__name__)
live = Live(app, linger=3)


@live.loop
def clock() -> Iterator[dict[str, str]]:
    yield {"#time": "12:00"}


@live.loop(name="news", linger=5)
async def feed(most: int = 3) -> AsyncIterator[Any]:
    yield text("#news", most)


@live.on_error
def tell(loop: str, error: BaseException) -> None: ...


@app.get("/")
def view() -> Response:
    assert_type(live.publish(clock, {"#a": 1}), str)
    tell("clock", KeyError())
    return live.page("page.html", clock, feed, "orders", title="Home")


assert_type(clock, SharedLoop)
assert_type(feed, SharedLoop)
assert_type(follow(app.test_client(), "/", limit=1), list[Block])


@live.loop
def needs(argument: int) -> Iterator[str]:  # error
    yield ""


live.publish(5, "x")  # error
live.page("page.html", clock, into=5)  # error
"""


def test_an_app_type_checks_and_mistakes_in_it_are_found(tmp_path: Path) -> None:
    api = pytest.importorskip("mypy.api", reason="mypy is in the extra `dev`")
    snippet = tmp_path / "app.py"
    snippet.write_text(TYPED)
    report, _, _ = api.run(["--strict", "--no-error-summary", str(snippet)])
    found = {int(line.split(":")[1]) for line in report.splitlines() if ": error:" in line}
    lines = TYPED.splitlines()
    # a decorated function's error stands at its decorator
    expected = {i - 1 if "def " in line else i for i, line in enumerate(lines, 1) if "# error" in line}
    assert found == expected, report
