"""The demo as a visitor sees it, and what happens to open pages when its server goes and comes back."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from afterload.testing import FaultProxy
from afterload.wire.sse import Decoder, Event
from tests.browser.driver import Page
from tests.browser.test_client import EAGER
from tests.browser.test_hostile import SHOWN
from tests.servers.process import Server, Servers

pytestmark = pytest.mark.server


@pytest.fixture
def demo(servers: Servers, tmp_path: Path) -> Server:
    return servers.module(
        "afterload.cli", "demo", "--port", "{port}", "--data", str(tmp_path), ready="afterload demo: http"
    )


def number(page: Page, selector: str) -> int:
    return int(page.text(selector).split()[-1])


def counting(selector: str, past: int) -> str:
    return f"+document.querySelector('{selector}').textContent.split(' ').pop() > {past}"


def test_the_index_leads_to_every_page(demo: Server, page: Page) -> None:
    page.goto(demo.url)
    links = page.wait_for(
        "document.querySelectorAll('.cards a').length && "
        "[...document.querySelectorAll('.cards a')].map(a => a.href)"
    )
    assert len(links) == 8
    for link in links:
        page.goto(link)
        page.wait_for(
            "/live\\.(page|document|stream_template)\\(/.test(document.querySelector('pre').textContent)"
        )


def test_each_viewer_of_the_spinner_counts_from_0_and_goes_on_after_a_cut(
    demo: Server, open_page: Callable[[], Page]
) -> None:
    first, second = open_page(), open_page()
    with FaultProxy(demo.port) as proxy:
        first.goto(proxy.url + "/spinner")
        first.wait_for(counting("#data", 20))
        second.goto(demo.url + "/spinner")
        second.wait_for(counting("#data", -1))
        seen = number(second, "#data")
        assert number(first, "#data") > seen + 10
        told = "window.told = []; document.addEventListener('live:status', e => told.push(e.detail.status));"
        at = first.run(told + WATCH)
        assert proxy.cut()
        first.wait_for("told[0] === 'reconnecting' && told.includes('live')")
        first.wait_for(counting("#data", at + 10))
        assert_went_on(first, at)
        first.run("afterload.close()")
        first.wait_for_status("ended")


def test_a_page_written_by_hand_is_back_by_itself_and_goes_on(demo: Server, page: Page) -> None:
    with FaultProxy(demo.port) as proxy:
        page.goto(proxy.url + "/bare")
        page.wait_for(counting("#data", 10))
        assert page.eval("document.querySelector('script[src]')") is None
        at = page.run("window.opened = 0; source.onopen = () => opened++;" + WATCH)
        assert proxy.cut()
        page.wait_for("opened", timeout=15)
        page.wait_for(counting("#data", at + 10))
        assert_went_on(page, at)


# Everything the page shows from now on; returns what it shows now.
WATCH = (
    "window.shown = []; new MutationObserver(() => shown.push(+data.textContent.split(' ').pop()))"
    ".observe(data, {childList: true, characterData: true, subtree: true});"
    "return +data.textContent.split(' ').pop()"
)


def assert_went_on(page: Page, at: int) -> None:
    """Nothing was shown twice or in the wrong order, and the loop did not begin anew."""
    shown = page.eval("shown")
    assert shown == sorted(set(shown))
    assert shown[0] >= at


def test_a_finite_page_written_by_hand_stops_for_good(demo: Server, page: Page) -> None:
    page.goto(demo.url + "/bare/finite")
    page.wait_for_text("#data", "lift-off", timeout=15)
    page.wait_for("source.readyState === EventSource.CLOSED", timeout=15)  # after one more request: 204


def test_all_viewers_of_the_clock_see_one_run(demo: Server, open_page: Callable[[], Page]) -> None:
    pages = [open_page() for _ in range(2)]
    for page in pages:
        page.goto(demo.url + "/clock")
        page.wait_for_text("#time", ":")
    for page in pages:
        page.wait_for_text("#viewers", "2")


def first_block(url: str) -> Event:
    """The first block after `hello` of a page's stream."""
    asked = urllib.request.Request(url, headers={"Accept": "text/event-stream"})
    decoder = Decoder()
    with urllib.request.urlopen(asked, timeout=10) as response:
        found: list[Event] = []
        while len(found) < 2:
            found += decoder.feed(response.read1())
    return found[1]


def test_progress_opened_in_the_middle_and_after_the_end(demo: Server, open_page: Callable[[], Page]) -> None:
    first = open_page()
    first.goto(demo.url + "/progress")
    first.wait_for("bar.value > 40", timeout=20)
    state = first_block(demo.url + "/progress")
    assert state.event == "snapshot"
    assert any(action == "value" and int(step) > 40 for action, _, step, *_ in json.loads(state.data)[2])
    middle = open_page()
    middle.goto(demo.url + "/progress")
    middle.wait_for("bar.value > 40", timeout=20)
    first.wait_for_text("#result", "Done", timeout=30)
    for page in (first, middle):
        page.wait_for_status("ended")
    late = open_page()
    late.goto(demo.url + "/progress")
    late.wait_for_status("ended")
    assert "Done" in late.text("#result")
    assert late.eval("bar.value") == 200
    late.click("#again")
    late.wait_for_status("live")
    late.wait_for("bar.value > 0 && bar.value < 150")


