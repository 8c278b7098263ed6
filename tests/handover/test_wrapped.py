"""The handover where something wraps the server's start_response: an error tracker, a tracer, a compressor."""

from __future__ import annotations

import itertools
import re
from typing import Any

import pytest

from tests.handover.raw import Raw, dechunked, get, get_json
from tests.handover.wrapped import WRAPPERS
from tests.servers.process import Server, Servers, wait_until

pytestmark = pytest.mark.server

APP = "tests.handover.wrapped"
SEEN_THROUGH = ("partial", "closure", "instance", "slots", "method", "default", "decorated", "several")
OPAQUE = {
    "native": "weakref.CallableProxyType, and {server}'s own is not to be found behind it",
    "hidden": ".hidden.<locals>.start, and {server}'s own is not to be found behind it",
    "keeper": ".hidden.<locals>.start, and {server}'s own is not to be found behind it",
    "late": ".late.<locals>.start, which did not call {server}'s own when it was called",
    "begins": "the response is on its way already",
}


@pytest.fixture(scope="module", params=["sync", "gthread", "werkzeug"])
def site(request: pytest.FixtureRequest, module_servers: Servers) -> Server:
    if request.param == "werkzeug":
        server = module_servers.module(APP, "{port}", ready="Running on")
    else:
        threads = 1 if request.param == "sync" else 4
        server = module_servers.gunicorn(f"{APP}:app", worker_class=request.param, threads=threads)
    server.kind = request.param  # type: ignore[attr-defined]
    return server


def follow(site: Server, wrapper: str, name: str = "some") -> Raw:
    headers = {"Accept": "text/event-stream", "X-Wrapper": wrapper, "Connection": "close"}
    return Raw(site).ask(f"/stream/{name}", headers=headers)


def post(site: Server, path: str) -> None:
    raw = get(site, path, method="POST", headers={"Content-Length": "0"})
    assert b" 200 OK\r\n" in raw.data


def stats(site: Server, channel: str = "some") -> Any:
    return get_json(site, f"/stats?of={channel}")


def held(site: Server, channel: str, count: int) -> None:
    wait_until(lambda: stats(site, channel)["following"] == count, 20, f"{count} viewers of {channel}")


numbers = itertools.count()


def fields(raw: Raw) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in raw.head.decode().split("\r\n")[1:]:
        name, _, value = line.partition(": ")
        found.setdefault(name.lower(), []).append(value)
    return found


def follows_to_the_end(site: Server, wrapper: str) -> Raw:
    """A viewer that is held, gets what is published and then the end, and nothing of the server's."""
    before = stats(site)
    name = f"{wrapper}-{next(numbers)}"  # a channel that has ended has no more viewers
    with follow(site, wrapper, name) as raw:
        raw.until(b"event: hello")
        held(site, name, 1)
        post(site, f"/publish/{name}/one")
        raw.until(b'"one"')
        post(site, f"/finish/{name}")
        raw.rest()
    after = stats(site)
    assert (after["handovers"], after["fallbacks"]) == (before["handovers"] + 1, before["fallbacks"])
    assert raw.data.startswith(b"HTTP/1.1 200 OK\r\n")
    assert raw.data.count(b"HTTP/1.") == 1
    assert raw.body.startswith(b"event: hello\n")
    assert b"event: end" in raw.body
    found = fields(raw)
    assert found["connection"] == ["close"]
    assert found["content-type"] == ["text/event-stream; charset=utf-8"]
    assert len(found["date"]) == 1
    assert not found.keys() & {"content-length", "content-encoding", "transfer-encoding"}
    raw.seen = after["seen"][len(before["seen"]) :]  # type: ignore[attr-defined]
    raw.name = name  # type: ignore[attr-defined]
    return raw


@pytest.mark.parametrize("wrapper", SEEN_THROUGH)
def test_a_viewer_is_held_behind_what_wraps_start_response_and_it_sees_the_status(site, wrapper):
    raw = follows_to_the_end(site, wrapper)
    assert raw.seen == ["200 OK"] * (5 if wrapper == "several" else 1)  # type: ignore[attr-defined]


@pytest.mark.parametrize("wrapper", ["closure", "several", "generator"])
def test_a_header_that_a_wrapper_adds_arrives_and_it_may_ask_for_the_request(site, wrapper):
    raw = follows_to_the_end(site, wrapper)
    assert fields(raw)["traceresponse"] == [f"00-{raw.name}-01"]  # type: ignore[attr-defined]


