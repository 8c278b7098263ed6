"""One URL is the page and its stream; whatever a client sends gets one of the two."""

from __future__ import annotations

import doctest
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from afterload import negotiate as module
from afterload.negotiate import Request, latin1_to_utf8, negotiate
from afterload.position import Position

SSE = "text/event-stream"
# As browsers and tools send them.
CHROMIUM = (
    "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/apng,*/*;q=0.8,"
    "application/signed-exchange;v=b3;q=0.7"
)


def stream(query: dict[str, str] | None = None, **headers: str) -> Request:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return negotiate("GET", {"accept": SSE, **names}, query or {})


def test_the_examples_in_the_docstrings_hold() -> None:
    assert doctest.testmod(module).failed == 0


@pytest.mark.parametrize(
    "accept",
    [
        SSE,
        "Text/Event-Stream",
        f" {SSE} ",
        f"{SSE};charset=utf-8",
        f"{SSE};q=0.001",
        f"{SSE}; Q=1.000",
        f"{SSE}, */*",
        f"{SSE}, text/*;q=0.5",
        f"{SSE}, text/html",
        f"text/html, {SSE}",
        f"text/html;q=0.9, {SSE}",
        f"text/html;q=0.5, {SSE};q=0.5",
        f"application/json;q=0.9, {SSE};q=0.1",  # wants neither page; the stream is what is there
        f"text/html;q=0.2, */*;q=0.9, {SSE};q=0.3",  # the more specific range counts for the page
        f'text/plain;x=", text/html", {SSE};q=0.5',  # a quoted string has no elements
        f'text/plain;x="a\\", text/html", {SSE};q=0.5',
        f",,;;, {SSE}",
        f"text/html;q=nonsense, {SSE};q=0.1",
        f"\x00\xff, {SSE}",
    ],
)
def test_the_stream_is_for_those_who_name_it(accept: str) -> None:
    assert negotiate("GET", {"accept": accept}, {}).wire == "sse"


@pytest.mark.parametrize(
    "accept",
    [
        "",
        "*/*",
        "text/*",
        "text/html",
        CHROMIUM,
        f"{SSE};q=0",
        f"{SSE};q=0.0",
        f"{SSE};q=0.000",
        f"text/html, {SSE};q=0.9",
        f"*/*, {SSE};q=0.9",
        f"text/*, {SSE};q=0.9",
        "text/event-streams",
        "text/event-stream2",
        "application/text/event-stream",
        "event-stream",
        'x="text/event-stream"',
        f'text/plain;x="{SSE}',  # a quote that is never closed
        f'text/plain;x="{SSE}\\',
        # weights that are none
        *(f"{SSE};q={q}" for q in ["", "x", "-1", "1.1", "2", "nan", "inf", "1e0", "0_1", "\u0661", "0x1"]),
        f'{SSE};q="1"',
        "\x00", "\xff\xfe", ",", ";", '"', "\\", "=", ";q=1",
    ],
)  # fmt: skip
def test_the_page_is_for_all_others(accept: str) -> None:
    assert negotiate("GET", {"accept": accept}, {}) == Request("html")


def test_without_an_accept_header_it_is_the_page() -> None:
    assert negotiate("GET", {}, {}) == Request("html")


