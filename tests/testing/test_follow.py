"""What users test their own pages with: what it returns, and that it never hangs."""

from __future__ import annotations

import itertools
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from flask import Flask, Response, abort, redirect, session

from afterload import append, attr, dispatch, message, text
from afterload.flask import Live
from afterload.runs import FAILED
from afterload.testing import Block, follow
from afterload.wire import sse


@pytest.fixture
def app() -> Flask:
    app = Flask(__name__)
    app.secret_key = "test"
    return app


@pytest.fixture
def live(app: Flask) -> Iterator[Live]:
    live = Live(app, ahead_entries=1)
    yield live
    live.close()


def page(app: Flask, live: Live, url: str, make: Callable[[], Any], **options: Any) -> None:
    app.add_url_rule(url, url, lambda: live.page("none.html", make(), **options))


def test_patches_compare_with_those_that_were_yielded(app: Flask, live: Live) -> None:
    row = append("#log", "<3", keep=5)

    def loop() -> Iterator[Any]:
        yield {"#a": 1, "#b": "two"}
        yield [row, attr("#a", "href", "/next")]
        yield dispatch("sold", {"id": 7})

    page(app, live, "/", loop)
    blocks = follow(app.test_client(), "/", limit=3)
    assert [block.event for block in blocks] == ["patch"] * 3
    assert [block.patches for block in blocks] == [
        [text("#a", 1), text("#b", "two")],
        [row, attr("#a", "href", "/next")],
        [dispatch("sold", {"id": 7})],
    ]


def test_a_plain_string_is_a_message_with_its_text(app: Flask, live: Live) -> None:
    page(app, live, "/", lambda: iter_of("one\ntwo", message("<3")), into="#data")
    blocks = follow(app.test_client(), "/", limit=2)
    assert [(block.event, block.text, block.patches) for block in blocks] == [
        ("message", "one\ntwo", []),
        ("message", "<3", []),
    ]


def iter_of(*things: Any) -> Iterator[Any]:
    yield from things


def test_without_a_limit_it_goes_to_the_end_of_the_stream(app: Flask, live: Live) -> None:
    page(app, live, "/", lambda: iter_of({"#a": 1}, {"#a": 2}))
    *blocks, end = follow(app.test_client(), "/")
    assert [block.patches for block in blocks] == [[text("#a", 1)], [text("#a", 2)]]
    assert (end.event, end.channel, end.status, end.message) == ("end", "~", "done", "")


def test_a_limit_that_is_more_than_there_is_returns_what_there_is(app: Flask, live: Live) -> None:
    page(app, live, "/", lambda: iter_of({"#a": 1}))
    assert [block.event for block in follow(app.test_client(), "/", limit=100)] == ["patch", "end"]


def test_no_more_than_the_limit_is_returned_even_if_more_came_at_once(app: Flask, live: Live) -> None:
    live.publish("a", {"#a": 1})
    live.publish("b", "one")
    live.publish("b", {"#b": 2})
    app.add_url_rule("/", "/", lambda: live.page("none.html", "a", "b"))
    all_of_them = follow(app.test_client(), "/", limit=2)
    assert len(all_of_them) == 2
    assert len(follow(app.test_client(), "/", limit=1)) == 1
    assert follow(app.test_client(), "/", limit=0) == []


def test_a_snapshot_has_the_patches_of_all_its_channels(app: Flask, live: Live) -> None:
    live.publish("a", {"#a": 1})
    live.publish("b", {"#b": 2})
    app.add_url_rule("/", "/", lambda: live.page("none.html", "a", "b"))
    [block] = follow(app.test_client(), "/", limit=1)
    assert (block.event, block.patches) == ("snapshot", [text("#a", 1), text("#b", 2)])


def test_a_failed_loop_says_what_the_reader_of_the_page_is_told(
    app: Flask, live: Live, caplog: pytest.LogCaptureFixture
) -> None:
    def loop() -> Iterator[Any]:
        yield {"#a": 1}
        raise RuntimeError("secret")

    page(app, live, "/", loop)
    end = follow(app.test_client(), "/")[-1]
    assert (end.event, end.status, end.message) == ("end", "failed", FAILED)


