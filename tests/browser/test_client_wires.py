"""The client's three wires: that each does all that the others do, and which one is taken when."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from afterload.testing import Fault, FaultProxy
from tests.browser.driver import Page
from tests.browser.fixtures import Console
from tests.browser.test_client import EAGER, post, publish, stats
from tests.browser.test_client_wire import (
    BODY,
    HIDE,
    HTML,
    SOON,
    STILL,
    let_pass,
    marker,
    patch,
    record,
    reset,
    seen,
    wait_marker,
)
from tests.browser.wire import Asked, Wire, block, hello
from tests.browser.wire import page as html
from tests.servers.process import Server, Servers, wait_until

WIRES = ("websocket", "stream", "poll")
# The order on HTTP/1.1, which these servers speak.
BEFORE = {"websocket": [], "stream": ["websocket"], "poll": ["websocket", "stream"]}
TOLD = "window.told = []; document.addEventListener('live:status', e => told.push([e.detail.status, e.detail.wire]));"
# How fast the page's clock is. A wire is given 5 s to say hello: on a busy machine that may be too short where a test
# is about something else, and where it is about that it is long.
SLOW, FAST = 0.1, 10


def remembering(*wires: str, age: str = "0") -> str:
    """A script that lets the page know that these wires have failed, so many milliseconds ago."""
    return "".join(f"localStorage['afterload.{wire}'] = Date.now() - {age};" for wire in wires)


def served(*scripts: str, body: str = BODY, clock: float = SLOW, **more: Any) -> str:
    return html(
        body, head=f"<title>served</title><script>{TOLD}{pace(clock)}{''.join(scripts)}</script>", **more
    )


def pace(clock: float) -> str:
    """A script by which the page's clock is that fast."""
    return f"{{const now = performance.now.bind(performance); performance.now = () => {clock} * now();}}"


@pytest.fixture
def wire() -> Iterator[Wire]:
    with Wire() as server:
        server.html = served()
        yield server


@pytest.fixture(params=WIRES)
def kind(request: pytest.FixtureRequest, wire: Wire) -> str:
    """A server that has this wire only, and a page that knows."""
    name: str = request.param
    wire.only(name)
    wire.html = served(remembering(*BEFORE[name]))
    return name


@pytest.fixture
def live(wire: Wire, kind: str, page: Page) -> Page:
    """A page that follows by that wire."""
    page.goto(wire.url)
    page.wait_for_status("live")
    record(page)
    return page


def given(page: Page) -> float:
    """The seconds that a page whose clock stands still gives to the wire that it tries, before it asks by another."""
    page.wait_for("document.readyState === 'complete'")  # the time of a wire begins with the document
    seconds: float = page.run(
        "const get = fetch, from = by; let asked; window.fetch = (...how) => { asked = 1; return get(...how); };"
        "while (!asked && by - from < 1e5) { by += 1e3; document.dispatchEvent(new Event('visibilitychange')); }"
        "window.fetch = get; return (by - from) / 1e3 - 1"
    )
    return seconds


def stored(page: Page) -> list[str]:
    names: list[str] = page.eval("Object.keys(localStorage).sort()")
    return [name.removeprefix("afterload.") for name in names]


# Each wire does it all


def test_every_kind_of_block(wire: Wire, kind: str, page: Page) -> None:
    wire.greeting = lambda asked: hello("a", "~b", into="#count", id=asked.position or "0")
    page.goto(wire.url)
    page.wait_for_status("live")
    record(page)
    line = wire.line(kind)
    assert line.position == "start"
    line.send("id: p.1\ndata: one\ndata: <b> é€🙂\u2028\n\n".encode())
    page.wait_for_text("#count", "one\n<b> é€🙂\u2028")
    assert seen(page, "message") == [{"data": "one\n<b> é€🙂\u2028"}]
    lines = [["a", 1, [["text", "#count", "1"], ["text", "#head", "H"]]], ["b", 4, [["text", "#inner", "I"]]]]
    line.send(block("patch", lines, id="p.2"))
    page.wait_for_text("#inner", "I")
    assert page.eval("[count.textContent, head.textContent, afterload.position]") == ["1", "H", "p.2"]
    line.send(block("snapshot", [["a", 9, [["text", "#count", "9"]]]], id="p.9"))
    page.wait_for_text("#count", "9")
    assert page.eval("[head.textContent, inner.textContent]") == ["Head", "I"]
    line.send(block("novel", {}, id="p.10"), reset())
    page.wait_for_text("#count", "0")
    line.send(block("ping", {}, id="p.11"))
    page.wait_for("afterload.position === 'p.11'")
    line.send(block("end", {"channel": "a", "status": "done", "message": ""}, id="p.12"))
    line.send(block("end", {"channel": "~b", "status": "failed", "message": "It broke."}, id="p.13"))
    page.wait_for_status("failed")
    assert [(d["channel"], d["status"]) for d in seen(page, "end")] == [("a", "done"), ("~b", "failed")]
    assert page.eval("[afterload.position, afterload.wire]") == ["p.13", kind]
    assert page.eval("told") == [["connecting", None], ["live", kind], ["failed", kind]]
    assert len(wire.lines(kind)) == 1