@pytest.mark.parametrize("method", ["HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "get", "", "\xff"])
def test_only_get_has_a_stream(method: str) -> None:
    headers = {"accept": SSE, "last-event-id": "e.1", "al-close": "1", "sec-fetch-site": "cross-site"}
    assert negotiate(method, headers, {"al-position": "e.1"}) == Request("html")


@pytest.mark.parametrize(
    ("header", "query", "expected"),
    [
        (None, None, None),
        ("e.5", None, Position("e", 5)),
        (" e.5\t", None, Position("e", 5)),
        (None, "e.4~", Position("e", 4, rendered=True)),
        ("e.5", "e.4~", Position("e", 5)),
        ("", "e.4", Position("e", 4)),
        ("  ", "e.4", Position("e", 4)),
        ("0", "e.4", None),  # it has been here, and has nothing
        ("0", None, None),
        (None, "", None),
    ],
)
def test_what_was_seen_last_beats_what_the_page_was_served_with(
    header: str | None, query: str | None, expected: Position | None
) -> None:
    headers = {} if header is None else {"last_event_id": header}
    found = stream({} if query is None else {"al-position": query}, **headers)
    assert (found.position, found.bad_position) == (expected, False)


@pytest.mark.parametrize("bad", ["x", "e.1.1", "e,1", "é.1", "\ud800", "1" * 10_000, "e.1\x00"])
def test_what_is_no_position_is_said_to_be_none_and_the_stream_goes_on(bad: str) -> None:
    for found in (stream(last_event_id=bad), stream({"al-position": bad})):
        assert found == Request("sse", None, bad_position=True)
    # What was seen last is not known, so the page's own position would be older than what it shows.
    assert stream({"al-position": "e.1"}, last_event_id=bad).bad_position


@pytest.mark.parametrize(
    ("value", "expected"), [("1", True), (" 1 ", True), ("0", False), ("", False), ("yes", False)]
)
def test_a_page_says_that_it_will_not_come_back(value: str, expected: bool) -> None:
    assert stream(al_close=value).close is expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("cross-site", True),
        ("Cross-Site", True),
        ("same-site", False),
        ("same-origin", False),
        ("none", False),
        ("", False),
    ],
)
def test_a_page_of_another_site_is_recognised(value: str, expected: bool) -> None:
    assert stream(sec_fetch_site=value).cross_site is expected
    # Following a link to the page is no matter.
    assert not negotiate("GET", {"accept": CHROMIUM, "sec-fetch-site": value}, {}).cross_site


anything = (
    st.text() | st.binary().map(lambda b: b.decode("latin-1")) | st.sampled_from(["e.1", SSE, CHROMIUM, '"'])
)
pieces = st.sampled_from(
    [SSE, "text/html", "*/*", ";", ",", "q=", "0.5", "1", '"', "\\", " ", "=", "\x00", "é"]
)


@given(
    st.text(),
    st.dictionaries(
        st.sampled_from(["accept", "last-event-id", "al-close", "sec-fetch-site"]),
        anything | st.lists(pieces).map("".join),
    ),
    st.dictionaries(st.sampled_from(["al-position", "x"]), anything),
)
@example("GET", {"accept": SSE, "last-event-id": "\udcff"}, {})
def test_nothing_that_a_client_sends_raises(
    method: str, headers: dict[str, str], query: dict[str, str]
) -> None:
    for used in (method, "GET"):
        found = negotiate(used, headers, query)
        assert found.wire in ("html", "sse")
        assert not (found.bad_position and found.position)
        if found.wire == "sse":
            assert used == "GET"
            assert SSE in headers["accept"].lower()
        else:
            assert found == Request("html")


