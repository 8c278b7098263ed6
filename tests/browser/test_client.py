"""The client in a real browser, against a real server that a test kills, restarts and publishes on."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable
from typing import Any

import pytest

from afterload.testing import FaultProxy
from tests.browser.driver import Page
from tests.browser.fixtures import Console
from tests.servers.process import Server, Servers, wait_until

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def shared_server(module_servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Server:
    store = tmp_path_factory.mktemp("store") / "rows"
    return module_servers.gunicorn("tests.browser.app:app", env={"STORE": str(store)})


@pytest.fixture
def server(shared_server: Server) -> Server:
    """The server all tests share; what one published, the next one does not see."""
    shared_server.restart(kill=True)
    return shared_server


def post(server: Server, path: str, body: Any = None) -> str:
    data = json.dumps(body).encode()
    request = urllib.request.Request(
        server.url + path, data=data, headers={"Content-Type": "application/json"}, method="POST"
    )
    with urllib.request.urlopen(request, timeout=10) as response:
        return str(response.read().decode())


def publish(server: Server, *patches: list[Any], channel: str = "a") -> None:
    post(server, f"/publish/{channel}", list(patches))


def stats(server: Server) -> dict[str, Any]:
    with urllib.request.urlopen(server.url + "/stats", timeout=10) as response:
        found: dict[str, Any] = json.load(response)
        return found


# A page that asks again soon, however long its server was down.
EAGER = "Math.random = () => 0.1"


@pytest.fixture
def live(server: Server, page: Page) -> Page:
    page.goto(server.url + "/page")
    page.wait_for_status("live")
    return page


def test_every_action(server: Server, live: Page) -> None:
    live.run("window.fired = []; document.addEventListener('ding', e => fired.push(e.detail))")
    publish(
        server,
        ["text", "#count", "<b>12</b>"],
        ["attr", "#head", "yes", {"name": "data-x"}],
        ["attr", "#link", None, {"name": "href"}],
        ["class", "#head", True, {"name": "hot"}],
        ["class", "#head", False, {"name": "plain"}],
        ["value", "#field", "set"],
        ["value", "#bar", "40"],
        ["title", "", "new title"],
        ["html", "#inner", "<i>marked</i>"],
        ["append", "#rows", "<li id=r1>1</li>"],
        ["append", "#rows", "<li id=r2>2</li>"],
        ["prepend", "#rows", "<li id=r0>0</li>"],
        ["append", "#rows", "<li id=r1>one</li>"],
        ["before", "#r2", "<li>before 2</li>"],
        ["after", "#r2", "<li>after 2</li>"],
        ["replace", "#r0", "<li id=r0 class=new>zero</li>"],
        ["append_text", "#log", "a"],
        ["append_text", "#log", "b"],
        ["text", ".many", "both", {"select": "all"}],
        ["dispatch", "", {"n": 1}, {"name": "ding"}],
    )
    live.wait_for("fired.length")
    assert live.eval("fired") == [{"n": 1}]
    assert live.text("#count") == "<b>12</b>"
    assert live.eval("document.querySelector('#head').dataset.x") == "yes"
    assert live.eval("document.querySelector('#head').className") == "hot"
    assert live.eval("document.querySelector('#link').hasAttribute('href')") is False
    assert live.eval("[field.value, bar.value, document.title]") == ["set", 40, "new title"]
    assert live.eval("inner.innerHTML") == "<i>marked</i>"
    assert live.eval("[...rows.children].map(e => e.textContent)") == [
        "zero",
        "before 2",
        "2",
        "after 2",
        "one",
    ]
    assert live.eval("r0.className") == "new"
    assert live.eval("log.childNodes.length") == 1
    assert live.text("#log") == "ab"
    assert live.eval("[...document.querySelectorAll('.many')].map(e => e.textContent)") == ["both", "both"]


def test_keep_bounds_a_list(server: Server, live: Page) -> None:
    for start in range(0, 30, 10):
        publish(
            server, *[["append", "#rows", f"<li>{n}</li>", {"keep": 5}] for n in range(start, start + 10)]
        )
    live.wait_for("rows.lastChild && rows.lastChild.textContent === '29'")
    assert live.eval("[...rows.childNodes].map(e => e.textContent)") == ["25", "26", "27", "28", "29"]


def test_a_missing_target_is_an_event_and_one_warning(server: Server, live: Page) -> None:
    live.run(
        "window.missing = []; document.addEventListener('live:missing', e => missing.push(e.detail.target));"
        "window.warnings = []; console.warn = (...a) => warnings.push(a.join(' '))"
    )
    for times in (1, 2):
        publish(server, ["text", "#nowhere", "x"], ["text", "#count", "after"])
        live.wait_for(f"missing.length === {times}")  # else the server may merge the two
    assert live.eval("warnings") == ["afterload: the page has no #nowhere"]
    assert live.text("#count") == "after"


def test_a_patch_can_be_cancelled_and_watched(server: Server, live: Page) -> None:
    live.run(
        "window.seen = [];"
        "document.addEventListener('live:before-patch', e => {"
        " if (e.detail.content === 'no') e.preventDefault(); });"
        "document.addEventListener('live:patch', e => seen.push(e.target.id + e.detail.content));"
    )
    publish(server, ["text", "#count", "no"], ["text", "#head", "yes"])
    live.wait_for("seen.length")
    assert live.eval("seen") == ["headyes"]
    assert live.text("#count") == "nothing received yet"


def test_a_failing_action_does_not_hold_up_the_rest(server: Server, live: Page) -> None:
    live.run(
        "window.errors = []; console.error = () => {};"
        "document.addEventListener('live:error', e => errors.push(e.detail.action));"
        "const text = afterload.actions.text;"
        "afterload.actions.text = (e, c, o) => { if (c === 'bad') throw Error('x'); text(e, c, o) }"
    )
    publish(server, ["text", "#head", "bad"], ["text", "#count", "good"])
    live.wait_for_text("#count", "good")
    assert live.eval("errors") == ["text"]


def test_scripts_in_html_do_not_run(server: Server, live: Page) -> None:
    hostile = "<script>window.ran=1</script><i>ok</i>"
    publish(server, ["html", "#inner", hostile], ["append", "#rows", hostile], ["after", "#head", hostile])
    live.wait_for("document.querySelectorAll('i').length >= 3")
    assert live.eval("window.ran === undefined")


def test_what_the_reader_does_is_kept_when_its_surroundings_change(server: Server, live: Page) -> None:
    live.type("#typed", " and typed")
    live.run("more.open = true; typed.setSelectionRange(3, 5)")
    publish(
        server,
        [
            "html",
            "#box",
            '<em>new</em><details id="more"><summary>more</summary>changed</details>'
            '<input id="typed" value="other"><b id="inner">changed</b>',
        ],
    )
    live.wait_for("inner.textContent === 'changed'")
    assert live.eval(
        "[typed.value, document.activeElement.id, typed.selectionStart, typed.selectionEnd, more.open]"
    ) == [
        "served and typed",
        "typed",
        3,
        5,
        True,
    ]
    assert live.eval("[...box.children].map(e => e.tagName)") == ["EM", "DETAILS", "INPUT", "B"]


def test_a_log_is_followed_unless_the_reader_scrolled_up(server: Server, live: Page) -> None:
    rows = [["append", "#log", f"<div>line {n}</div>"] for n in range(20)]
    publish(server, *rows)
    live.wait_for("log.childElementCount === 20")
    at_end = "Math.abs(log.scrollHeight - log.scrollTop - log.clientHeight) < 2"
    assert live.eval(at_end)
    live.run("log.scrollTop = 10")
    publish(server, *rows)
    live.wait_for("log.childElementCount === 40")
    assert live.eval("log.scrollTop") == 10
    live.run("log.scrollTop = log.scrollHeight")
    publish(server, *rows)
    live.wait_for("log.childElementCount === 60")
    assert live.eval(at_end)


def test_it_works_under_a_strict_policy_with_trusted_types(server: Server, page: Page) -> None:
    page.goto(server.url + "/page?csp=1")
    page.wait_for_status("live")
    publish(server, ["html", "#inner", "<i>x</i>"], ["text", "#count", "5"])
    page.wait_for_text("#count", "5")
    assert page.eval("inner.innerHTML") == "<i>x</i>"


def test_a_yielded_string_is_the_text_of_into(server: Server, page: Page) -> None:
    page.goto(server.url + "/words")
    page.wait_for_status("ended")
    assert page.text("#count") == "three"


def test_a_loop_that_fails_shows_it_and_tells_no_secret(server: Server, page: Page) -> None:
    page.goto(server.url + "/broken")
    page.wait_for_status("failed")
    assert page.text("#count") == "before"
    assert "secret" not in page.describe()


def test_a_finished_loop_shows_its_result_and_keeps_no_connection(
    server: Server, open_page: Callable[[], Page]
) -> None:
    first = open_page()
    first.goto(server.url + "/result")
    first.wait_for_status("ended")
    assert first.text("#count") == "finished"
    late = open_page()
    late.goto(server.url + "/result")
    late.wait_for_status("ended")
    assert late.text("#count") == "finished"
    wait_until(lambda: stats(server)["viewers"] == 0, 5, "no viewer")


def test_a_killed_server_is_shown_and_the_page_is_back_and_right(
    server: Server, open_page: Callable[[], Page]
) -> None:
    pages = [open_page() for _ in range(2)]
    for page in pages:
        page.goto(server.url + "/page")
        page.wait_for_status("live")
        page.run(EAGER)
    post(server, "/row/one")
    pages[0].wait_for_text("#rows", "one")
    pages[0].type("#typed", "!")
    server.kill()
    for page in pages:
        page.wait_for_status("reconnecting")
        assert page.text("#rows") in ("one", "")
    server.start()
    post(server, "/row/two?tell=0")  # nobody is told of this one: only the page itself knows
    post(server, "/row/three")
    for page in pages:
        page.wait_for_status("live", 20)
        page.wait_for_text("#rows", "onetwothree")
    assert pages[0].eval("typed.value") == "served!"
    post(server, "/row/four")
    for page in pages:
        page.wait_for_text("#rows", "onetwothreefour")


def test_a_private_loop_starts_anew_after_the_server_was_killed(server: Server, page: Page) -> None:
    page.goto(server.url + "/private")
    page.wait_for("+count.textContent > 30")
    page.run(EAGER)
    server.kill()
    page.wait_for_status("reconnecting")
    server.start()
    page.wait_for_status("live", 20)
    page.wait_for("+count.textContent < 30")


def test_offline_and_online(server: Server, page: Page) -> None:
    with FaultProxy(server.port) as proxy:
        page.goto(proxy.url + "/page")
        page.wait_for_status("live")
        page.run(EAGER)
        seen = page.eval("afterload.position")
        proxy.refusing = True
        page.offline(True)
        proxy.cut()  # an emulation leaves open streams alone; a cable does not
        page.wait_for_status("reconnecting")
        publish(server, ["text", "#count", "meanwhile"])
        proxy.refusing = False
        page.offline(False)
        page.wait_for_status("live")
        page.wait_for_text("#count", "meanwhile")
        assert page.eval("afterload.position") != seen


def test_close_and_open(server: Server, page: Page) -> None:
    page.goto(server.url + "/private")
    page.wait_for("+count.textContent > 2")
    page.run("afterload.close()")
    page.wait_for_status("ended")
    wait_until(lambda: stats(server)["loops"] == 0, 10, "the loop to end at once (linger is 30 s)")
    page.run("afterload.open()")
    page.wait_for_status("live")
    wait_until(lambda: stats(server)["loops"] == 1, 10, "a new loop")


def test_reloading_the_page_ends_its_loop_at_once(server: Server, page: Page) -> None:
    page.goto(server.url + "/private")
    page.wait_for("+count.textContent > 2")
    page.reload()
    # Or 3: a browser may cut what a page follows by before the page goes, and that comes back once more.
    wait_until(lambda: stats(server)["connects"] >= 2, 10, "the new page's stream")
    wait_until(lambda: stats(server)["loops"] == 1, 10, "the old loop to end (linger is 30 s)")


def test_a_page_left_and_come_back_to_goes_on_where_it_was(server: Server, page: Page) -> None:
    page.goto(server.url + "/private")
    page.wait_for("+count.textContent > 30")
    page.goto(server.url + "/other")
    page.back()
    page.wait_for_status("live")
    wait_until(lambda: stats(server)["loops"] == 1, 10, "one loop")
    if page.browser.keeps_pages:
        assert page.wait_for("+count.textContent") > 30
    else:  # it said goodbye, and this is another one
        assert stats(server)["connects"] >= 2
    page.goto(server.url + "/other")
    wait_until(lambda: stats(server)["viewers"] == 0, 10, "the page to let go of its loop")


def test_back_and_forward(server: Server, live: Page) -> None:
    live.goto(server.url + "/other")
    wait_until(lambda: stats(server)["viewers"] == 0, 5, "the stream to be let go")
    publish(server, ["text", "#count", "while away"])
    live.back()
    live.wait_for_status("live")
    live.wait_for_text("#count", "while away")


def test_a_login_that_has_expired_is_denied_and_not_asked_again(server: Server, live: Page) -> None:
    post(server, "/logout")
    requests = stats(server)["connects"]
    live.run("dispatchEvent(new PageTransitionEvent('pagehide', {persisted: true}))")
    live.run("dispatchEvent(new PageTransitionEvent('pageshow', {persisted: true}))")
    live.wait_for_status("denied")
    assert stats(server)["connects"] == requests


def test_restart_puts_back_what_the_page_was_served_with(server: Server, page: Page) -> None:
    page.goto(server.url + "/restarted")
    page.wait_for_text("#head", "first run")
    post(server, "/restart")
    page.wait_for_status("ended")
    assert page.text("#count") == "finished"
    assert page.text("#head") == "Head"


def test_a_document_under_a_strict_policy_with_trusted_types(
    server: Server, page: Page, console: Console
) -> None:
    page.goto(server.url + "/document")
    page.wait_for_status("ended")
    assert page.eval("document.querySelector('#count').innerHTML") == "<b>4</b>"
    assert console.refused() == []


def test_a_document_whose_line_is_reset_is_not_taken_for_whole(servers: Servers, page: Page) -> None:
    """Stands for a firewall, and a proxy that is killed: to a browser that is no end, as FIN is."""
    server = servers.gunicorn("tests.browser.app:app", env={"HEARTBEAT": "0.4"})
    with FaultProxy(server.port) as proxy:
        page.goto(proxy.url + "/document?steps=1000")
        page.wait_for_status("live")
        assert proxy.cut(reset=True)
        if page.browser.replaces_cut_documents:
            page.wait_for("document.URL.startsWith('about:')")
        else:  # the document goes on loading, for ever; its script hears nothing but the silence
            page.wait_for_status("interrupted")