def test_a_block_of_a_megabyte_and_many_small_ones(wire: Wire, kind: str, live: Page) -> None:
    text = "é€🙂 " * 100_000
    line = wire.line(kind)
    line.send(patch(["text", "#count", text], seq=1))
    live.wait_for(f"count.textContent.length === {5 * 100_000}")
    for seq in range(2, 202):
        line.send(patch(["append", "#rows", f"<li>{seq}</li>"], seq=seq, id=f"p.{seq}"))
    live.wait_for("rows.children.length === 202")
    assert live.eval("[...rows.children].slice(2).map(e => +e.textContent)") == list(range(2, 202))
    assert live.eval("afterload.position") == "p.201"
    assert len(wire.lines(kind)) == 1


def test_a_cut_is_come_back_from_by_the_same_wire_with_the_position(
    wire: Wire, kind: str, live: Page
) -> None:
    wire.line(kind).send(patch(["text", "#count", "1"], id="p.1"))
    live.wait_for_text("#count", "1")
    wire.cut()
    assert wire.line(kind, 2).position == "p.1"
    live.wait_for("told.length === 4")
    assert live.eval("told.slice(2)") == [["reconnecting", kind], ["live", kind]]
    wire.line(kind, 2).send(patch(["text", "#count", "2"], seq=2, id="p.2"))
    live.wait_for_text("#count", "2")
    assert {asked.wire for asked in wire.asked} <= {"html", "other", kind}


def test_a_gap_is_not_applied_but_asked_for(wire: Wire, kind: str, live: Page) -> None:
    lines = [["b", 9, [["text", "#count", "never"]]], ["a", 7, [["text", "#head", "never"]]]]
    wire.line(kind).send(patch(["text", "#count", "1"], seq=5, id="p.5"), block("patch", lines, id="p.7"))
    assert wire.line(kind, 2).position == "p.5"
    assert live.eval("[count.textContent, head.textContent]") == ["1", "Head"]
    wire.line(kind, 2).send(patch(["text", "#count", "6"], seq=7, since=5, id="p.7"))
    live.wait_for_text("#count", "6")


def test_bye_is_waited_for(wire: Wire, kind: str, live: Page) -> None:
    line = wire.line(kind)
    told = time.monotonic()
    line.send(patch(["text", "#count", "1"], id="p.1"), block("bye", {"retry": 900}, retry=900))
    if kind != "poll":
        assert line.gone.wait(20)  # whatever the server does now
    again = wire.line(kind, 2)
    assert (again.position, again.at - told > 0.85) == ("p.1", True)
    assert live.text("#count") == "1"
    live.wait_for("told.length === 4")
    assert live.eval("told.slice(2)") == [["reconnecting", kind], ["live", kind]]


def test_silence_for_two_and_a_half_heartbeats_is_a_dead_line(wire: Wire, kind: str, live: Page) -> None:
    """Stands for a blackhole: nobody says that the line is dead."""
    wire.greeting = lambda asked: hello(heartbeat=0.1, id=asked.position or "0")
    wire.cut()
    wire.line(kind, 2)
    live.wait_for_status("live")
    if kind == "poll":  # else the server says again and again that there is nothing new
        wire.wires["poll"] = "held"
        number = len(wire.requests("poll"))
        silent = wire.wait("poll", number + 1)
        wire.wires["poll"] = "open"
        assert silent.gone.wait(10)
    assert wire.line(kind, 3).wire == kind
    live.wait_for_status("live")