def test_a_body_is_not_said_to_be_compressed_for_nobody_compresses_it(site):
    assert "Accept-Encoding" in fields(follows_to_the_end(site, "compressed"))["vary"]


def test_more_viewers_than_threads_are_held_behind_a_wrapper(site):
    before = stats(site)
    opened = [follow(site, "several", "many") for _ in range(20)]
    try:
        for raw in opened:
            raw.until(b"event: hello")
        held(site, "many", 20)
        post(site, "/publish/many/everybody")
        for raw in opened:
            raw.until(b'"everybody"')
        assert stats(site)["handovers"] == before["handovers"] + 20
    finally:
        for raw in opened:
            raw.close()
    held(site, "many", 0)


@pytest.mark.parametrize("wrapper", OPAQUE)
def test_what_hides_the_servers_own_is_refused_by_name_and_its_stream_goes_through_the_server(site, wrapper):
    before = stats(site)
    if wrapper == "keeper":
        with follow(site, wrapper) as first:  # is kept, and its connection is open
            first.until(b"event: hello")
            second = through(site, wrapper)
            assert first.data.count(b"event: hello") == 1
        count = 2
    else:
        second = through(site, wrapper)
        count = 1
    assert second.body.count(b"event: hello") == 1
    after = stats(site)
    assert (after["handovers"], after["fallbacks"]) == (before["handovers"], before["fallbacks"] + count)
    server = "Werkzeug" if site.kind == "werkzeug" else "gunicorn"  # type: ignore[attr-defined]
    said = re.escape(OPAQUE[wrapper].format(server=server))
    site.wait_log(rf"each page that follows holds a thread of the server; at most \d do, .*{said}")


def through(site: Server, wrapper: str) -> Raw:
    """A whole stream that goes through the server: a short one, where it has no thread to hold."""
    name = f"{wrapper}-{next(numbers)}"
    with follow(site, wrapper, name) as raw:
        raw.until(b"event: hello")
        if site.kind != "sync":  # type: ignore[attr-defined]
            post(site, f"/publish/{name}/one")
            raw.until(b'"one"')
            post(site, f"/finish/{name}")
        raw.rest()
    assert raw.data.count(b"HTTP/1.") == 1
    if b"transfer-encoding: chunked" in raw.head.lower():
        dechunked(raw.body)  # it is whole
    return raw


@pytest.mark.parametrize("wrapper", ["raises", "raises late", "adds no header"])
def test_a_wrapper_that_fails_is_answered_by_the_server_and_takes_no_connection(site, wrapper):
    held(site, "some", 0)  # those of the tests before
    before = stats(site)
    with follow(site, wrapper) as raw:
        raw.rest()
    assert raw.data.startswith(b"HTTP/1.1 500 ")
    assert raw.data.count(b"HTTP/1.") == 1
    assert b"event: hello" not in raw.data
    assert b"X-Injected" not in raw.head
    assert b"Internal Server Error" in raw.body
    after = stats(site)
    assert after["following"] == before["following"] == 0
    assert (after["handovers"], after["fallbacks"]) == (before["handovers"], before["fallbacks"])


@pytest.mark.parametrize(
    ("wrapper", "status", "body"),
    [("blocks", b"403 ", b"blocked"), ("replaces", b"200 ", b"closed for today")],
)
def test_an_answer_that_a_wrapper_puts_in_the_place_of_the_stream_is_the_answer(site, wrapper, status, body):
    held(site, "some", 0)
    before = stats(site)
    with follow(site, wrapper) as raw:
        raw.rest()
    assert raw.data.startswith(b"HTTP/1.1 " + status)
    chunked = b"transfer-encoding: chunked" in raw.head.lower()
    assert (dechunked(raw.body) if chunked else raw.body) == body
    after = stats(site)
    assert (after["following"], after["handovers"]) == (0, before["handovers"])


def test_each_wrapper_is_tried_here():
    tried = {*SEEN_THROUGH, *OPAQUE, "none", "generator", "compressed", "raises", "raises late"}
    assert tried | {"adds no header", "blocks", "replaces"} == set(WRAPPERS)


def test_nothing_is_logged_as_an_error_but_what_the_wrappers_raise(site):
    for wrapper in ("generator", "several"):
        follows_to_the_end(site, wrapper)
    log = site.log_of_this_run()
    raised = r"(?m)^(?:RuntimeError: the tracker is broken|\S*InvalidResponseHeader: |ValueError: a response header)"
    assert log.count("Traceback") == len(re.findall(raised, log))
