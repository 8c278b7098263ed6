"""Every example under a real gunicorn, in a real browser."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.browser.driver import Page
from tests.browser.fixtures import Console
from tests.browser.test_client import EAGER
from tests.examples.mounted import NAMES
from tests.servers.process import Server, Servers

pytestmark = pytest.mark.server

TIME = r"/^\d\d:\d\d:\d\d$/.test(document.querySelector('#time').textContent)"
COUNTS = "Number(document.querySelector('#data').textContent.split(' ')[1]) > 3"


@pytest.fixture(scope="module")
def server(module_servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Server:
    folder = tmp_path_factory.mktemp("databases")
    env = {name.upper(): str(folder / f"{name}.sqlite") for name in ("board", "orders", "stock")}
    return module_servers.gunicorn("tests.examples.mounted:app", env=env)


def _private(page: Page) -> None:
    page.wait_for(COUNTS)
    page.wait_for_status("live")


def _clock(page: Page) -> None:
    page.wait_for(TIME)
    page.wait_for("Number(document.querySelector('#viewers').textContent) === 1")


def _progress(page: Page) -> None:
    page.wait_for_text("#result", "The sum of 50 dice is", timeout=20)
    page.wait_for_status("ended")
    page.click("button")
    page.wait_for(
        "(bar => bar > 0 && bar < 50)(document.querySelector('#bar').value)"
        " && document.querySelector('#result').textContent === ''"
    )


def _jobs(page: Page) -> None:
    page.click("button")
    page.wait_for("document.querySelector('#bar')?.value > 2")
    page.reload()  # it goes on
    page.wait_for_text("#result", "42 of 50 lines are addresses.", timeout=20)
    page.wait_for_status("ended")
    assert page.text("#bar-text").startswith("50 of 50 · ")
    assert page.eval("document.querySelector('#bar').value === document.querySelector('#bar').max")
    assert page.eval("getComputedStyle(document.querySelector('#cancel')).display") == "none"
    page.click("a")
    page.wait_for("document.querySelector('textarea')")
    page.run("document.querySelector('textarea').value = 'user@example.org\\n'.repeat(1000)")
    page.click("button")
    page.wait_for("document.querySelector('#bar')?.value > 0")
    page.submit("#cancel button")
    page.wait_for_text("#notice", "It was cancelled.")
    page.wait_for_status("ended")
    assert page.text("#result") == ""


def _log(page: Page) -> None:
    page.wait_for("document.querySelectorAll('#log > div').length > 20")
    page.wait_for("document.querySelector('#log').textContent.includes('<anonymous>')")
    at_end = "(e => e.scrollHeight - e.scrollTop - e.clientHeight < 2)(document.querySelector('#log'))"
    page.wait_for(f"document.querySelector('#log').scrollTop > 0 && {at_end}")


def _anywhere(page: Page) -> None:
    page.wait_for(TIME)
    page.wait_for("!isNaN(document.querySelector('#degrees').textContent)")
    page.type("input", "<hello>")
    page.click("button")
    page.wait_for_text("#note", "<hello>")


def _orders(page: Page) -> None:
    page.wait_for_status("live")
    count = int(page.text("#count"))  # other browsers have been here
    page.type("input", "<tea>")
    page.submit("button")
    page.wait_for_text("#orders li:last-child", "<tea>")
    page.wait_for_text("#count", str(count + 1))
    page.wait_for_status("live")


def _tokens(page: Page) -> None:
    page.wait_for_text("#answer", "the answer is: <maybe>.")
    page.wait_for_status("ended")


def _bare(page: Page) -> None:
    page.wait_for(COUNTS)
    assert not page.eval("'live' in document.documentElement.dataset")


def _status(page: Page) -> None:
    page.wait_for("document.querySelector('#status').textContent === 'live'")
    page.run("document.querySelectorAll('button')[0].click()")
    page.wait_for_text("#status", "not following any more")
    page.run("document.querySelectorAll('button')[1].click()")
    page.wait_for("document.querySelector('#status').textContent === 'live'")


def _login(page: Page) -> None:
    page.type("input", "ann")
    page.click("button")
    page.wait_for_status("live")
    page.type("[name=text]", "hello")
    page.submit("[name=text] ~ button")
    page.wait_for_text("#to-all", "ann: hello")
    page.click("button")
    page.wait_for("location.pathname.endsWith('/login')")


def _failing(page: Page) -> None:
    page.wait_for_status("failed")
    assert page.text("#share").startswith("1/")
    assert "Something went wrong" in page.text("#notice")


def _csp(page: Page) -> None:
    page.wait_for(TIME)
    page.wait_for_status("live")


def _hello(page: Page) -> None:
    page.wait_for_status("ended")
    assert page.text("#data") == "o"
    assert "That was all." in page.text("body")


def _report(page: Page) -> None:
    page.click("button")
    page.wait_for_status("ended")
    assert page.text("#result") == "The sum of the squares is 385."
    assert page.eval("document.querySelector('#bar').value") == 10


def _template(page: Page) -> None:
    page.wait_for(
        "parseInt(document.querySelector('#data').textContent) > 0 && document.readyState === 'loading'"
    )
    page.wait_for_status("ended", timeout=20)
    assert page.text("#data") == "49 o"
    assert "That was all." in page.text("body")


def _board(page: Page) -> None:
    page.wait_for(TIME)
    page.wait_for(r"/^tick \d+ of process \d+$/.test(document.querySelector('#runner').textContent)")
    page.wait_for_text("#watching", "1")
    page.type("input", "<tea>")
    page.click("button")
    page.wait_for_text("#bar li", "<tea>")
    page.wait_for_status("live")


def _stock(page: Page) -> None:
    page.wait_for_status("live")
    left = int(page.text("#count-tea"))  # as above
    for count in (left - 1, left - 2):
        page.submit("#count-tea ~ button")
        page.wait_for_text("#count-tea", str(count))
    page.wait_for_status("live")


def _wall(page: Page) -> None:
    page.wait_for_status("live")
    written = "document.querySelectorAll('#notes li').length"
    before = page.eval(written)
    for note in ("<one>", "two"):
        before += 1
        page.type("input", note)
        page.submit("button")
        page.wait_for(f"{written} === {before}")
        page.wait_for_text("#notes li:last-child", note)
        page.wait_for(TIME.replace("#time", "#last"))
    page.wait_for_status("live")


CHECKS: dict[str, Callable[[Page], None]] = {
    "anywhere": _anywhere,
    "bare": _bare,
    "board": _board,
    "clock": _clock,
    "csp": _csp,
    "failing": _failing,
    "hello": _hello,
    "report": _report,
    "jobs": _jobs,
    "log": _log,
    "login": _login,
    "orders": _orders,
    "progress": _progress,
    "spinner": _private,
    "spinner_async": _private,
    "status": _status,
    "stock": _stock,
    "template": _template,
    "tokens": _tokens,
    "wall": _wall,
}


def stats(server: Server, name: str) -> dict[str, Any]:
    with urllib.request.urlopen(f"{server.url}/stats/{name}", timeout=5) as response:
        found: dict[str, Any] = json.load(response)
        return found


@pytest.mark.parametrize("name", NAMES)
def test_the_page_does_what_its_how_to_says(name: str, server: Server, page: Page, console: Console) -> None:
    page.goto(f"{server.url}/{name}/")
    CHECKS[name](page)
    # A page that follows holds no thread of the server.
    counted = stats(server, name)
    assert counted["handovers"] > 0
    assert "fallbacks" not in counted
    assert counted["errors"] == 0
    assert console.refused() == []


EXAMPLES = Path(__file__).parents[2] / "examples"
# The three known ways to follow a loop: an endless stream, a streamed document, a streamed template.
WAYS = ("spinner", "hello", "template")


@pytest.fixture(scope="module")
def development_servers(module_servers: Servers) -> dict[str, Server]:
    return {name: module_servers.werkzeug(f"examples.{name}") for name in WAYS}


def test_the_three_ways_under_flask_run(
    development_servers: dict[str, Server], open_page: Callable[[], Page]
) -> None:
    pages = {name: open_page() for name in WAYS}
    for name, page in pages.items():
        page.goto(development_servers[name].url)
    for name, page in pages.items():
        seen = page.wait_for(
            "(({ live }) => live && [live, document.readyState])(document.documentElement.dataset)"
        )
        assert name == "spinner" or "loading" in seen or "ended" in seen
    pages["spinner"].wait_for(COUNTS)
    for name, last in (("hello", "o"), ("template", "49 o")):
        pages[name].wait_for_status("ended", timeout=20)
        assert pages[name].text("#data") == last
        assert "That was all." in pages[name].text("body")


def test_the_three_ways_are_short() -> None:
    for name in WAYS:
        assert len((EXAMPLES / f"{name}.py").read_text("utf-8").splitlines()) < 25
        assert len((EXAMPLES / f"templates/{name}.html").read_text("utf-8").splitlines()) < 15


def test_every_example_is_looked_at() -> None:
    assert sorted(CHECKS) == NAMES


def test_orders_are_right_after_a_restart_and_what_was_typed_is_still_there(
    servers: Servers, page: Page, tmp_path: Path
) -> None:
    database = tmp_path / "orders.sqlite"
    server = servers.gunicorn("examples.orders:app", env={"ORDERS": str(database)})
    page.goto(server.url)
    page.wait_for_status("live")
    urllib.request.urlopen(server.url, data=b"thing=tea", timeout=10).close()
    page.wait_for_text("#orders", "tea")
    page.type("input", "half a wo")
    page.run(EAGER)
    server.kill()
    page.wait_for_status("reconnecting")
    with contextlib.closing(sqlite3.connect(database)) as db, db:
        db.execute("insert into orders (thing) values ('ordered meanwhile')")
    server.start()
    page.wait_for_text("#orders", "ordered meanwhile", timeout=20)
    page.wait_for_text("#count", "2")
    page.wait_for_status("live")
    assert page.eval("document.querySelector('input').value") == "half a wo"
    assert page.eval("document.querySelectorAll('#orders li').length") == 2