def test_a_hello_that_took_longer_than_a_dead_line_is_no_silence(wire: Wire, kind: str, page: Page) -> None:
    """Stands for a busy server whose heartbeat is short: its pages would never get through."""
    wire.html = served(remembering(*BEFORE[kind]), STILL)
    late = threading.Event()

    def greeting(asked: Asked) -> bytes:
        assert late.wait(20)
        return hello(heartbeat=1, id=asked.position or "0")

    wire.greeting = greeting
    page.goto(wire.url)
    wire.line(kind)
    page.wait_for("document.readyState === 'complete'")  # the time of a wire begins with the document
    let_pass(page, 4)
    late.set()
    page.wait_for_status("live")
    let_pass(page, 0)
    assert page.eval("told") == [["connecting", None], ["live", kind]]


def test_a_poll_without_news_is_a_sign_of_life(wire: Wire, page: Page) -> None:
    wire.only("poll")
    wire.html = served(remembering("websocket", "stream"))
    wire.greeting = lambda asked: hello(heartbeat=0.4, id=asked.position or "0")
    page.goto(wire.url)
    page.wait_for_status("live")
    wire.wait("poll", 5)
    assert [asked.waits for asked in wire.requests("poll")[:5]] == [0, 0.4, 0.4, 0.4, 0.4]
    assert page.eval("told.length") == 2


def test_a_poll_that_is_answered_by_204_at_first_is_live(wire: Wire, page: Page) -> None:
    wire.only("poll")
    wire.html = served(remembering("websocket", "stream"))
    wire.answers["poll"] = [(204, {}, "")] * 2
    page.goto(wire.url)
    page.wait_for_status("live")
    wire.wait("poll", 3).send(block("end", {"channel": "a", "status": "done", "message": ""}))
    page.wait_for_status("ended")
    assert page.eval("told") == [["connecting", None], ["live", "poll"], ["ended", "poll"]]


def test_refresh_brings_the_new_html_and_goes_on(wire: Wire, kind: str, live: Page) -> None:
    wire.html = served(body=BODY.replace(">0<", ">7<"), position="fresh")
    wire.line(kind).send(patch(["text", "#head", "x"], seq=70, id="p.70"), block("refresh", {}))
    live.wait_for_text("#count", "7")
    assert live.text("#head") == "Head"
    assert wire.line(kind, 2).position == "fresh"
    wire.line(kind, 2).send(patch(["text", "#count", "8"], seq=3, id="p.3"))
    live.wait_for_text("#count", "8")


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        ((403, HTML, "no"), "denied"),
        ((302, {"Location": "/login"}, ""), "denied"),
        ((404, HTML, ""), "denied"),
    ],
    ids=["forbidden", "a redirect", "not found"],
)
def test_no_is_an_answer(wire: Wire, kind: str, live: Page, answer: Any, status: str) -> None:
    """A WebSocket that is refused does not say why: the request behind it finds out."""
    wire.held()
    wire.answers = {"websocket": [(403, HTML, "")], "stream": [answer], "poll": [answer]}
    wire.cut()
    live.wait_for_status(status)
    number = [asked.path for asked in wire.asked].count("/page")
    live.run("window.dispatchEvent(new Event('online'))")
    time.sleep(0.7)  # more than the longest wait after a first failure
    assert [asked.path for asked in wire.asked].count("/page") == number
    if kind == "websocket":
        assert [asked.path for asked in wire.requests("stream")].count("/page") == 1
        assert stored(live) == []


def test_over_is_found_out_behind_a_websocket_that_is_refused(wire: Wire, page: Page) -> None:
    wire.only("websocket")
    page.goto(wire.url)
    page.wait_for_status("live")
    wire.answers = {"websocket": [(204, {}, "")], "stream": [(204, {}, "")]}
    wire.cut()
    page.wait_for_status("ended")
    assert page.eval("[afterload.wire, Object.keys(localStorage).length]") == ["websocket", 0]


def test_leaving_says_so_for_a_loop_of_its_own(wire: Wire, kind: str, page: Page) -> None:
    wire.greeting = lambda asked: hello("~", id="key.0")
    page.goto(wire.url)
    page.wait_for_status("live")
    line = wire.line(kind)
    line.send(patch(["text", "#count", "1"], channel="~", id="key.1"))
    page.wait_for_text("#count", "1")
    page.run("afterload.close()")
    assert page.eval("afterload.status") == "ended"
    assert wire.wait("close", 1).position == "key.1"
    assert line.gone.wait(20)
    wait_until(lambda: all(a.gone.is_set() for a in wire.requests(kind)), 5, "the page to let go")
    page.run("afterload.open()")
    assert wire.line(kind, 2).position == "key.1"
    page.wait_for_status("live")
    page.goto(wire.origin + "/elsewhere")
    if not page.browser.keeps_pages:
        wire.wait("close", 2)