def test_the_id_of_a_block_resumes_after_it(app: Flask, live: Live) -> None:
    page(app, live, "/", lambda: (f"{i}" for i in itertools.count()))
    client = app.test_client()
    first = follow(client, "/", limit=3)
    second = follow(client, "/", limit=2, headers={"Last-Event-ID": first[-1].id})
    assert [block.text for block in (*first, *second)] == ["0", "1", "2", "3", "4"]


def test_a_position_from_elsewhere_is_healed_and_the_blocks_say_so(app: Flask, live: Live) -> None:
    page(app, live, "/", lambda: iter_of({"#n": 0}))
    app.add_url_rule("/x", "/x", lambda: live.page("none.html", "published"))
    headers = {"Last-Event-ID": "elsewhere.4"}
    reset, new, end = follow(app.test_client(), "/", headers=headers)
    assert (reset.event, reset.channel, new.patches, end.event) == ("reset", "~", [text("#n", 0)], "end")
    live.publish("published", {"#n": 0})
    [block] = follow(app.test_client(), "/x", limit=1, headers=headers)
    assert block == Block("refresh", id="elsewhere.4")  # the page is where it was


def test_nothing_is_left_of_what_is_over(app: Flask, live: Live) -> None:
    page(app, live, "/", lambda: iter_of({"#n": 0}))
    client = app.test_client()
    end = follow(client, "/")[-1]
    assert follow(client, "/", headers={"Last-Event-ID": end.id}) == []


def test_the_clients_own_headers_and_session_are_sent_and_kept(app: Flask, live: Live) -> None:
    @app.get("/")
    def view() -> Response:
        session["visits"] = session.get("visits", 0) + 1
        return live.page("none.html", iter_of({"#visits": session["visits"]}))

    client = app.test_client()
    for visit in (1, 2):
        assert follow(client, "/", limit=1)[0].patches == [text("#visits", visit)]
    with client.session_transaction() as kept:
        assert kept["visits"] == 2


def test_the_view_runs_in_the_thread_of_the_test(app: Flask, live: Live) -> None:
    # as with a database in memory that the test has made: SQLite refuses it to other threads
    with sqlite3.connect(":memory:") as database:

        @app.get("/")
        def view() -> Response:
            return live.page("none.html", iter_of({"#one": database.execute("select 1").fetchone()[0]}))

        assert follow(app.test_client(), "/", limit=1)[0].patches == [text("#one", 1)]
    database.close()


def test_inside_a_with_block_the_request_is_still_there_afterwards(app: Flask, live: Live) -> None:
    @app.get("/")
    def view() -> Response:
        session["seen"] = True
        return live.page("none.html", iter_of({"#a": 1}))

    with app.test_client() as client:
        follow(client, "/")
        assert session["seen"] is True


@pytest.mark.parametrize(
    ("view", "said"),
    [
        (lambda: "a page", "200 OK, text/html"),
        (lambda: abort(404), "404 NOT FOUND, text/html"),
        (lambda: abort(403), "403 FORBIDDEN"),
        (lambda: redirect("/login"), "302 FOUND to /login"),
        (lambda: ("[]", 200, {"Content-Type": "application/json"}), "200 OK, application/json"),
        (lambda: Response("data: x\n\n", 500, mimetype="text/event-stream"), "500 INTERNAL SERVER ERROR"),
    ],
)
def test_what_is_no_stream_fails_with_what_it_is(
    app: Flask, live: Live, view: Callable[[], Any], said: str
) -> None:
    app.add_url_rule("/", "/", view)
    with pytest.raises(AssertionError, match=f"^/ did not answer with a stream, but with {said}"):
        follow(app.test_client(), "/")


def test_a_limit_below_0_is_a_mistake_of_the_test(app: Flask) -> None:
    with pytest.raises(ValueError, match="limit is a number of blocks from 0, or None, not -1"):
        follow(app.test_client(), "/", limit=-1)