def test_the_log_follows_its_end(demo: Server, page: Page) -> None:
    page.goto(demo.url + "/log")
    page.wait_for("log.scrollHeight > log.clientHeight + 50", timeout=20)
    page.wait_for("Math.abs(log.scrollHeight - log.scrollTop - log.clientHeight) < 4")
    page.run("log.scrollTop = 0")
    count = page.eval("log.childElementCount")
    page.wait_for(f"log.childElementCount > {count} + 5")
    assert page.eval("log.scrollTop") == 0


def test_orders_reach_every_page_and_survive_a_kill(demo: Server, open_page: Callable[[], Page]) -> None:
    pages = [open_page() for _ in range(2)]
    for page in pages:
        page.goto(demo.url + "/orders")
        page.wait_for_status("live")
        page.run(EAGER)
    pages[0].click("form.order button")
    for page in pages:
        page.wait_for("document.querySelectorAll('#orders li').length === 1")
        page.wait_for_text("#count", "1")
        page.wait_for_text("#order-1-status", "delivered")  # a thread
        page.wait_for(
            "[...document.querySelectorAll('.prices b')].some(b => b.textContent !== '–')"
        )  # a loop

    demo.kill()
    for page in pages:
        page.wait_for_status("reconnecting")
    assert (
        pages[0]
        .eval("getComputedStyle(document.querySelector('.pill'), '::after').content")
        .startswith('"reconnecting')
    )
    demo.start()
    third = open_page()
    third.goto(demo.url + "/orders")
    third.wait_for_status("live")
    third.click("form.order button")
    for page in [*pages, third]:
        page.wait_for_status("live", 20)
        page.wait_for("document.querySelectorAll('#orders li').length === 2")
        page.wait_for_text("#count", "2")


def test_every_page_is_back_after_a_kill(demo: Server, open_page: Callable[[], Page]) -> None:
    paths = ["/spinner", "/clock", "/log"]
    pages = [open_page() for _ in paths]
    for page, path in zip(pages, paths, strict=True):
        page.goto(demo.url + path)
        page.wait_for_status("live")
        page.run(EAGER)
    demo.kill()
    for page in pages:
        page.wait_for_status("reconnecting")
    demo.start()
    for page in pages:
        page.wait_for_status("live", 20)
    pages[0].wait_for(counting("#data", 3))
    pages[1].wait_for_text("#time", ":")
    pages[2].wait_for("log.childElementCount > 3")


def test_a_document_and_a_streamed_template_are_shown_while_they_load_and_do_not_grow(
    demo: Server, page: Page
) -> None:
    for path, early, last in (("/hello", "[helo]", "o"), ("/template", r"\d+ [helo]", "49 o")):
        page.goto(demo.url + path)
        [nodes] = page.wait_for(
            f"/^{early}$/.test(data.textContent) && document.readyState === 'loading'"
            " && document.documentElement.dataset.live === 'live' && [document.body.querySelectorAll('*').length]"
        )
        page.wait_for_status("ended")
        page.wait_for("document.readyState === 'complete'")
        assert page.text("#data") == last
        assert page.eval("document.body.querySelectorAll('*').length") == nodes


def test_the_document_shows_its_progress_without_scripts(demo: Server, scriptless_page: Page) -> None:
    seen = f"(() => {{ {SHOWN} return [shown('data'), document.readyState] }})()"
    early = f"/^[helo],loading$/.test({seen}.join())"
    for _ in range(3):  # its five seconds may be over before it is looked at, on a busy machine
        scriptless_page.goto(demo.url + "/hello")
        if scriptless_page.wait_for(f"{early} ? 'seen' : {seen}[1] === 'complete' && 'over'") == "seen":
            break
    else:
        pytest.fail("nothing was shown while it was loading")
    scriptless_page.wait_for(f"{seen}[1] === 'complete'")
    assert scriptless_page.eval(seen) == ["o", "complete"]


def test_a_document_that_is_cut_says_so(demo: Server, page: Page) -> None:
    with FaultProxy(demo.port) as proxy:
        for path in ("/hello", "/template"):
            page.goto(proxy.url + path)
            page.wait_for_status("live")
            assert proxy.cut()
            page.wait_for_status("interrupted")
    page.goto(demo.url + "/hello")
    page.wait_for_status("live")
    demo.kill()
    page.wait_for_status("interrupted")


@pytest.mark.parametrize("sig", [signal.SIGINT, signal.SIGTERM])
def test_the_demo_ends_at_once_with_viewers(
    demo: Server, open_page: Callable[[], Page], sig: signal.Signals
) -> None:
    for path in ("/spinner", "/clock", "/orders"):
        page = open_page()
        page.goto(demo.url + path)
        page.wait_for_status("live")
    assert demo.stop(sig=sig) < 5.0  # 0.1 to 0.3 s where the machine is quiet; viewers would stay for hours
    page.wait_for_status("reconnecting")


def test_a_port_in_use_is_a_clear_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = subprocess.run(
            [sys.executable, "-m", "afterload.cli", "demo", "--port", str(port)],
            capture_output=True,
            text=True,
            timeout=20,
        )
    assert result.returncode == 1
    assert f"127.0.0.1:{port}" in result.stderr
    assert "in use" in result.stderr
    assert "Traceback" not in result.stderr


def test_pages_fit_a_phone(demo: Server, page: Page) -> None:
    page.resize(390, 700)
    for path in ("/", "/spinner", "/clock", "/progress", "/log", "/orders"):
        page.goto(demo.url + path)
        page.wait_for("document.readyState === 'complete'")  # with its style sheet
        assert page.eval("document.documentElement.scrollWidth <= innerWidth"), path