def test_a_page_that_closes_when_it_is_told_that_it_reconnects_is_closed(
    wire: Wire, kind: str, live: Page
) -> None:
    live.run(
        "document.addEventListener('live:status', e => e.detail.status === 'reconnecting' && afterload.close())"
    )
    live.run("window.dispatchEvent(new Event('online'))")
    live.wait_for_status("ended")
    wait_until(lambda: all(a.gone.is_set() for a in wire.requests(kind)), 5, "the page to let go")
    time.sleep(0.7)
    assert len(wire.lines(kind)) == 1


def test_back_and_forward(wire: Wire, kind: str, live: Page) -> None:
    wire.headers = {"Cache-Control": "private, no-cache"}  # else no browser keeps it
    live.reload()
    live.wait_for_status("live")
    # The last: a browser may cut what a page follows by before the page goes, and that comes back once more.
    wire.lines(kind)[-1].send(patch(["text", "#count", "1"], id="p.1"))
    live.wait_for_text("#count", "1")
    for number in (1, 2):
        live.goto(wire.origin + f"/elsewhere?{number}")
        live.wait_for("document.body.textContent.includes('elsewhere')")
        wait_until(lambda: all(a.gone.is_set() for a in wire.requests(kind)), 5, "the page to let go")
        before = len(wire.lines(kind))
        live.back()
        live.wait_for_status("live")
        expected = "p.1" if live.browser.keeps_pages else "start"
        assert wire.line(kind, before + 1).position == expected
        assert live.text("#count") == ("1" if live.browser.keeps_pages else "0")
        assert live.eval("afterload.wire") == kind
    live.forward()
    live.wait_for("document.body.textContent.includes('elsewhere')")


def test_a_strict_policy_with_trusted_types_lets_it_through(
    wire: Wire, kind: str, page: Page, console: Console
) -> None:
    wire.headers = {
        "Content-Security-Policy": "default-src 'none'; connect-src 'self'; script-src 'self' 'nonce-one';"
        "require-trusted-types-for 'script'; trusted-types afterload"
    }
    wire.html = wire.html.replace("<script>", '<script nonce="one">')
    page.goto(wire.url)
    page.wait_for_status("live")
    wire.line(kind).send(patch(["html", "#inner", "<b>x</b>"]))
    page.wait_for_text("#inner", "x")
    assert page.eval("afterload.wire") == kind
    assert console.refused() == []


def test_nothing_is_applied_before_the_document_is_there(wire: Wire, kind: str, page: Page) -> None:
    slow = wire.origin + "/slow"
    wire.html = html("", position=None).replace(
        "<body>",
        f"<body><script>{pace(SLOW)}{remembering(*BEFORE[kind])}</script>"
        '<script src="/afterload.js" data-position="start"></script>'
        f"<script>const x = new XMLHttpRequest(); x.open('GET', '{slow}', false); x.send()</script>"
        '<p id="count">0</p>',
    )
    wire.greeting = lambda asked: hello() + patch(["text", "#count", "1"], id="p.1")
    page.goto(wire.url)
    page.wait_for_text("#count", "1")
    page.wait_for_status("live")


# Hidden tabs


def test_a_hidden_page_lets_go_of_what_is_scarce_only(wire: Wire, kind: str, live: Page) -> None:
    wire.line(kind).send(patch(["text", "#count", "1"], id="p.1"))
    live.wait_for_text("#count", "1")
    live.run(SOON)
    live.run(HIDE, True)
    if kind == "websocket":
        time.sleep(0.4)
        assert live.eval("afterload.status") == "live"
        wire.line(kind).send(patch(["text", "#count", "2"], seq=2, id="p.2"))
        live.wait_for_text("#count", "2")
        return
    live.wait_for_status("reconnecting")
    wait_until(lambda: all(a.gone.is_set() for a in wire.requests(kind)), 5, "the page to let go")
    live.run("window.dispatchEvent(new Event('online'))")
    time.sleep(0.5)
    assert len(wire.lines(kind)) == 1
    live.run(HIDE, False)
    assert wire.line(kind, 2).position == "p.1"
    live.wait_for_status("live")