@pytest.mark.parametrize(
    "piece", ['"', '"\\', "\\", ",", ";", " ", f"{SSE};", '";', f'{SSE};q="', "a=", '",']
)
def test_a_hostile_accept_header_costs_no_more_than_its_length(piece: str) -> None:
    """Stands for a request that would keep the process busy by its header alone."""
    accept = SSE + piece * (200_000 // len(piece))
    started = time.process_time()
    negotiate("GET", {"accept": accept}, {})
    assert time.process_time() - started < 2


@given(st.binary())
def test_any_bytes_of_a_header_become_text(value: bytes) -> None:
    assert latin1_to_utf8(value.decode("latin-1")) == value.decode("utf-8", "replace")


@given(st.text())
def test_a_header_that_is_text_already_does_not_raise(value: str) -> None:
    latin1_to_utf8(value).encode("utf-8", "surrogatepass")


# A WebSocket


def websocket(query: dict[str, str] | None = None, **headers: str) -> Request:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return negotiate("GET", {"upgrade": "websocket", "host": "shop.example", **names}, query or {})


@pytest.mark.parametrize("upgrade", ["websocket", "WebSocket", " h2c, websocket"])
def test_a_websocket_is_for_those_who_ask_for_an_upgrade_whatever_else_they_accept(upgrade: str) -> None:
    assert negotiate("GET", {"upgrade": upgrade, "accept": CHROMIUM}, {}).wire == "websocket"


@pytest.mark.parametrize("upgrade", ["", "h2c", "websockets", "not websocket"])
def test_another_upgrade_is_none(upgrade: str) -> None:
    assert negotiate("GET", {"upgrade": upgrade, "accept": CHROMIUM}, {}).wire == "html"
    assert negotiate("POST", {"upgrade": "websocket"}, {}).wire == "html"


def test_its_position_stands_in_a_header_or_among_its_subprotocols() -> None:
    offered = "afterload.v1, afterload.position.e-1.7~"
    assert websocket(sec_websocket_protocol=offered).position == Position("e-1", 7, rendered=True)
    assert websocket(sec_websocket_protocol=offered, last_event_id="e.9").position == Position("e", 9)
    assert websocket({"al-position": "e.3"}, sec_websocket_protocol=offered).position == Position(
        "e-1", 7, True
    )
    assert websocket({"al-position": "e.3"}, sec_websocket_protocol="afterload.v1").position == Position(
        "e", 3
    )
    assert websocket(sec_websocket_protocol="afterload.position.nonsense").bad_position


@pytest.mark.parametrize(
    ("headers", "foreign"),
    [
        ({}, False),
        ({"origin": "https://shop.example"}, False),
        ({"origin": "HTTPS://Shop.Example"}, False),
        ({"origin": "http://shop.example:80"}, False),
        ({"origin": "http://shop.example", "host": "shop.example:80"}, False),
        ({"origin": "http://shop.example:8000", "host": "shop.example:8000"}, False),
        ({"origin": "http://shop.example:8000"}, True),
        ({"origin": "http://shop.example:443"}, True),
        ({"origin": "https://evil.example"}, True),
        ({"origin": "https://shop.example.evil.example"}, True),
        ({"origin": "null"}, True),
        ({"origin": "shop.example"}, True),
        ({"origin": "https://"}, True),
        ({"origin": "https://evil.example", "sec_fetch_site": "same-origin"}, False),
        ({"origin": "https://shop.example", "sec_fetch_site": "cross-site"}, True),
        ({"origin": "https://sub.shop.example", "sec_fetch_site": "same-site"}, True),
    ],
)
def test_only_its_own_origin_may_open_it(headers: dict[str, str], foreign: bool) -> None:
    assert websocket(**headers).cross_site is foreign


# A poll


def poll(query: dict[str, str] | None = None, **headers: str) -> Request:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return negotiate("GET", {"accept": "application/json", **names}, query or {})


def test_a_poll_is_json_with_a_position() -> None:
    assert poll(last_event_id="0").wire == "poll"
    assert poll({"al-position": "e.1"}).wire == "poll"
    assert poll(last_event_id="nonsense").bad_position
    assert poll().wire == "html"
    assert poll(last_event_id="0", accept="*/*").wire == "html"
    assert poll(last_event_id="0", accept="text/html, application/json;q=0.5").wire == "html"
    assert poll(last_event_id="0", accept=f"application/json, {SSE}").wire == "sse"


@pytest.mark.parametrize(
    ("said", "wait"),
    [
        ("", None), ("25", 25.0), ("0", 0.0), ("0.5", 0.5), ("-1", 0.0), ("soon", None), ("nan", None),
        ("inf", None), ("1e999", None), ("1_0", 10.0),
    ],
)  # fmt: skip
def test_it_says_how_long_it_would_wait(said: str, wait: float | None) -> None:
    assert poll(last_event_id="0", al_wait=said).wait == wait
    assert poll({"al-wait": said}, last_event_id="0").wait == wait
    assert stream(al_wait="5").wait is None


def test_a_poll_of_another_site_is_refused_as_a_stream_is() -> None:
    assert poll(last_event_id="0", sec_fetch_site="cross-site").cross_site
    assert not poll(last_event_id="0", sec_fetch_site="same-site").cross_site