# It never hangs


def test_a_stream_that_never_brings_enough_fails_with_what_came(
    app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr(sys.modules[follow.__module__], "time", SimpleNamespace(monotonic=lambda: now))

    def body() -> Iterator[bytes]:
        nonlocal now
        yield sse.patch([("a", 1, [text("#n", 0)], None)]) + sse.message("words")
        now += 10.1
        yield sse.ping("e.1")

    app.add_url_rule("/", "/", lambda: Response(body(), mimetype="text/event-stream"))
    with pytest.raises(AssertionError) as caught:
        follow(app.test_client(), "/", limit=3)
    said = str(caught.value)
    assert said.startswith("/ did not bring 3 blocks within 10 seconds. What came:\n")
    assert repr(text("#n", 0)) in said
    assert "text='words'" in said


def test_a_stream_that_never_ends_fails_also_where_its_end_is_waited_for(app: Flask, live: Live) -> None:
    app.add_url_rule("/", "/", lambda: live.page("none.html", "quiet"))
    with pytest.raises(AssertionError, match=r"^/ did not bring its end within 0\.2 s.*:\n  nothing$"):
        follow(app.test_client(), "/", timeout=0.2)


def test_heartbeats_do_not_keep_a_test_alive(app: Flask) -> None:
    app.add_url_rule("/", "/", lambda: Response(heartbeats(), mimetype="text/event-stream"))
    with pytest.raises(AssertionError, match="did not bring 1 blocks"):
        follow(app.test_client(), "/", limit=1, timeout=0.2)


def heartbeats() -> Iterator[bytes]:
    while True:
        yield sse.ping("e.1")


def test_a_stream_of_somebody_else_that_blocks_before_its_first_byte_does_not_hang(app: Flask) -> None:
    # its generator cannot be closed from outside, either
    release = threading.Event()

    def never() -> Iterator[bytes]:
        release.wait(50)
        yield b""

    app.add_url_rule("/", "/", lambda: Response(never(), mimetype="text/event-stream"))
    app.add_url_rule("/plain", "/plain", lambda: Response(never(), mimetype="text/plain"))
    started = time.monotonic()
    with pytest.raises(AssertionError, match=r"did not bring 1 blocks within 0\.1 seconds"):
        follow(app.test_client(), "/", limit=1, timeout=0.1)
    with pytest.raises(AssertionError, match="did not answer with a stream, but with 200 OK, text/plain"):
        follow(app.test_client(), "/plain", limit=1)
    assert time.monotonic() - started < 40
    release.set()
    for thread in threading.enumerate():
        if thread.name == "afterload-follow":
            thread.join(10)
            assert not thread.is_alive()


def test_an_error_in_a_body_reaches_the_test(app: Flask) -> None:
    def body() -> Iterator[bytes]:
        yield sse.message("one")
        raise ZeroDivisionError("in the body")

    app.add_url_rule("/", "/", lambda: Response(body(), mimetype="text/event-stream"))
    with pytest.raises(ZeroDivisionError, match="in the body"):
        follow(app.test_client(), "/", limit=2)


def test_an_event_that_is_none_of_ours_has_its_data_as_text(app: Flask) -> None:
    body = [b"event: price\nid: 7\ndata: 12\n\n"]
    app.add_url_rule("/", "/", lambda: Response(body, mimetype="text/event-stream"))
    assert follow(app.test_client(), "/") == [Block("price", text="12", id="7")]


def test_the_viewer_is_gone_when_it_returns_and_no_thread_is_left(app: Flask, live: Live) -> None:
    app.add_url_rule("/", "/", lambda: live.page("none.html", "a"))
    live.publish("a", {"#a": 1})
    follow(app.test_client(), "/", limit=1)
    assert not [t for t in threading.enumerate() if t.name == "afterload-follow"]
    deadline = time.monotonic() + 10
    while live.viewers("a"):
        assert time.monotonic() < deadline, "the viewer is still held"
        time.sleep(0.002)