def test_a_hidden_page_whose_websocket_became_a_stream_lets_that_go(wire: Wire, page: Page) -> None:
    wire.only("websocket", "stream")
    page.goto(wire.url)
    page.wait_for_status("live")
    page.run(SOON)
    page.run(HIDE, True)
    time.sleep(0.3)
    assert page.eval("afterload.wire") == "websocket"
    wire.only("stream")
    wire.cut()
    stream = wire.stream()
    assert stream.gone.wait(10)
    page.wait_for_status("reconnecting")


# Which one


def test_on_http_1_the_websocket_is_first(wire: Wire, page: Page) -> None:
    wire.only(*WIRES)
    page.goto(wire.url)
    page.wait_for_status("live")
    assert page.eval("told") == [["connecting", None], ["live", "websocket"]]
    assert wire.requests("stream") == wire.requests("poll") == []


def test_where_connections_are_not_scarce_the_stream_is_first(wire: Wire, page: Page) -> None:
    wire.only(*WIRES)
    wire.html = served("performance.getEntriesByType = () => [{nextHopProtocol: 'h2'}];", SOON + ";")
    page.goto(wire.url)
    page.wait_for_status("live")
    assert page.eval("afterload.wire") == "stream"
    page.run(HIDE, True)
    time.sleep(0.4)
    assert page.eval("afterload.status") == "live"
    assert wire.requests("websocket") == wire.requests("poll") == []


@pytest.mark.parametrize(
    "answer",
    [(426, {}, "no"), (200, HTML, "<p>the page"), (501, {}, ""), (101, {"Upgrade": "websocket"}, "")],
    ids=["refused", "its upgrade was taken out", "not implemented", "a handshake that is none"],
)
def test_a_websocket_that_fails_is_fallen_through_at_once_and_not_tried_for_a_day(
    wire: Wire, page: Page, answer: Any
) -> None:
    wire.answers["websocket"] = [answer] * 2
    page.goto(wire.url)
    page.wait_for_status("live")
    assert page.eval("told") == [["connecting", None], ["live", "stream"]]
    assert stored(page) == ["websocket"]
    wire.stream().cut()
    wire.stream(2)
    page.wait_for_status("live")
    page.reload()
    wire.stream(3)
    page.wait_for_status("live")
    assert len(wire.requests("websocket")) == 1
    page.run("localStorage['afterload.websocket'] = Date.now() - 864e5 - 1000")
    wire.only("websocket")
    wire.answers["websocket"] = []
    page.reload()
    wire.line("websocket", 2)
    page.wait_for_status("live")
    assert page.eval("afterload.wire") == "websocket"


def test_a_stream_that_is_held_back_is_fallen_through_after_5_s(wire: Wire, page: Page) -> None:
    """Stands for a proxy that buffers: it raises no error, and a hello never comes."""
    wire.html = served(STILL)
    wire.wires = {"stream": "held", "websocket": "refused", "poll": "open"}
    page.goto(wire.url)
    stream = wire.stream()
    assert given(page) == 5
    poll = wire.line("poll")
    assert (poll.position, stream.gone.wait(20)) == ("start", True)
    page.wait_for_status("live")
    assert page.eval("told") == [["connecting", None], ["live", "poll"]]
    assert stored(page) == ["stream", "websocket"]
    poll.send(patch(["text", "#count", "1"], id="p.1"))
    page.wait_for_text("#count", "1")
    wire.cut()
    assert wire.line("poll", 2).position == "p.1"
    page.reload()
    wire.line("poll", 3)
    page.wait_for_status("live")
    assert (len(wire.requests("stream")), len(wire.requests("websocket"))) == (1, 1)
    wire.only("stream")
    page.run("localStorage['afterload.stream'] = Date.now() - 864e5 - 1000")
    page.reload()
    wire.stream(2)
    page.wait_for_status("live")
    assert page.eval("afterload.wire") == "stream"


