"""The client against a server that speaks the wire by hand: each rule of docs/wire.md and docs/client.md."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser.driver import Page, ScriptError
from tests.browser.fixtures import Console
from tests.browser.wire import Wire, block, hello
from tests.browser.wire import page as html
from tests.servers.process import wait_until

VECTORS = json.loads((Path(__file__).parents[1] / "vectors/patches.json").read_text("utf-8"))
HTML = {"Content-Type": "text/html; charset=utf-8"}

# What the server's patches begin from, in most tests.
BODY = (
    '<h1 id="head" class="plain" title="served">Head</h1>'
    '<p id="count">0</p>'
    '<div id="box"><input id="typed" value="served"><i id="inner">inner</i></div>'
    '<ul id="rows"><li id="r1">1</li><li id="r2">2</li></ul>'
    '<p class="many">1</p><p class="many">2</p>'
)


@pytest.fixture
def wire() -> Iterator[Wire]:
    with Wire() as server:
        server.html = html(BODY)
        yield server


@pytest.fixture
def live(wire: Wire, page: Page) -> Page:
    """A page that follows channel "a", with a record of its events."""
    page.goto(wire.url)
    page.wait_for_status("live")
    record(page)
    return page


def record(page: Page) -> None:
    page.run(
        "window.seen = []; for (const name of ['status', 'patch', 'missing', 'message', 'end', 'error'])"
        " document.addEventListener('live:' + name, e => seen.push([name, e.detail]))"
    )


def seen(page: Page, name: str) -> list[Any]:
    return [detail for kind, detail in page.eval("JSON.parse(JSON.stringify(seen))") if kind == name]


def patch(*patches: list[Any], seq: int = 1, channel: str = "a", id: str | None = None, **more: Any) -> bytes:
    line = [channel, seq, list(patches), *more.values()]
    return block("patch", [line], id=id)


def marker(text: str) -> list[Any]:
    return ["attr", "#head", text, {"name": "lang"}]


def wait_marker(page: Page, text: str) -> None:
    page.wait_for(f"head.lang === {json.dumps(text)}")


# A clock of the page that stands still, but for what a test lets pass.
STILL = "window.by = Math.ceil(performance.now()); performance.now = () => by;"


def let_pass(page: Page, seconds: float) -> None:
    """Lets that much time pass for a page whose clock stands still, and has it look at its connection."""
    page.run("by += 1e3 * arguments[0]; document.dispatchEvent(new Event('visibilitychange'))", seconds)


# Following


def test_the_first_connect_sends_the_position_the_page_was_served_with(wire: Wire, live: Page) -> None:
    assert wire.stream().position == "start"
    assert live.eval("afterload.position") == "start"
    assert live.eval("afterload.status") == "live"


def test_a_page_without_a_position_says_so(wire: Wire, page: Page) -> None:
    wire.html = html(BODY, position="")
    page.goto(wire.url)
    page.wait_for_status("live")
    assert wire.stream().position == "0"


def test_the_position_moves_when_a_block_was_applied_and_not_before(wire: Wire, live: Page) -> None:
    live.run("document.addEventListener('live:patch', () => window.during = afterload.position)")
    stream = wire.stream()
    stream.send(patch(["text", "#count", "1"], id="p.1"))
    live.wait_for_text("#count", "1")
    assert live.eval("[during, afterload.position]") == ["start", "p.1"]
    stream.send(b'event: patch\nid: p.2\ndata: ["a",2,[["text","#count","2"]]]\n')  # no blank line
    stream.cut()
    assert wire.stream(2).position == "p.1"
    assert live.text("#count") == "1"


def test_a_block_without_an_id_keeps_the_position(wire: Wire, live: Page) -> None:
    wire.stream().send(patch(["text", "#count", "1"], id="p.1"), patch(["text", "#count", "2"], seq=2))
    live.wait_for_text("#count", "2")
    assert live.eval("afterload.position") == "p.1"


def test_bytes_may_come_one_by_one(wire: Wire, live: Page) -> None:
    for byte in patch(["text", "#count", "é€🙂"], id="p.1"):
        wire.stream().send(bytes([byte]))
    live.wait_for_text("#count", "é€🙂")


def test_all_lines_of_a_block_are_applied_together(wire: Wire, live: Page) -> None:
    live.run(
        "window.tasks = []; new MutationObserver(r => tasks.push(r.map(e => e.target.id)))"
        ".observe(document.body, {subtree: true, childList: true})"
    )
    lines = [["a", 1, [["text", "#count", "1"], ["text", "#head", "H"]]], ["b", 4, [["text", "#inner", "I"]]]]
    wire.stream().send(block("patch", lines, id="p.1"))
    live.wait_for("tasks.length")
    assert live.eval("tasks.map(ids => [...new Set(ids)])") == [["count", "head", "inner"]]


def test_nothing_is_applied_before_the_document_is_there(wire: Wire, page: Page) -> None:
    # The script stands in front of a script that takes its time, and that in front of the target.
    slow = wire.origin + "/slow"
    wire.html = html("", position=None).replace(
        "<body>",
        '<body><script src="/afterload.js" data-position="start"></script>'
        "<script>window.before = []; new MutationObserver(r => before.push(document.readyState))"
        ".observe(document, {subtree: true, childList: true, characterData: true})</script>"
        f"<script>const x = new XMLHttpRequest(); x.open('GET', '{slow}', false); x.send()</script>"
        '<p id="count">0</p>',
    )
    wire.greeting = lambda asked: hello() + patch(["text", "#count", "1"], id="p.1")
    page.goto(wire.url)
    page.wait_for_text("#count", "1")
    page.wait_for_status("live")


def test_a_second_script_element_changes_nothing(wire: Wire, page: Page) -> None:
    wire.html = html(BODY + '<script src="/afterload.js" data-position="start"></script>')
    page.goto(wire.url)
    page.wait_for_status("live")
    wire.stream().send(patch(["append", "#rows", "<li>3</li>"]))
    page.wait_for("rows.children.length === 3")
    assert len(wire.requests("stream")) == 1


def test_a_second_script_element_is_silent_where_a_policy_may_be_made_once(
    wire: Wire, page: Page, console: Console
) -> None:
    wire.headers = {"Content-Security-Policy": "require-trusted-types-for 'script'; trusted-types afterload"}
    wire.html = html(BODY + '<script src="/afterload.js" data-position="start"></script>')
    page.goto(wire.url)
    page.wait_for_status("live")
    page.wait_for("document.readyState === 'complete'")
    assert console.refused() == []


def test_nothing_but_afterload_is_put_into_the_page(wire: Wire, page: Page) -> None:
    wire.html = html(BODY).replace("<meta", "<script>window.before = Object.keys(window)</script><meta")
    page.goto(wire.url)
    page.wait_for_status("live")
    added = page.eval("Object.keys(window).filter(name => !before.includes(name))")
    assert sorted(set(added) - {"before", "ret_nodes"}) == ["afterload"]  # the driver's own


def test_blocks_of_an_unknown_type_are_passed_over_whatever_their_data(wire: Wire, live: Page) -> None:
    wire.stream().send(
        b"event: novel\nid: p.1\ndata: {}\ndata: {}\n\n",
        b"event: constructor\nid: p.2\ndata: no JSON\n\n",
        patch(marker("after")),
    )
    wait_marker(live, "after")
    assert live.eval("afterload.position") == "p.2"
    assert len(wire.requests("stream")) == 1


def test_a_plain_string_is_an_event_and_the_text_of_into(wire: Wire, page: Page) -> None:
    wire.greeting = lambda asked: hello("~", into="#count")
    page.goto(wire.url)
    page.wait_for_status("live")
    record(page)
    wire.stream().send(b"id: k.1\ndata: one\ndata: <b>\n\n")
    page.wait_for_text("#count", "<b>")
    assert page.text("#count") == "one\n<b>"
    assert seen(page, "message") == [{"data": "one\n<b>"}]
    assert page.eval("afterload.position") == "k.1"


def test_without_into_a_plain_string_is_only_an_event(wire: Wire, live: Page) -> None:
    wire.stream().send(b"data: one\n\n")
    wait_until(lambda: seen(live, "message") == [{"data": "one"}], 5, "the event")
    assert seen(live, "patch") == []


# Patches


def test_the_vectors(wire: Wire, page: Page) -> None:
    """What the document model of the Python tests is held to, through the wire, in a real document."""
    assert len(VECTORS) > 50
    wire.html = html('<main id="stage"></main>', position="start")
    page.goto(wire.url)
    page.wait_for_status("live")
    page.run(
        "window.done = 0; document.addEventListener('done', e => done = e.detail);"
        "window.shape = node => { const all = document.createElement('div'); all.innerHTML = node.innerHTML;"
        " for (const e of all.querySelectorAll('*')) {"
        "  e.className = [...e.classList].sort().join(' '); if (!e.className) e.removeAttribute('class');"
        "  const names = [...e.attributes].map(a => [a.name, a.value]).sort();"
        "  for (const [n] of names) e.removeAttribute(n); for (const [n, v] of names) e.setAttribute(n, v); }"
        " return all.innerHTML }"
    )
    for number, vector in enumerate(VECTORS, 1):
        page.run(
            "document.title = 'served'; stage.innerHTML = arguments[0];"
            "window.expected = document.createElement('div'); expected.innerHTML = arguments[1]",
            vector["before"],
            vector["after"],
        )
        done = ["dispatch", "", number, {"name": "done"}]
        wire.stream().send(patch(*vector["steps"], done, seq=number))
        page.wait_for(f"done === {number}")
        found, expected = page.eval("[shape(stage), shape(expected)]")
        assert found == expected, vector["name"]
        assert page.eval("document.title") == vector.get("title", "served"), vector["name"]
        for target, value in vector.get("values", {}).items():
            assert page.eval(f"document.querySelector({json.dumps(target)}).value") == value, vector["name"]


def test_a_patch_that_fails_is_reported_and_stops_nothing(wire: Wire, live: Page, console: Console) -> None:
    wire.stream().send(
        patch(
            ["no_such_action", "#count", "x"],
            ["text", "p..q", "x", {"select": "all"}],
            ["class", "#head", True, {"name": "two words"}],
            ["attr", "#head", "x", {"name": "a b"}],
            ["text", "", "x"],
            ["constructor", "#head", "x"],
            ["text", "#count", "after"],
            id="p.1",
        )
    )
    live.wait_for_text("#count", "after")
    reported = [detail["action"] for detail in seen(live, "error")]
    assert reported == ["no_such_action", "text", "class", "attr", "text", "constructor"]
    assert sum("afterload:" in entry.text for entry in console.read()) == len(reported)
    assert live.eval("[afterload.position, afterload.status]") == ["p.1", "live"]
    assert len(wire.requests("stream")) == 1


@pytest.mark.parametrize(
    "bad",
    [
        ["attr", "#head", "ran = 1", {"name": "onclick"}],
        ["attr", "#head", "<b>", {"name": "srcdoc"}],
        ["attr", "#head", "java\nscript:ran=1", {"name": "href"}],
        ["attr", "#head", "data:text/html,x", {"name": "src"}],
        ["navigate", "", "javascript:ran=1"],
        ["navigate", "", " JAVASCRIPT:ran=1"],
    ],
    ids=str,
)
def test_what_would_run_script_is_refused_here_too(wire: Wire, live: Page, bad: list[Any]) -> None:
    wire.stream().send(patch(bad, marker("after")))
    wait_marker(live, "after")
    assert [detail["action"] for detail in seen(live, "error")] == [bad[0]]
    assert live.eval("head.getAttributeNames().sort()") == ["class", "id", "lang", "title"]
    assert live.eval("typeof ran") == "undefined"


def test_navigate_and_reload_go(wire: Wire, live: Page) -> None:
    wire.stream().send(patch(["navigate", "", "/elsewhere?x=1"]))
    live.wait_for("location.search === '?x=1'")
    live.back()
    live.wait_for_status("live")
    live.run("window.here = 1")
    wire.requests("stream")[-1].send(patch(["reload", "", None]))
    live.wait_for("typeof here === 'undefined' && document.documentElement.dataset.live === 'live'")


def test_dispatch_fires_on_its_target_and_bubbles(wire: Wire, live: Page) -> None:
    live.run(
        "window.got = []; document.addEventListener('ding', e => got.push([e.target.nodeName, e.detail]))"
    )
    wire.stream().send(
        patch(["dispatch", "#inner", {"n": 1}, {"name": "ding"}], ["dispatch", "", None, {"name": "ding"}])
    )
    live.wait_for("got.length === 2")
    assert live.eval("got") == [["I", {"n": 1}], ["#document", None]]


def test_an_application_may_add_actions(wire: Wire, live: Page) -> None:
    live.run("afterload.actions.shout = (e, text, { mark }) => { e.textContent = text.toUpperCase() + mark }")
    wire.stream().send(patch(["shout", "#count", "hey", {"mark": "!"}]))
    live.wait_for_text("#count", "HEY!")


def test_a_missing_target_is_an_event_and_one_warning_but_not_in_a_state(
    wire: Wire, live: Page, console: Console
) -> None:
    for seq in (1, 2):
        wire.stream().send(patch(["text", "#gone", "x"], ["text", "#other", "x"], seq=seq))
    wire.stream().send(block("snapshot", [["a", 3, [["text", "#third", "x"]]]]))
    wire.stream().send(patch(["text", "#fourth", "x"], seq=4, since=0))
    wire.stream().send(patch(marker("after"), seq=5))
    wait_marker(live, "after")
    assert [detail["target"] for detail in seen(live, "missing")] == ["#gone", "#other"] * 2
    warnings = [entry.text for entry in console.read() if entry.level == "WARNING"]
    assert [text.split("no ")[-1].strip('"') for text in warnings] == ["#gone", "#other"]


# Order


def test_a_gap_is_not_applied_but_asked_for(wire: Wire, live: Page) -> None:
    lines = [["b", 9, [["text", "#count", "never"]]], ["a", 7, [["text", "#head", "never"]]]]
    wire.stream().send(patch(["text", "#count", "1"], seq=5, id="p.5"), block("patch", lines, id="p.7"))
    assert wire.stream(2).position == "p.5"
    assert live.eval("[count.textContent, head.textContent]") == ["1", "Head"]
    wire.stream(2).send(patch(["text", "#count", "6"], seq=7, since=5, id="p.7"))
    live.wait_for_text("#count", "6")


def test_merged_blocks_and_a_restarted_count_are_no_gap(wire: Wire, live: Page) -> None:
    stream = wire.stream()
    stream.send(patch(["text", "#count", "a"], seq=5, id="p.5"))  # of a channel not yet known
    stream.send(patch(["text", "#count", "b"], seq=90, since=5, id="p.90"))
    stream.send(patch(["text", "#count", "c"], seq=200, since=0, id="p.200"))
    stream.send(patch(["text", "#count", "d"], seq=201, since=150, id="p.201"))
    stream.send(block("reset", {"channel": "a"}))
    stream.send(patch(["text", "#count", "e"], seq=900, id="p.900"))
    live.wait_for_text("#count", "e")
    assert len(wire.requests("stream")) == 1


def test_channels_with_names_of_objects_are_channels(wire: Wire, live: Page) -> None:
    for channel in ("__proto__", "constructor", "toString"):
        wire.stream().send(patch(["text", "#count", channel], seq=3, channel=channel))
        live.wait_for_text("#count", channel)
        wire.stream().send(patch(["text", "#head", channel], seq=4, channel=channel))
        live.wait_for_text("#head", channel)
        wire.stream().send(block("reset", {"channel": channel}))
        live.wait_for("count.textContent === '0'")
    assert len(wire.requests("stream")) == 1
    wire.stream().send(patch(["text", "#count", "x"], seq=3, channel="__proto__"))
    wire.stream().send(patch(["text", "#count", "y"], seq=5, channel="__proto__"))
    wire.stream(2)


# Coming back


@pytest.mark.parametrize("status", [500, 502, 503, 504, 408, 425, 429])
def test_an_error_that_passes_is_asked_again(wire: Wire, live: Page, status: int) -> None:
    wire.answers["stream"] = [(status, HTML, "x")]
    wire.stream().cut()
    wire.stream(3)
    live.wait_for_status("live")
    assert [detail["status"] for detail in seen(live, "status")] == ["reconnecting", "live"]


def test_a_block_that_was_mangled_is_asked_for_again(wire: Wire, live: Page) -> None:
    wire.stream().send(patch(["text", "#count", "1"], id="p.1"), b"event: patch\nid: p.2\ndata: [oops\n\n")
    assert wire.stream(2).position == "p.1"


def test_bye_is_waited_for(wire: Wire, live: Page) -> None:
    stream = wire.stream()
    told = time.monotonic()
    stream.send(block("bye", {"retry": 900}, retry=900))
    stream.cut()
    assert wire.stream(2).at - told > 0.85


def test_bye_is_enough_for_the_page_to_let_go(wire: Wire, live: Page) -> None:
    """Stands for a server that hangs as it goes away, or a proxy that holds the line open behind it."""
    wire.stream().send(patch(["text", "#count", "1"], id="p.1"), block("bye", {"retry": 500}, retry=500))
    assert wire.stream(2).position == "p.1"


def test_the_wait_is_random_from_nothing_to_the_servers_retry_and_doubles(wire: Wire, live: Page) -> None:
    live.run(
        "Math.random = () => 0.9; window.waits = []; const set = setTimeout;"
        "window.setTimeout = (f, ms) => set(f, ms % 5000 ? (waits.push(Math.round(ms)), 10) : ms)"
    )  # the others are how long a wire is given
    wire.greeting = lambda asked: hello(retry=700)
    wire.answers["stream"] = [(503, HTML, "")] * 7
    wire.stream().cut()
    wire.stream(9)
    live.wait_for_status("live")
    assert live.eval("waits") == [450, 900, 1800, 3600, 7200, 14400, 27000, 27000]
    wire.stream(9).cut()
    wire.stream(10)
    assert live.eval("waits.slice(8)") == [630]


def test_silence_for_two_and_a_half_heartbeats_is_a_dead_line(wire: Wire, live: Page) -> None:
    live.run(STILL)
    wire.greeting = lambda asked: hello(heartbeat=2)
    wire.stream().cut()
    stream = wire.stream(2)
    live.wait_for_status("live")
    let_pass(live, 4.9)  # and all is well
    stream.send(block("ping", {}, id="p.9"))
    live.wait_for("afterload.position === 'p.9'")
    let_pass(live, 4.9)
    let_pass(live, 0.2)
    assert wire.stream(3).position == "p.9"
    live.wait_for_status("live")
    assert len(wire.requests("stream")) == 3
    live.run("by += 5100")
    wire.stream(4)  # and without anybody looking


def test_online_connects_at_once(wire: Wire, live: Page) -> None:
    live.run("Math.random = () => 1")
    wire.greeting = lambda asked: hello(retry=60_000)
    wire.stream().cut()
    wire.stream(2)
    live.wait_for_status("live")
    live.run("window.dispatchEvent(new Event('online'))")  # another network: the old line is no more
    stream = wire.stream(3)
    live.wait_for_status("live")
    stream.cut()
    live.wait_for_status("reconnecting")
    live.run("window.dispatchEvent(new Event('online'))")
    wire.stream(4)


# Being over


DENIED: list[tuple[str, tuple[int, dict[str, str], str]]] = [
    ("unauthorized", (401, HTML, "who?")),
    ("forbidden", (403, HTML, "no")),
    ("not found", (404, HTML, "no")),
    ("a page instead", (200, HTML, "log in")),
    ("no type", (200, {}, "x")),
    ("a redirect", (302, {"Location": "/login"}, "")),
    ("a stream of the wrong status", (400, {"Content-Type": "text/event-stream"}, "")),
]


@pytest.mark.parametrize("answer", [a for _, a in DENIED], ids=[n for n, _ in DENIED])
def test_denied_is_the_end(wire: Wire, live: Page, answer: tuple[int, dict[str, str], str]) -> None:
    wire.answers["stream"] = [answer]
    wire.stream().cut()
    live.wait_for_status("denied")
    stays_away(wire, live)


def stays_away(wire: Wire, page: Page) -> None:
    """Nothing but open() makes the page ask again."""
    number = len(wire.requests("stream"))
    status = page.eval("afterload.status")
    page.run(
        "window.dispatchEvent(new Event('online')); document.dispatchEvent(new Event('visibilitychange'));"
        "window.dispatchEvent(new PageTransitionEvent('pageshow', {persisted: true}))"
    )
    time.sleep(0.7)  # more than the longest wait after a first failure
    assert len(wire.requests("stream")) == number
    assert page.eval("[afterload.status, document.documentElement.dataset.live]") == [status] * 2


def test_204_is_the_end(wire: Wire, live: Page) -> None:
    wire.answers["stream"] = [(204, {}, "")]
    wire.stream().cut()
    live.wait_for_status("ended")
    stays_away(wire, live)


def test_it_ends_with_the_last_channel(wire: Wire, page: Page) -> None:
    wire.greeting = lambda asked: hello("a", "b")
    page.goto(wire.url)
    page.wait_for_status("live")
    record(page)
    stream = wire.stream()
    stream.send(block("end", {"channel": "a", "status": "done", "message": ""}, id="p.1"))
    stream.send(patch(["text", "#count", "1"], channel="b", id="p.2"))
    page.wait_for_text("#count", "1")
    assert page.eval("afterload.status") == "live"
    stream.send(block("end", {"channel": "b", "status": "cancelled", "message": "stopped"}, id="p.3"))
    page.wait_for_status("ended")
    assert [(d["channel"], d["status"]) for d in seen(page, "end")] == [("a", "done"), ("b", "cancelled")]
    assert page.eval("afterload.position") == "p.3"
    stays_away(wire, page)
    wire.answers["stream"] = [(204, {}, "")]
    page.run("afterload.open()")
    assert wire.stream(2).position == "p.3"
    page.wait_for_status("ended")


def test_failed_is_shown_with_its_message_whichever_channel_ended_last(wire: Wire, page: Page) -> None:
    wire.greeting = lambda asked: hello("a", "b")
    page.goto(wire.url)
    page.wait_for_status("live")
    record(page)
    wire.stream().send(
        block("end", {"channel": "a", "status": "failed", "message": "It broke."}),
        block("end", {"channel": "b", "status": "done", "message": ""}),
    )
    page.wait_for_status("failed")
    (status,) = seen(page, "status")
    assert (status["status"], status["channel"], status["message"]) == ("failed", "a", "It broke.")
    stays_away(wire, page)


def test_failed_is_remembered_over_a_cut(wire: Wire, page: Page) -> None:
    wire.greeting = lambda asked: hello("a", "b")
    page.goto(wire.url)
    page.wait_for_status("live")
    wire.stream().send(block("end", {"channel": "a", "status": "failed", "message": "It broke."}, id="p.1"))
    wire.answers["stream"] = [(204, {}, "")]
    page.wait_for("afterload.position === 'p.1'")
    wire.stream().cut()
    page.wait_for_status("failed")


def test_a_failed_loop_that_began_anew_and_was_done_is_ended(wire: Wire, page: Page) -> None:
    wire.greeting = lambda asked: hello("a", "b")
    page.goto(wire.url)
    page.wait_for_status("live")
    wire.stream().send(
        block("end", {"channel": "a", "status": "failed", "message": "It broke."}),
        block("reset", {"channel": "a"}),
        patch(["text", "#count", "again"]),
        block("end", {"channel": "a", "status": "done", "message": ""}),
        block("end", {"channel": "b", "status": "done", "message": ""}),
    )
    page.wait_for_status("ended")


def test_a_state_that_comes_behind_the_end_that_failed_changes_nothing_of_that(
    wire: Wire, page: Page
) -> None:
    """Stands for a page that comes late: it is told of the ends, and then given the states."""
    wire.greeting = lambda asked: hello("a", "b")
    page.goto(wire.url)
    page.wait_for_status("live")
    wire.stream().send(
        block("end", {"channel": "a", "status": "failed", "message": "It broke."}),
        block("snapshot", [["a", 4, [["text", "#count", "4"]]], ["b", 2, []]], id="p.4"),
        patch(["text", "#count", "5"], seq=5),
        block("end", {"channel": "b", "status": "done", "message": ""}),
    )
    page.wait_for_status("failed")
    assert page.text("#count") == "5"


def test_close_ends_at_once_and_open_begins_again(wire: Wire, page: Page) -> None:
    wire.greeting = lambda asked: hello("~", id="key.0")
    page.goto(wire.url)
    page.wait_for_status("live")
    wire.stream().send(patch(["text", "#count", "1"], channel="~", id="key.1"))
    page.wait_for_text("#count", "1")
    page.run("afterload.close()")
    assert page.eval("afterload.status") == "ended"
    assert wire.wait("close", 1).position == "key.1"
    stays_away(wire, page)
    page.run("afterload.close(); afterload.close()")
    page.run("afterload.open(); afterload.open()")
    page.wait_for_status("live")
    assert wire.stream(2).position == "key.1"
    assert (len(wire.requests("close")), len(wire.requests("stream"))) == (1, 2)


@pytest.mark.parametrize(
    "again",
    ["window.dispatchEvent(new Event('online'))", "new Promise(() => {})"],
    ids=["at once", "after a cut"],
)
def test_a_page_that_closes_when_it_is_told_that_it_reconnects_is_closed(
    wire: Wire, live: Page, again: str
) -> None:
    live.run(
        "document.addEventListener('live:status', e => e.detail.status === 'reconnecting' && afterload.close())"
    )
    live.run(again)
    if "online" not in again:
        wire.stream().cut()
    live.wait_for_status("ended")
    stays_away(wire, live)
    assert len(wire.requests("stream")) == 1


def test_leaving_says_so_for_a_loop_of_its_own(wire: Wire, page: Page) -> None:
    wire.greeting = lambda asked: hello("~", id="key.0")
    page.goto(wire.url)
    page.wait_for_status("live")
    page.run("dispatchEvent(new PageTransitionEvent('pagehide', {persisted: true}))")
    page.run("dispatchEvent(new PageTransitionEvent('pageshow', {persisted: true}))")
    assert wire.stream(2).position == "key.0"
    page.wait_for_status("live")
    assert wire.requests("close") == []
    page.run("dispatchEvent(new PageTransitionEvent('pagehide', {persisted: false}))")
    assert wire.wait("close", 1).position == "key.0"


def test_leaving_says_nothing_where_others_follow_too(wire: Wire, live: Page) -> None:
    live.goto(wire.origin + "/elsewhere")
    live.wait_for("document.body.textContent.includes('elsewhere')")
    assert wire.requests("close") == []


# Hidden


HIDE = (
    "Object.defineProperty(document, 'hidden', {value: arguments[0], configurable: true});"
    "document.dispatchEvent(new Event('visibilitychange'))"
)
SOON = "const set = setTimeout; window.setTimeout = (f, ms) => set(f, ms === 1e4 ? 100 : ms)"
# Or when the test says so: `due()`.
DUE = "const set = setTimeout; window.setTimeout = (f, ms) => ms === 1e4 ? (window.due = f, 1) : set(f, ms);"


def test_a_hidden_page_lets_go_and_is_back_when_it_is_seen(wire: Wire, live: Page) -> None:
    wire.stream().send(patch(["text", "#count", "1"], id="p.1"))
    live.wait_for_text("#count", "1")
    live.run(SOON)
    glance = HIDE + ";" + HIDE.replace("arguments[0]", "arguments[1]")
    live.run(glance, True, False)
    time.sleep(0.3)
    assert live.eval("afterload.status") == "live"
    live.run(HIDE, True)
    live.wait_for_status("reconnecting")
    live.run("window.dispatchEvent(new Event('online'))")
    time.sleep(0.7)
    assert len(wire.requests("stream")) == 1
    live.run(HIDE, False)
    assert wire.stream(2).position == "p.1"
    live.wait_for_status("live")


def test_a_hidden_page_does_not_come_back_by_a_timer(wire: Wire, live: Page) -> None:
    live.run(SOON + "; Math.random = () => 1")
    live.run(HIDE, True)
    wire.stream().cut()
    live.wait_for_status("reconnecting")
    time.sleep(0.8)
    assert len(wire.requests("stream")) == 1


def test_a_hidden_page_with_a_loop_of_its_own_stays(wire: Wire, page: Page) -> None:
    wire.greeting = lambda asked: hello("~", id="key.0")
    page.goto(wire.url)
    page.wait_for_status("live")
    page.run(SOON)
    page.run(HIDE, True)
    time.sleep(0.3)
    assert page.eval("afterload.status") == "live"


def test_a_page_opened_in_the_background_lets_go_too(wire: Wire, page: Page) -> None:
    hidden = "Object.defineProperty(document, 'hidden', {value: true, configurable: true})"
    watch = "window.told = []; document.addEventListener('live:status', e => told.push(e.detail.status))"
    wire.html = html(BODY, head=f"<script>{DUE} {hidden}; {watch}</script>")
    page.goto(wire.url)
    page.wait_for("told.length === 2")
    page.run("due()")
    assert page.eval("told") == ["connecting", "live", "reconnecting"]


def test_over_stays_over_in_the_background(wire: Wire, live: Page) -> None:
    live.run(SOON + "; afterload.close()")
    live.run(HIDE, True)
    time.sleep(0.3)
    assert live.eval("afterload.status") == "ended"


# Putting back


def reset(channel: str = "a") -> bytes:
    return block("reset", {"channel": channel})


PRISTINE: list[list[Any]] = [
    ["text", "#count", "x"],
    ["html", "#box", "<b>x</b>"],
    ["append", "#rows", "<li>x</li>"],
    ["prepend", "#rows", "<li>x</li>"],
    ["append", "#rows", "<li>x</li>", {"keep": 1}],
    ["append_text", "#count", "x"],
    ["attr", "#head", "x", {"name": "title"}],
    ["attr", "#head", "x", {"name": "lang"}],
    ["attr", "#head", None, {"name": "title"}],
    ["class", "#head", True, {"name": "x"}],
    ["class", "#head", False, {"name": "plain"}],
    ["replace", "#r1", "<li>x</li>"],
    ["replace", "#r1", '<li id="r1">x</li><li>y</li>'],
    ["remove", "#r1", None],
    ["remove", "#head", None],
    ["remove", "#rows", None],
    ["before", "#r1", "<li>x</li>"],
    ["after", "#r1", "<li>x</li>"],
    ["after", "#head", '<p id="new">x</p>'],
    ["text", ".many", "x", {"select": "all"}],
    ["class", ".many", True, {"name": "x", "select": "all"}],
    ["remove", "li", None, {"select": "all"}],
    ["title", "", "x"],
]


@pytest.mark.parametrize("change", PRISTINE, ids=str)
@pytest.mark.parametrize("how", ["reset", "snapshot"])
def test_what_a_channel_touched_is_put_back(wire: Wire, live: Page, change: list[Any], how: str) -> None:
    body = "document.title + document.body.innerHTML.replaceAll(' class=\"\"', '')"
    served = live.eval(body)
    live.run("window.changed = ''; document.addEventListener('live:patch', () => { changed = " + body + " })")
    stream = wire.stream()
    stream.send(patch(change))
    live.wait_for("changed")
    assert live.eval("changed") != served
    stream.send(reset() if how == "reset" else block("snapshot", [["a", 9, []]]))
    stream.send(block("end", {"channel": "a", "status": "done", "message": ""}))
    live.wait_for_status("ended")
    assert live.eval(body) == served


def test_a_value_is_put_back_and_what_was_typed_elsewhere_stays(wire: Wire, page: Page) -> None:
    wire.html = html(
        BODY + '<input id="field" value="one"><select id="s"><option>1<option selected>2</select>'
    )
    page.goto(wire.url)
    page.wait_for_status("live")
    page.type("#typed", "!")
    stream = wire.stream()
    stream.send(
        patch(["value", "#field", "x"], ["value", "#s", "1"], ["text", "#inner", "x"]),
        patch(marker("1"), seq=2),
    )
    wait_marker(page, "1")
    assert page.eval("[field.value, s.value]") == ["x", "1"]
    stream.send(reset())
    page.wait_for("field.value === 'one'")
    assert page.eval("[s.value, typed.value, document.activeElement.id]") == ["2", "served!", "typed"]


def test_what_another_channel_changed_is_left_alone(wire: Wire, live: Page) -> None:
    stream = wire.stream()
    theirs = [
        ["text", "#inner", "b"],
        ["class", "#head", True, {"name": "b"}],
        ["attr", "#r2", "b", {"name": "title"}],
    ]
    mine = [
        ["attr", "#box", "a", {"name": "title"}],
        ["class", "#head", True, {"name": "a"}],
        ["append", "#rows", "<li>a</li>"],
        ["before", "#typed", "<b>a</b>"],
        ["text", "#r1", "a"],
    ]
    stream.send(block("patch", [["b", 1, theirs], ["a", 1, mine]]))
    live.wait_for_text("#r1", "a")
    stream.send(reset(), patch(marker("1"), channel="c"))
    wait_marker(live, "1")
    live.run("head.removeAttribute('lang')")
    assert live.eval("document.body.innerHTML").startswith(
        '<h1 id="head" class="plain b" title="served">Head</h1><p id="count">0</p>'
        '<div id="box"><input id="typed" value="served"><i id="inner">b</i></div>'
        '<ul id="rows"><li id="r1">1</li><li id="r2" title="b">2</li></ul>'
    )
    stream.send(reset("b"))
    live.wait_for("inner.textContent === 'inner'")
    assert live.eval("[head.className, r2.hasAttribute('title')]") == ["plain", False]


def test_attributes_of_the_body_and_of_what_has_no_id_around_it(wire: Wire, live: Page) -> None:
    stream = wire.stream()
    stream.send(
        patch(
            ["class", "body", True, {"name": "dark", "select": "all"}],
            ["attr", "body", "x", {"name": "title", "select": "all"}],
        ),
        patch(["class", "body", True, {"name": "wide", "select": "all"}], channel="b"),
        patch(["text", ".many", "x", {"select": "all"}], seq=2),
        patch(["class", ".many", True, {"name": "y", "select": "all"}], seq=3),
    )
    live.wait_for("document.querySelector('.many.y')")
    stream.send(reset())
    live.wait_for("!document.querySelector('.many.y')")
    assert live.eval("[document.body.className, document.body.title]") == ["wide", ""]
    assert live.eval("[...document.querySelectorAll('.many')].map(e => e.textContent)") == ["1", "2"]


def test_what_was_brought_goes_with_what_it_was_brought_into(wire: Wire, live: Page) -> None:
    stream = wire.stream()
    stream.send(
        patch(
            ["append", "#rows", '<li id="new">new</li>'],
            ["text", "#new", "changed"],
            ["class", "#new", True, {"name": "x"}],
            ["append", "#new", "<b>more</b>"],
            ["remove", "#r1", None],
            ["text", "#r2", "changed"],
            ["remove", "#rows", None],
        )
    )
    live.wait_for("!document.getElementById('rows')")
    stream.send(reset())
    live.wait_for("document.getElementById('rows')")
    assert live.eval("rows.outerHTML") == '<ul id="rows"><li id="r1">1</li><li id="r2">2</li></ul>'


def test_a_snapshot_is_applied_on_the_page_as_it_was_served(wire: Wire, live: Page) -> None:
    stream = wire.stream()
    stream.send(patch(["append", "#rows", "<li>3</li>"], ["text", "#count", "5"]))
    live.wait_for_text("#count", "5")
    stream.send(block("snapshot", [["a", 40, [["append", "#rows", "<li>4</li>"]]], ["b", 2, []]], id="p.40"))
    live.wait_for_text("#rows", "4")
    assert live.eval("[count.textContent, rows.textContent]") == ["0", "124"]
    stream.send(patch(["text", "#count", "41"], seq=41), patch(["text", "#count", "b"], channel="b", seq=4))
    assert wire.stream(2).position == "p.40"
    assert live.text("#count") == "41"


def test_reset_puts_the_text_of_into_back(wire: Wire, page: Page) -> None:
    wire.greeting = lambda asked: hello("~", into="#count")
    page.goto(wire.url)
    page.wait_for_status("live")
    wire.stream().send(b"data: one\n\n")
    page.wait_for_text("#count", "one")
    wire.stream().send(reset("~"))
    page.wait_for("count.textContent === '0'")


def test_the_memory_of_what_was_touched_is_bounded_by_the_page(wire: Wire, live: Page) -> None:
    """Stands for a log whose rows are patched after they were appended, for weeks."""
    live.run(
        "window.size = 0; const set = Map.prototype.set; Map.prototype.set = function (k, v) {"
        " set.call(this, k, v); if (k === 'rows') size = this.size; return this }"
    )
    for n in range(50):
        wire.stream().send(
            patch(
                ["append", "#rows", f'<li id="n{n}">x</li>', {"keep": 3}],
                ["text", f"#n{n}", "y"],
                ["class", f"#n{n}", True, {"name": "z"}],
                seq=n + 1,
            )
        )
    live.wait_for_text("#rows", "yyy")
    live.wait_for("document.getElementById('n49')")
    assert live.eval("size") == 1


def test_the_memory_of_what_another_channel_touched_in_it_is_bounded_too(wire: Wire, live: Page) -> None:
    """Stands for a channel that marks the rows that another one brings, for weeks."""
    live.run(
        "window.sets = 0; const set = Map.prototype.set; Map.prototype.set = function (k, v) {"
        " if (/^n\\d/.test(k) && Array.isArray(v)) sets++; return set.call(this, k, v) }"
    )
    for n in range(20):
        row = ["append", "#rows", f'<li id="n{n}">x</li>', {"keep": 3}]
        wire.stream().send(
            patch(row, seq=n + 1),
            patch(["class", f"#n{n}", True, {"name": "z"}], seq=n + 1, channel="b"),
        )
    live.wait_for("document.querySelector('#n19.z')")
    assert live.eval("sets") == 0
    wire.stream().send(reset("b"))
    wire.stream().send(reset())
    live.wait_for("rows.textContent === '12'")


# What the reader does


def test_typed_text_focus_and_caret_survive_every_way_of_changing_what_is_around(
    wire: Wire, live: Page
) -> None:
    live.type("#typed", "!")
    live.run("typed.setSelectionRange(2, 4); window.before = typed")
    stream = wire.stream()
    around = '<b id="x">new</b><input id="typed" value="other" class="c"><u>new</u>'
    for seq, change in enumerate(
        [
            ["html", "#box", around],
            ["html", "#box", '<u>u</u><i id="inner">i</i><input id="typed"><b id="x">x</b>'],
            ["html", "#box", '<input id="typed"><b id="x">x</b><i id="inner">i</i>'],
            ["replace", "#box", f'\n<div id="box" class="new">{around}</div>\n'],
            ["replace", "#typed", '<input id="typed" value="again" name="n">'],
            ["before", "#typed", "<i>before</i>"],
            ["append", "#box", "<i>after</i>"],
        ],
        1,
    ):
        stream.send(patch(change, marker(str(seq)), seq=seq))
        wait_marker(live, str(seq))
        found = live.eval(
            "[typed === before, typed.value, document.activeElement === typed, typed.selectionStart,"
            " typed.selectionEnd]"
        )
        assert found == [True, "served!", True, 2, 4], change


def test_what_was_chosen_and_opened_survives(wire: Wire, page: Page) -> None:
    form = (
        '<form id="f"><input name="id" type="hidden" value="{0}"><input name="a" value="{0}">'
        '<input type="checkbox" name="c"><select name="s"><option>1</option><option>2</option></select>'
        '<textarea name="t">{0}</textarea><details{1}><summary>{0}</summary></details></form>'
    )
    wire.html = html(BODY + '<div id="outer">' + form.format("one", "") + "</div>")
    page.goto(wire.url)
    page.wait_for_status("live")
    page.type("#f [name=a]", "+")
    page.type("#f [name=t]", "+")
    page.click("#f [name=c]")
    page.type("#f select", "2")
    page.click("#f summary")
    page.wait_for("f.querySelector('details').open")
    page.run("outer.scrollTop = 1; window.before = [...outer.querySelectorAll('*')]")
    wire.stream().send(patch(["html", "#outer", form.format("two", "")], marker("1")))
    wait_marker(page, "1")
    chosen = "(e => [e.a.value, e.c.checked, e.s.value, e.t.value, e.querySelector('details').open])(f)"
    assert page.eval(chosen) == ["one+", True, "2", "one+", True]
    assert page.eval("before.every((e, i) => e === [...outer.querySelectorAll('*')][i])")
    assert page.eval("[f.elements[0].value, f.querySelector('summary').textContent]") == ["two", "two"]
    page.click("#f summary")
    page.wait_for("!f.querySelector('details').open")
    wire.stream().send(patch(["html", "#outer", form.format("three", " open")], marker("2"), seq=2))
    wait_marker(page, "2")
    assert page.eval("f.querySelector('details').open") is False  # closed by the reader


def test_a_form_whose_fields_have_the_names_of_properties(wire: Wire, page: Page) -> None:
    fields = '<input name="id"><input name="children"><input name="parentNode">'
    wire.html = html(BODY + f'<form id="f">{fields}</form>')
    page.goto(wire.url)
    page.wait_for_status("live")
    record(page)
    wire.stream().send(
        patch(
            ["html", "#f", fields + "<b>1</b>"],
            ["append", "#f", '<i id="last">2</i>'],
            ["append", "#f", '<i id="last">3</i>'],
            marker("1"),
        )
    )
    wait_marker(page, "1")
    assert (page.text("#f"), seen(page, "error")) == ("13", [])
    wire.stream().send(reset(), patch(marker("2"), seq=2))
    wait_marker(page, "2")
    assert page.text("#f") == ""


def test_a_list_loses_and_gains_rows_without_touching_the_others(wire: Wire, live: Page) -> None:
    def rows(*names: int) -> str:
        return "\n" + "\n".join(f'<li id="n{n}">{n}</li>' for n in names) + "\n"

    stream = wire.stream()
    stream.send(patch(["html", "#rows", rows(*range(50))], marker("1")))
    wait_marker(live, "1")
    live.run(
        "window.added = []; window.removed = []; new MutationObserver(records => { for (const r of records) {"
        "  added.push(...r.addedNodes); removed.push(...r.removedNodes) } })"
        ".observe(rows, {childList: true, subtree: true, characterData: true})"
    )
    stream.send(patch(["html", "#rows", rows(*range(3, 20), *range(21, 52))], marker("2"), seq=2))
    wait_marker(live, "2")
    elements = ".filter(n => n.nodeType === 1).map(n => n.id)"
    assert live.eval("[removed" + elements + ", added" + elements + "]") == [
        ["n0", "n1", "n2", "n20"],
        ["n50", "n51"],
    ]


def test_the_same_again_changes_nothing(wire: Wire, live: Page) -> None:
    stream = wire.stream()
    live.run(
        "window.records = 0; new MutationObserver(r => records += r.length).observe(document.body,"
        " {subtree: true, childList: true, characterData: true, attributeFilter: ['class', 'title', 'id']})"
    )
    stream.send(
        patch(
            ["text", "#count", "0"],
            ["html", "#box", '<input id="typed" value="served"><i id="inner">inner</i>'],
            ["replace", "#rows", '<ul id="rows"><li id="r1">1</li><li id="r2">2</li></ul>'],
            ["class", "#head", True, {"name": "plain"}],
            marker("1"),
        )
    )
    wait_marker(live, "1")
    assert live.eval("records") == 0


def test_an_element_of_the_pages_own_scripts_is_left_alone(wire: Wire, live: Page) -> None:
    live.run(
        "box.insertAdjacentHTML('beforeend', '<div data-live-ignore>own</div>');"
        "inner.setAttribute('data-live-ignore', ''); inner.textContent = 'own'"
    )
    wire.stream().send(
        patch(["html", "#box", '<div>theirs</div><input id="typed"><i id="inner">theirs</i>'], marker("1"))
    )
    wait_marker(live, "1")
    assert live.eval("inner.textContent") == "own"
    assert sorted(live.eval("[...box.querySelectorAll('div')].map(e => e.textContent)")) == ["own", "theirs"]


LOG = '<div id="log" data-live-follow style="height:60px;overflow:auto;scroll-behavior:smooth">{}</div>'
AT_END = "Math.abs(log.scrollHeight - log.scrollTop - log.clientHeight) < 2"


def test_a_container_that_follows_shows_its_end_from_the_start(wire: Wire, page: Page) -> None:
    wire.html = html(BODY + LOG.format("<p>line</p>" * 20))
    page.goto(wire.url)
    page.wait_for_status("live")
    page.wait_for(AT_END)
    stream = wire.stream()
    for seq in range(1, 6):
        stream.send(patch(["append", "#log", "<p>more</p>" * 5], marker(str(seq)), seq=seq))
        wait_marker(page, str(seq))
        assert page.eval(AT_END), seq
    stream.send(patch(["append", "#log", '<pre id="deep"></pre>'], marker("6"), seq=6))
    stream.send(patch(["append_text", "#deep", "text\n" * 20], marker("7"), seq=7))
    wait_marker(page, "7")
    assert page.eval(AT_END)
    page.run("log.scrollTo({top: 30, behavior: 'instant'})")
    stream.send(patch(["append", "#log", "<p>more</p>" * 5], marker("8"), seq=8))
    wait_marker(page, "8")
    assert page.eval("log.scrollTop") == 30
    page.run("log.scrollTo({top: 1e6, behavior: 'instant'})")
    stream.send(patch(["append", "#log", "<p>more</p>" * 5], marker("9"), seq=9))
    wait_marker(page, "9")
    assert page.eval(AT_END)


def test_a_container_that_begins_to_scroll_later_follows_all_the_same(wire: Wire, page: Page) -> None:
    """Stands for a style sheet that comes after the first block, and for a window that was made smaller."""
    wire.html = html(BODY + '<div id="log" data-live-follow>' + "<p>line</p>" * 20 + "</div>")
    page.goto(wire.url)
    page.wait_for_status("live")
    stream = wire.stream()
    stream.send(patch(["append", "#log", "<p>more</p>"], marker("1"), seq=1))
    wait_marker(page, "1")
    page.run("log.style = 'height: 200px; overflow: auto'")
    stream.send(patch(["append", "#log", "<p>more</p>"], marker("2"), seq=2))
    wait_marker(page, "2")
    assert page.eval(AT_END)
    page.run("log.style.height = '100px'")
    stream.send(patch(["append", "#log", "<p>more</p>"], marker("3"), seq=3))
    wait_marker(page, "3")
    assert page.eval(AT_END)
    page.run("log.style.height = '50px'; window.dispatchEvent(new Event('load'))")
    assert page.eval(AT_END)
    page.run("log.scrollTop = 0; window.dispatchEvent(new Event('load'))")
    assert page.eval("log.scrollTop") == 0


def test_text_that_is_selected_elsewhere_stays_selected(wire: Wire, live: Page) -> None:
    live.run("getSelection().selectAllChildren(r1)")
    wire.stream().send(
        patch(["html", "#rows", '<li id="r0">0</li><li id="r1">1</li>'], ["text", "#count", "9"], marker("1"))
    )
    wait_marker(live, "1")
    assert live.eval("getSelection().toString()") == "1"


# Refresh


def refresh() -> bytes:
    return block("refresh", {})


def test_refresh_brings_the_page_to_its_new_html(wire: Wire, live: Page) -> None:
    live.run(
        "inner.dataset.mine = 1; count.insertAdjacentHTML('afterend', '<aside data-live-ignore>own</aside>');"
        "window.before = [typed, r2, document.querySelector('.many')]"
    )
    live.type("#typed", "!")
    stream = wire.stream()
    stream.send(patch(["text", "#count", "touched"], ["append", "#rows", '<li id="r9">9</li>'], seq=70))
    live.wait_for_text("#count", "touched")
    wire.html = html(
        '<h1 id="head" class="new" lang="de">Kopf</h1>'
        '<p id="count">0</p>'
        '<p id="added">added <b id="in-added">b</b></p>'
        '<div id="box"><input id="typed" value="served"><i id="inner">inner</i></div>'
        '<ul id="rows"><li id="r2">2</li><li id="r3">3<script>window.ran = 1</script></li></ul>'
        '<p class="many">1</p><p class="many">changed</p>',
        position="fresh",
        head="<title>new</title>",
    )
    stream.send(refresh())
    assert wire.stream(2).position == "fresh"
    live.wait_for_status("live")
    assert live.eval(
        "[...document.body.children].map(e => e.id || e.textContent).filter(s => s && s !== 'own')"
    ) == ["head", "count", "added", "box", "rows", "1", "changed"]
    assert live.eval("document.querySelector('aside').textContent") == "own"
    assert live.eval("head.outerHTML") == '<h1 id="head" class="new" lang="de">Kopf</h1>'
    assert live.eval("[count.textContent, document.title]") == ["0", "new"]
    assert live.eval("added.textContent") == "added b"
    assert live.eval("[...rows.children].map(e => e.id)") == ["r2", "r3"]
    assert live.eval("document.querySelectorAll('.many')[1].textContent") == "changed"
    assert live.eval("[typed.value, typeof ran]") == ["served!", "undefined"]
    assert live.eval("before.every(e => e.isConnected)")
    # From now on this is what the page was served with, and the numbers of before mean nothing.
    wire.stream(2).send(
        patch(["text", "#r3", "x"], ["remove", "#added", None], seq=3), patch(marker("1"), seq=4)
    )
    wait_marker(live, "1")
    wire.stream(2).send(reset())
    live.wait_for("document.getElementById('added')")
    assert live.eval("[r3.textContent.slice(0, 1), added.textContent, head.lang]") == ["3", "added b", "de"]
    assert len(wire.requests("stream")) == 2


def test_refresh_leaves_alone_what_neither_the_server_nor_a_patch_has_changed(wire: Wire, live: Page) -> None:
    live.run(
        "inner.dataset.mine = 1; r1.textContent = 'mine'; document.querySelector('.many').append('mine')"
    )
    wire.html = html(BODY.replace(">0<", ">7<"), position="fresh")
    wire.stream().send(refresh())
    live.wait_for_text("#count", "7")
    assert live.eval("[inner.dataset.mine, r1.textContent, document.querySelector('.many').textContent]") == [
        "1",
        "mine",
        "1mine",
    ]


def test_refresh_heals_what_was_touched_and_never_changed(wire: Wire, live: Page) -> None:
    stream = wire.stream()
    stream.send(
        patch(
            ["text", "#inner", "x"],
            ["value", "#typed", "x"],
            ["class", "#head", False, {"name": "plain"}],
            ["remove", "#r1", None],
            ["text", ".many", "x", {"select": "all"}],
            ["title", "", "x"],
        )
    )
    live.wait_for("document.title === 'x'")
    stream.send(refresh())
    wire.stream(2)
    live.wait_for_status("live")
    shown = live.eval("[inner.textContent, typed.value, head.className, rows.textContent, document.title]")
    assert shown == ["inner", "served", "plain", "12", "served"]
    assert live.eval("[...document.querySelectorAll('.many')].map(e => e.textContent)") == ["1", "2"]


def test_refresh_works_in_a_page_without_any_id(wire: Wire, page: Page) -> None:
    wire.html = html("<main><p>one</p></main>")
    page.goto(wire.url)
    page.wait_for_status("live")
    wire.html = html("<main><p>two</p></main>", position="fresh")
    wire.stream().send(refresh())
    page.wait_for_text("main", "two")


def test_a_refresh_that_fails_is_tried_again(wire: Wire, live: Page) -> None:
    wire.answers["html"] = [(503, HTML, "x"), (500, HTML, "x")]
    wire.html = html(BODY.replace(">0<", ">7<"), position="fresh")
    wire.stream().send(refresh())
    live.wait_for_text("#count", "7", 15)
    assert len(wire.requests("html")) == 1 + 3
    assert wire.stream(2).position == "fresh"
    assert seen(live, "status")[0]["status"] == "reconnecting"


@pytest.mark.parametrize(
    "answer",
    [
        (302, {"Location": "/login"}, ""),
        (403, HTML, "no"),
        (200, {"Content-Type": "application/json"}, "{}"),
        (200, HTML, "<p>log in"),
    ],
    ids=str,
)
def test_a_refresh_that_is_refused_is_denied(wire: Wire, live: Page, answer: Any) -> None:
    wire.answers["html"] = [answer]
    wire.stream().send(refresh())
    live.wait_for_status("denied")
    assert live.text("#head") == "Head"
    stays_away(wire, live)


def test_a_redirect_to_another_page_of_ours_is_denied_too(wire: Wire, live: Page) -> None:
    wire.answers["html"] = [(302, {"Location": "/page?other"}, "")]
    wire.stream().send(refresh())
    live.wait_for_status("denied")


def test_a_server_that_says_refresh_for_ever_is_asked_less_and_less(wire: Wire, live: Page) -> None:
    live.run(
        "Math.random = () => 0.9; window.waits = []; const set = setTimeout;"
        "window.setTimeout = (f, ms) => set(f, ms % 5000 ? (waits.push(Math.round(ms)), 10) : ms)"
    )
    wire.greeting = lambda asked: hello() + refresh()
    wire.stream().cut()
    wire.stream(5)
    live.wait_for("waits.length >= 5")  # the server has the request before the page has its answer
    assert live.eval("waits.slice(1, 5)") == [450, 900, 1800, 3600]


@pytest.mark.parametrize(("how", "status"), [("afterload.close()", "ended"), ("due()", "reconnecting")])
def test_close_and_a_hidden_tab_stop_a_refresh(wire: Wire, live: Page, how: str, status: str) -> None:
    live.run(DUE)
    live.run(HIDE, how == "due()")
    live.run(f"document.addEventListener('live:status', () => {how}, {{once: true}})")  # before it is fetched
    wire.stream().send(refresh())
    live.wait_for_status(status)
    time.sleep(0.8)
    assert len(wire.requests("html")) == 1
    assert live.eval("afterload.status") == status


def test_refresh_works_under_a_strict_policy_with_trusted_types(
    wire: Wire, page: Page, console: Console
) -> None:
    wire.headers = {
        "Content-Security-Policy": "default-src 'none'; connect-src 'self'; script-src 'nonce-one';"
        "require-trusted-types-for 'script'; trusted-types afterload"
    }
    with_nonce = html(BODY).replace("<script", '<script nonce="one"')
    wire.html = with_nonce
    page.goto(wire.url)
    page.wait_for_status("live")
    wire.stream().send(patch(["html", "#inner", "<b>x</b>"], ["append", "#rows", "<li>x</li>"]))
    page.wait_for_text("#inner", "x")
    wire.headers = {}
    wire.html = (
        with_nonce.replace("served", "new").replace("<p id", "<p>more</p><p id").replace('"one"', '"two"')
    )
    wire.stream().send(refresh())
    page.wait_for("document.title === 'new'")
    page.wait_for_status("live")
    assert page.eval("[inner.textContent, rows.textContent, head.title]") == ["inner", "12", "new"]
    wire.stream(2).send(patch(["text", "#inner", "y"], seq=1), reset())
    page.wait_for("inner.textContent === 'inner'")
    assert console.refused() == []


def test_a_wire_of_another_version_loads_the_page_again_but_not_over_and_over(wire: Wire, live: Page) -> None:
    wire.greeting = lambda asked: hello(v=2) + patch(["text", "#count", "wrong"])
    live.run("window.here = 1")
    wire.stream().cut()
    wire.wait("html", 2)
    live.wait_for("typeof here === 'undefined'")
    wire.stream(4)
    assert len(wire.requests("html")) == 2
    assert live.text("#count") == "0"
    assert live.eval("afterload.status") != "live"


def test_nothing_of_another_version_is_applied_while_the_page_loads_again(wire: Wire, live: Page) -> None:
    live.run(
        "const tell = e => sessionStorage.told = (sessionStorage.told || '') + e.type + (e.detail.status || '');"
        "document.addEventListener('live:status', tell); document.addEventListener('live:before-patch', tell)"
    )
    wire.greeting = lambda asked: hello(v=2) + patch(["text", "#count", "wrong"])
    wire.stream().cut()
    wire.wait("html", 2)
    wire.stream(3)
    assert live.wait_for("sessionStorage.told") == "live:statusreconnecting"


def test_the_url_of_the_page_is_the_one_it_was_loaded_from(wire: Wire, page: Page) -> None:
    page.goto(wire.url + "?q=1#part")
    with pytest.raises((AssertionError, ScriptError)):
        page.wait_for_status("live", 1)
    assert page.text("body") == "elsewhere"
