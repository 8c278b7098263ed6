"""Pages that stream themselves, in real browsers: painted while they load, and no larger for what was updated."""

from __future__ import annotations

import urllib.request

import pytest

from tests.browser.driver import Page
from tests.servers.process import Server, Servers

pytestmark = pytest.mark.server

PAINTED = "performance.getEntriesByName('first-contentful-paint').length"


@pytest.fixture(scope="module")
def server(module_servers: Servers) -> Server:
    return module_servers.gunicorn("tests.browser.documents_app:app")


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
    urllib.request.urlopen(server.url + "/go", data=b"", timeout=10).close()
    page.wait_for_status("ended")