def test_a_stream_of_which_all_but_hello_comes_is_fallen_through_too(wire: Wire, page: Page) -> None:
    wire.html = served(clock=FAST)
    wire.greeting = lambda asked: b":\n\n" if asked.wire == "stream" else hello()
    page.goto(wire.url)
    stream = wire.stream()
    deadline = time.monotonic() + 10
    while not wire.requests("poll"):
        stream.send(b":\n\n")
        assert time.monotonic() < deadline
        time.sleep(0.1)
        if stream.gone.is_set():
            break
    wire.line("poll")
    page.wait_for_status("live")


def test_a_websocket_that_is_held_back_is_fallen_through_too(wire: Wire, page: Page) -> None:
    wire.html = served(STILL)
    wire.wires["websocket"] = "held"
    page.goto(wire.url)
    wire.wait("websocket", 1)
    assert given(page) == 5
    page.wait_for_status("live")
    assert page.eval("afterload.wire") == "stream"
    assert stored(page) == ["websocket"]


def test_where_nothing_works_it_begins_anew_and_blames_no_wire(wire: Wire, page: Page) -> None:
    """Stands for a server that hangs: that is no fault of a wire."""
    wire.html = served(clock=FAST)
    wire.wires = dict.fromkeys(WIRES, "held")
    page.goto(wire.url)
    for number in (1, 2):
        for name in WIRES:
            wire.wait(name, number, 20)
    assert stored(page) == []
    assert page.eval("told") == [["connecting", None], ["reconnecting", None]]
    wire.wires["websocket"] = "open"
    wire.wait("websocket", 3, 30)
    page.wait_for_status("live")
    assert (page.eval("afterload.wire"), stored(page)) == ("websocket", [])


def test_a_server_that_is_busy_is_given_more_time_by_and_by(wire: Wire, page: Page) -> None:
    """Stands for ten thousand pages that come back together: asked by all over every wire it would never get up."""
    wire.html = served(STILL)
    wire.wires = dict.fromkeys(WIRES, "held")
    page.goto(wire.url)
    for number, seconds in enumerate((5, 10, 20), 1):
        wire.wait("websocket", number)
        assert given(page) == seconds
        wire.wait("stream", number)
        assert given(page) == seconds
        wire.wait("poll", number)
        let_pass(page, seconds + 1)  # now it begins anew


def test_a_server_that_is_down_is_no_fault_of_the_websocket(wire: Wire, page: Page) -> None:
    """Stands for a deploy: the proxy in front answers for a server that is away."""
    wire.only("websocket", "stream")
    page.goto(wire.url)
    page.wait_for_status("live")
    wire.answers = {"websocket": [(502, HTML, "")] * 3, "stream": [(502, HTML, "")] * 3}
    wire.cut()
    wire.wait("stream", 3)
    page.wait_for_status("live", 20)
    assert (page.eval("afterload.wire"), stored(page)) == ("websocket", [])
    assert [status for status, _ in page.eval("told")] == ["connecting", "live", "reconnecting", "live"]


def test_a_wire_that_has_worked_is_not_forgotten_for_one_failure(wire: Wire, page: Page) -> None:
    wire.only("websocket", "stream")
    page.goto(wire.url)
    page.wait_for_status("live")
    wire.answers["websocket"] = [(400, {}, "")]
    wire.cut()
    wire.stream()
    page.wait_for_status("live")
    assert (page.eval("afterload.wire"), stored(page)) == ("stream", [])
    wire.cut()
    wire.wait("websocket", 3)
    page.wait_for_status("live")
    assert page.eval("afterload.wire") == "websocket"


def test_a_page_does_not_go_on_by_the_next_best_for_good(wire: Wire, page: Page) -> None:
    """Stands for a server that was slow once: its pages would poll for ever, and that is a load of its own."""
    wire.only("websocket", "stream")
    wire.html = served(
        "const every = setInterval; window.setInterval = (f, ms) => every(f, ms === 1e6 ? 500 : ms);"
    )
    page.goto(wire.url)
    page.wait_for_status("live")
    wire.answers["websocket"] = [(400, {}, "")]
    wire.cut()
    wire.stream()
    wire.line("websocket", 3)
    page.wait_for("afterload.status === 'live' && afterload.wire === 'websocket'")
    time.sleep(1.2)  # there is none better
    assert (len(wire.requests("websocket")), len(wire.requests("stream"))) == (3, 1)


