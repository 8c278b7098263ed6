"""Pages that were painted with a state, in browsers: they go on from it, and are right whatever becomes of it."""

from __future__ import annotations

import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.browser.driver import Page
from tests.browser.test_client import EAGER
from tests.servers.process import Server, Servers

pytestmark = pytest.mark.server

LINES = "[...document.querySelectorAll('#log li')].map((line) => line.textContent).join()"
ERRORS = "[...document.querySelectorAll('#errors li')].map((line) => line.textContent).join()"


@pytest.fixture
def server(servers: Servers) -> Server:
    return servers.gunicorn("tests.browser.painted_app:app")


def post(server: Server, path: str) -> None:
    urllib.request.urlopen(f"{server.url}{path}", data=b"", timeout=10).close()


def served(server: Server, path: str) -> str:
    with urllib.request.urlopen(f"{server.url}{path}", timeout=10) as answer:
        found: str = answer.read().decode()
        return found


def test_a_page_goes_on_from_what_it_was_painted_with(server: Server, open_page: Callable[[], Page]) -> None:
    first, late = open_page(), open_page()
    first.goto(f"{server.url}/all")
    first.wait_for_status("live")
    for _ in range(2):
        post(server, "/more")
    first.wait_for(f"{LINES} === '1,2'")
    assert "<p id=count>2</p><ul id=log><li>1</li><li>2</li></ul>" in served(server, "/all")
    late.goto(f"{server.url}/all")
    late.wait_for_status("live")
    assert late.eval(LINES) == "1,2"
    post(server, "/more")
    for page in (first, late):
        page.wait_for(f"{LINES} === '1,2,3'")
        page.wait_for_text("#count", "3")


def test_a_page_that_shows_some_of_a_loops_state_is_right_after_it_has_fetched_itself(
    server: Server, open_page: Callable[[], Page]
) -> None:
    first, late = open_page(), open_page()
    first.goto(f"{server.url}/some")
    first.wait_for_status("live")
    post(server, "/more")
    first.wait_for(f"{LINES} === '1' && {ERRORS} === '1'")
    late.goto(f"{server.url}/some")
    late.wait_for(f"{ERRORS} === '1'", timeout=20)
    post(server, "/more")
    for page in (first, late):
        page.wait_for(f"{LINES} === '1,2' && {ERRORS} === '1,2'")


def test_another_run_takes_away_what_an_earlier_one_was_painted_with(
    server: Server, open_page: Callable[[], Page]
) -> None:
    first, late = open_page(), open_page()
    first.goto(f"{server.url}/all")
    first.wait_for_status("live")
    post(server, "/more")
    first.wait_for(f"{LINES} === '1'")
    late.goto(f"{server.url}/all")
    late.wait_for_status("live")
    assert late.eval(LINES) == "1"
    post(server, "/anew")
    for page in (first, late):
        page.wait_for(f"{LINES} === ''", timeout=20)
        page.wait_for_text("#count", "0")
    post(server, "/more")
    for page in (first, late):
        page.wait_for(f"{LINES} === '1'")


def test_a_painted_page_comes_back_after_a_restart_with_what_its_snapshot_source_says(
    servers: Servers, page: Page, tmp_path: Path
) -> None:
    server = servers.gunicorn("examples.stock:app", env={"STOCK": str(tmp_path / "stock.sqlite")})
    page.goto(server.url)
    page.wait_for_status("live")
    page.run(EAGER)
    server.kill()
    page.wait_for_status("reconnecting")
    server.start()
    post(server, "/take/tea")
    page.wait_for_text("#count-tea", "49", timeout=20)
    page.wait_for_status("live")
    assert page.eval("document.querySelectorAll('#stock li').length") == 3
    post(server, "/take/tea")
    page.wait_for_text("#count-tea", "48")
