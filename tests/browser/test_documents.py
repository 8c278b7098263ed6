"""Pages that stream themselves, in real browsers: painted while they load, and no larger for what was updated."""

from __future__ import annotations

import urllib.request

import pytest

from afterload.runs import FAILED
from afterload.testing import FaultProxy
from tests.browser.driver import Page
from tests.servers.process import Server, Servers

pytestmark = pytest.mark.server

PAINTED = "performance.getEntriesByName('first-contentful-paint').length"


@pytest.fixture(scope="module")
def server(module_servers: Servers) -> Server:
    return module_servers.gunicorn("tests.browser.documents_app:app")


def go(server: Server) -> None:
    urllib.request.urlopen(server.url + "/go", data=b"", timeout=10).close()


@pytest.mark.parametrize("wire", ["document", "template"])
def test_ten_thousand_updates_leave_no_node_behind(server: Server, page: Page, wire: str) -> None:
    page.goto(f"{server.url}/many/{wire}?count=1")
    page.wait_for_status("ended")
    nodes = page.eval(NODES)
    page.goto(f"{server.url}/many/{wire}?count=10000")
    page.wait_for_status("ended", timeout=30)
    assert page.text("#head") == "10000"
    assert page.eval(NODES) == nodes


# Of every kind, so that none hides as a text or a comment.
NODES = """(() => {
  const walker = document.createTreeWalker(document);
  let count = 0;
  while (walker.nextNode()) count++;
  return count;
})()"""


@pytest.mark.parametrize("path", ["/small/document", "/small/template"])
def test_a_small_page_is_painted_with_its_first_bytes(server: Server, page: Page, path: str) -> None:
    page.goto(server.url + path)
    page.wait_for(PAINTED)
    assert page.eval("document.readyState") == "loading"
    go(server)
    page.wait_for_status("ended")


NOTICE = "(e => e && e.getClientRects().length ? e.textContent : '')(document.querySelector('#af-failed'))"


def test_a_reader_sees_that_it_has_failed(server: Server, page: Page) -> None:
    page.goto(server.url + "/failing")
    page.wait_for_text("#head", "before")
    assert page.eval(NOTICE) == ""
    go(server)
    page.wait_for_status("failed")
    assert page.eval(NOTICE) == FAILED


def test_a_reader_sees_that_it_was_cut(server: Server, page: Page) -> None:
    with FaultProxy(server.port) as proxy:
        page.goto(proxy.url + "/steps")
        page.wait_for_status("live")
        proxy.cut()
        page.wait_for_status("interrupted")
        assert page.eval(NOTICE) == "The connection was lost. Load this page again."


def test_a_page_may_say_so_itself(server: Server, page: Page) -> None:
    page.goto(server.url + "/watched")
    page.wait_for_text("#head", "before")
    go(server)
    page.wait_for_status("failed")
    assert page.eval("document.querySelector('#af-failed')") is None


def test_a_page_of_channels_is_back_when_its_server_is(servers: Servers, page: Page) -> None:
    own = servers.gunicorn("tests.browser.documents_app:app", env={"RETRY": "1000"})
    page.goto(own.url + "/channel")
    page.wait_for_status("live")
    page.run("window.before = 1")
    own.stop()
    page.wait_for_status("interrupted")
    page.run("window.asked = 0; const ask = fetch; window.fetch = (...a) => { asked++; return ask(...a) }")
    page.wait_for("asked > 0")  # and nobody has answered
    assert page.eval("before") == 1
    own.start()
    page.wait_for("!window.before && document.documentElement.dataset.live === 'live'", timeout=30)