def test_where_storage_is_forbidden_the_page_itself_remembers(
    wire: Wire, page: Page, console: Console
) -> None:
    wire.html = served(
        "Object.defineProperty(window, 'localStorage', {get() { throw new DOMException('no', 'SecurityError') }});"
    )
    page.goto(wire.url)
    page.wait_for_status("live")
    wire.stream().cut()
    wire.stream(2)
    page.wait_for_status("live")
    assert len(wire.requests("websocket")) == 1
    assert console.errors() == []


def test_the_memory_is_of_a_wire_that_another_one_has_replaced(wire: Wire, page: Page) -> None:
    wire.only("poll")
    wire.answers["stream"] = [(403, HTML, "no")]
    page.goto(wire.url)
    page.wait_for_status("denied")
    assert stored(page) == []


# First paint


PAINTED = {"position": 'start" data-painted=\'["orders"]\' data-x="'}


@pytest.fixture
def painted(wire: Wire, kind: str, page: Page) -> Page:
    """A page that shows the state of `orders` already, and not that of `a`."""
    wire.html = served(remembering(*BEFORE[kind]), **PAINTED)
    wire.greeting = lambda asked: hello("orders", "a", id=asked.position or "0")
    page.goto(wire.url)
    page.wait_for_status("live")
    wire.line(kind).send(
        block(
            "patch", [["orders", 1, [["text", "#count", "5"]]], ["a", 1, [["text", "#inner", "i"]]]], id="p.1"
        )
    )
    page.wait_for("inner.textContent === 'i'")
    wire.html = served(body=BODY.replace(">0<", ">7<"), position=PAINTED["position"].replace("start", "new"))
    return page


@pytest.mark.parametrize("how", ["reset", "snapshot"])
def test_a_state_that_is_void_is_got_anew_where_the_page_was_served_with_it(
    wire: Wire, kind: str, painted: Page, how: str
) -> None:
    painted.run("window.shown = []; new MutationObserver(() => shown.push(count.textContent))"
                ".observe(count, {childList: true, characterData: true, subtree: true})")  # fmt: skip
    wire.line(kind).send(
        reset("orders")
        if how == "reset"
        else block("snapshot", [["orders", 9, [["text", "#count", "9"]]]], id="p.9")
    )
    assert wire.line(kind, 2).position == "new"  # and not p.9: that was not applied
    painted.wait_for_status("live")
    assert painted.eval("[count.textContent, inner.textContent, shown]") == ["7", "inner", ["7"]]
    assert len(wire.requests("html")) == 2
    # What was fetched is painted too.
    wire.html = served(body=BODY.replace(">0<", ">8<"), position="newer")
    wire.line(kind, 2).send(reset("orders"))
    painted.wait_for_text("#count", "8")
    assert wire.line(kind, 3).position == "newer"
    painted.wait_for_status("live")
    # And what was fetched then is not.
    wire.line(kind, 3).send(
        block("snapshot", [["orders", 20, [["text", "#count", "20"]]]], id="p.20"),
        patch(marker("1"), channel="b"),
    )
    wait_marker(painted, "1")
    assert painted.eval("[count.textContent, afterload.position]") == ["20", "p.20"]
    assert len(wire.requests("html")) == 3


def test_what_the_page_was_not_served_with_is_put_back_as_ever(wire: Wire, kind: str, painted: Page) -> None:
    wire.line(kind).send(reset("a"), patch(marker("1"), channel="b"))
    wait_marker(painted, "1")
    assert painted.eval("[count.textContent, inner.textContent]") == ["5", "inner"]
    wire.line(kind).send(block("snapshot", [["a", 9, [["text", "#inner", "9"]]]], id="p.9"))
    painted.wait_for_text("#inner", "9")
    assert painted.eval("[count.textContent, afterload.position]") == ["5", "p.9"]
    assert (len(wire.requests("html")), len(wire.lines(kind))) == (1, 1)


# Against the real server


