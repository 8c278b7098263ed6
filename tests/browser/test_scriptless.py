"""Documents where scripts do not run: by `<template for>` where a browser has it, by style sheets elsewhere."""

from __future__ import annotations

import urllib.request
from collections.abc import Callable
from typing import Any

import pytest

from afterload.testing import FaultProxy
from tests.browser.driver import Page
from tests.browser.test_hostile import SHOWN
from tests.servers.process import Server, Servers

pytestmark = pytest.mark.server

NATIVE = "'htmlFor' in HTMLTemplateElement.prototype"
LOADING = "document.readyState === 'loading'"


@pytest.fixture(scope="module")
def shared_server(module_servers: Servers) -> Server:
    return module_servers.gunicorn("tests.browser.documents_app:app")


@pytest.fixture
def server(shared_server: Server) -> Server:
    """The server all tests share; what one told it, the next one does not see."""
    shared_server.restart(kill=True)
    return shared_server


def go(server: Server) -> None:
    urllib.request.urlopen(server.url + "/go", data=b"", timeout=10).close()


def shown(page: Page, *names: str) -> list[Any]:
    seen: list[Any] = page.run(
        SHOWN + "return arguments[0].map(shown).map((text) => text.replace(/\\s+/g, ' ').trim())", list(names)
    )
    return seen


def wait_shown(page: Page, name: str, text: str, timeout: float = 10.0) -> None:
    page.wait_for(f"(() => {{ {SHOWN} return shown({name!r}) === {text!r} }})()", timeout)


def is_displayed(page: Page, selector: str) -> bool:
    return bool(
        page.eval(f"(e => !!e && e.getClientRects().length > 0)(document.querySelector({selector!r}))")
    )


def test_each_step_is_shown_while_the_page_is_loading(server: Server, scriptless_page: Page) -> None:
    page = scriptless_page
    page.goto(server.url + "/steps")
    page.wait_for("document.querySelector('#af-more')")
    assert shown(page, "head", "rows", "bar") == ["nothing yet", "row 0", ""]
    first = page.png()
    go(server)
    wait_shown(page, "head", "one <b>")
    assert shown(page, "rows", "log") == ["row 0 row 1", "line 0"] or shown(page, "rows") == ["row 0row 1"]
    assert page.eval(LOADING)
    assert page.png() != first  # it is to be seen, too
    go(server)
    wait_shown(page, "head", "two")
    assert "line 2" in shown(page, "log")[0]
    assert "60%" in page.eval("getComputedStyle(document.querySelector('#bar')).backgroundImage")
    go(server)
    wait_shown(page, "box", "three")
    assert shown(page, "cell") == ["three"]
    assert page.eval("document.querySelector('#box i') !== null") is page.eval(NATIVE)
    assert not is_displayed(page, "#gone")
    assert page.eval(LOADING)
    assert is_displayed(page, "#af-more")
    go(server)
    page.wait_for("document.readyState === 'complete'")
    assert not is_displayed(page, "#af-more")
    assert is_displayed(page, "#tail")
    assert shown(page, "head", "box", "cell") == ["two", "three", "three"]


def test_what_was_there_takes_no_room(server: Server, scriptless_page: Page) -> None:
    page = scriptless_page
    page.goto(server.url + "/steps")
    page.wait_for("document.querySelector('#af-more')")
    height = page.eval("document.querySelector('#head').getBoundingClientRect().height")
    go(server)
    wait_shown(page, "head", "one <b>")
    assert page.eval("document.querySelector('#head').getBoundingClientRect().height") == height


def test_a_shared_loop_is_shown_to_each_from_where_it_is(
    server: Server, scriptless_page: Page, open_scriptless: Callable[[], Page]
) -> None:
    scriptless_page.goto(server.url + "/shared")
    scriptless_page.wait_for("document.querySelector('#af-more')")
    go(server)
    wait_shown(scriptless_page, "head", "one <b>")
    late = open_scriptless()
    late.goto(server.url + "/shared")
    wait_shown(late, "head", "one <b>")
    assert "row 1" in shown(late, "rows")[0]
    go(server)
    for page in (scriptless_page, late):
        wait_shown(page, "head", "two")
        assert page.eval(LOADING)
    go(server)
    go(server)
    for page in (scriptless_page, late):
        page.wait_for("document.readyState === 'complete'")
        # It is over, and nothing is left that would have it begin anew.
        assert page.eval("document.querySelector('meta[http-equiv]')") is None
        assert not is_displayed(page, "#af-more")


def test_a_page_of_channels_that_was_cut_is_loaded_again(server: Server, scriptless_page: Page) -> None:
    def publish(news: str) -> None:
        urllib.request.urlopen(server.url + "/news", data=news.encode(), timeout=10).close()

    with FaultProxy(server.port) as proxy:
        scriptless_page.goto(proxy.url + "/channel")
        scriptless_page.wait_for("document.querySelector('#af-more')")
        publish("one")
        wait_shown(scriptless_page, "head", "one")
        proxy.cut()
        publish("two")
        wait_shown(scriptless_page, "head", "two", timeout=20)
        publish("three")
        wait_shown(scriptless_page, "head", "three")


def test_a_page_of_its_own_that_was_cut_does_not_look_complete(server: Server, scriptless_page: Page) -> None:
    page = scriptless_page
    with FaultProxy(server.port) as proxy:
        page.goto(proxy.url + "/steps")
        page.wait_for("document.querySelector('#af-more')")
        go(server)
        wait_shown(page, "head", "one <b>")
        proxy.cut()
        page.wait_for("document.readyState === 'complete'")
        assert is_displayed(page, "#af-more")


def test_a_loop_that_failed_says_so(server: Server, scriptless_page: Page) -> None:
    page = scriptless_page
    page.goto(server.url + "/failing")
    wait_shown(page, "head", "before")
    go(server)
    page.wait_for("document.readyState === 'complete'")
    assert shown(page, "af-failed")[0].startswith("Something went wrong")
    assert "secret" not in page.describe()
    assert not is_displayed(page, "#af-more")


def test_under_a_strict_policy(server: Server, scriptless_page: Page) -> None:
    scriptless_page.goto(server.url + "/strict")
    wait_shown(scriptless_page, "head", "one <b>")
    assert is_displayed(scriptless_page, "#af-more")
    go(server)
    scriptless_page.wait_for("document.readyState === 'complete'")
    assert not is_displayed(scriptless_page, "#af-more")


def test_it_shows_nothing_where_scripts_run(server: Server, page: Page) -> None:
    page.goto(server.url + "/steps")
    page.wait_for_status("live")
    nodes = page.eval("document.body.querySelectorAll('*').length")
    for _ in range(4):
        go(server)
    page.wait_for_status("ended")
    assert page.text("#head") == "two"
    assert (
        page.eval("document.querySelectorAll('noscript, [id^=af-], af-p, style, div:not(#box)').length") == 0
    )
    assert page.eval("getComputedStyle(document.querySelector('#head'), '::before').content") == "none"
    # two rows and what they are in, and the text in the box and behind; but one is gone
    assert page.eval("document.body.querySelectorAll('*').length") == nodes + 3


def test_hundreds_of_updates_are_a_few_parts(server: Server, scriptless_page: Page) -> None:
    scriptless_page.goto(server.url + "/many/document?count=3000")
    scriptless_page.wait_for("document.readyState === 'complete'", timeout=20)
    assert shown(scriptless_page, "head") == ["3000"]
    assert scriptless_page.eval("document.querySelectorAll('style').length") < 100