@pytest.fixture(scope="module")
def shared_server(module_servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Server:
    store = tmp_path_factory.mktemp("store") / "rows"
    return module_servers.gunicorn("tests.browser.app:app", env={"STORE": str(store)})


@pytest.fixture
def server(shared_server: Server) -> Server:
    shared_server.restart(kill=True)
    return shared_server


@pytest.fixture(params=WIRES)
def by(request: pytest.FixtureRequest, server: Server, page: Page) -> str:
    """A page that will follow by this wire, as the others do not work here."""
    name: str = request.param
    page.goto(server.url + "/other")
    page.run("localStorage.clear();" + remembering(*BEFORE[name]))
    return name


@pytest.mark.server
def test_it_follows_what_is_published_and_is_back_after_the_server_was_killed(
    server: Server, by: str, page: Page
) -> None:
    page.goto(server.url + "/page")
    page.wait_for_status("live")
    page.run(EAGER)
    for number in range(20):
        publish(server, ["append", "#rows", f"<li>{number}</li>"])
    page.wait_for("rows.children.length === 20")
    assert page.eval("afterload.wire") == by
    assert page.eval("[...rows.children].map(e => +e.textContent)") == list(range(20))
    server.kill()
    page.wait_for_status("reconnecting")
    server.start()
    page.wait_for_status("live", 20)
    page.wait_for("rows.children.length === 0")  # its own HTML, as the server has lost its memory
    publish(server, ["text", "#count", "after"])
    page.wait_for_text("#count", "after")


@pytest.mark.server
def test_a_loop_of_its_own_runs_and_is_ended_with_the_page(server: Server, by: str, page: Page) -> None:
    page.goto(server.url + "/private")
    page.wait_for("+count.textContent > 20")
    assert (stats(server)["loops"], page.eval("afterload.wire")) == (1, by)
    page.run("afterload.close()")
    wait_until(lambda: stats(server)["loops"] == 0, 10, "the loop to end at once (linger is 30 s)")


@pytest.mark.server
def test_an_end_is_the_end(server: Server, by: str, page: Page) -> None:
    page.goto(server.url + "/result")
    page.wait_for_status("ended")
    assert (page.text("#count"), page.eval("afterload.wire")) == ("finished", by)
    wait_until(lambda: stats(server)["viewers"] == 0, 5, "no viewer")
    page.run("window.told = 0; document.addEventListener('live:status', () => told++); afterload.open()")
    page.wait_for("told && afterload.status === 'ended'")
    assert page.text("#count") == "finished"


@pytest.mark.server
def test_a_login_that_has_expired_is_denied(server: Server, by: str, page: Page) -> None:
    page.goto(server.url + "/page")
    page.wait_for_status("live")
    assert page.eval("afterload.wire") == by
    post(server, "/logout")
    page.run("window.dispatchEvent(new Event('online'))")
    page.wait_for_status("denied")


@pytest.mark.server
def test_behind_a_proxy_that_buffers_everything_a_page_is_live_by_the_poll(
    server: Server, page: Page
) -> None:
    with FaultProxy(server.port, Fault(hold=True)) as proxy:
        page.goto(proxy.url + "/page")
        page.wait_for_status("live", 60)
        assert (page.eval("afterload.wire"), stored(page)) == ("poll", ["stream", "websocket"])
        for number in range(5):
            publish(server, ["append", "#rows", f"<li>{number}</li>"])
            page.wait_for(f"rows.children.length === {number + 1}")
        connections = proxy.connections
        page.reload()
        page.wait_for_status("live", 30)
        assert page.eval("afterload.wire") == "poll"
        assert proxy.connections > connections
        publish(server, ["text", "#count", "to the next page too"])
        page.wait_for_text("#count", "to the next page too")


@pytest.mark.server
def test_ten_tabs_are_all_live_and_the_tenth_is_there_at_once(
    server: Server, open_page: Callable[[], Page]
) -> None:
    """Stands for a reader with many windows: with six connections for all of them the seventh would hang."""
    pages = [open_page() for _ in range(10)]
    pages[0].goto(server.url + "/other")
    pages[0].run("localStorage.clear()")  # of another test
    for page in pages:
        page.goto(server.url + "/page")
        page.wait_for_status("live")
        page.run(EAGER)
    loaded = pages[-1].wait_for("performance.getEntriesByType('navigation')[0].loadEventEnd")
    print(f"{pages[-1].browser.name}: the tenth tab was loaded after {loaded:.0f} ms")
    assert {page.eval("afterload.wire") for page in pages} == {"websocket"}
    assert stats(server)["viewers"] == 10
    publish(server, ["text", "#count", "to all"])
    for page in pages:
        page.wait_for_text("#count", "to all")
    server.kill()
    server.start()
    for page in pages:
        page.wait_for("count.textContent !== 'to all'", 30)
        page.wait_for_status("live", 20)
    publish(server, ["text", "#count", "again"])
    for page in pages:
        page.wait_for_text("#count", "again")
