"""The harness itself, in a real browser."""

from __future__ import annotations

import pytest

from tests.browser.driver import ScriptError, WaitError
from tests.servers.process import wait_until

APP = """
from flask import Flask, Response, request
app = Flask(__name__)

@app.get("/")
def index():
    seen = request.cookies.get("seen", "never")
    page = f"<!doctype html><p id=p>seen {seen}</p><input id=i><button onclick='p.textContent=1'>b"
    return page, {"Set-Cookie": "seen=before"}

@app.get("/script")
def script():
    shown = "<!doctype html><p id=p onclick='p.textContent=2'>0</p><noscript><b>none</b></noscript>"
    return shown + "<script>p.textContent=1</script>"

@app.get("/endless")
def endless():
    def parts():
        yield "<!doctype html><title>endless</title><p id=first>first" + " " * 512  # less is not shown by WebKit
        import time
        time.sleep(20)
    return Response(parts())
"""


@pytest.fixture
def url(servers, tmp_path):
    (tmp_path / "plain.py").write_text(APP)
    return servers.gunicorn("plain:app", "--graceful-timeout", "0", cwd=tmp_path).url


@pytest.mark.parametrize("turn", [1, 2])
def test_each_test_gets_a_tab_without_the_cookies_of_the_one_before(page, url, turn):
    page.goto(url)
    page.wait_for_text("#p", "seen never")
    page.reload()
    page.wait_for_text("#p", "seen before")


def test_goto_does_not_wait_for_a_page_that_never_finishes(page, url):
    page.goto(url + "/endless")
    page.wait_for_text("#first", "first")
    assert page.eval("document.readyState") == "loading"


def test_after_goto_and_back_the_old_document_answers_no_more(page, url):
    page.goto(url)
    page.run("window.old = 1")
    page.goto(url + "/?2")
    assert page.eval("window.old") is None
    page.back()
    assert page.eval("location.search") == ""


def test_a_person_types_and_clicks(page, url):
    page.goto(url)
    page.type("#i", "word")
    page.click("button")
    page.resize(400, 600)
    assert page.eval("[i.value, p.textContent, innerWidth]") == ["word", "1", 400]
    assert page.png().startswith(b"\x89PNG")


def test_two_tabs_are_told_apart(page, open_page, url):
    other = open_page()
    page.goto(url + "/?one")
    other.goto(url + "/?two")
    assert [page.eval("location.search"), other.eval("location.search")] == ["?one", "?two"]
    assert [page.eval("document.hidden"), other.eval("document.hidden")] == [False, False]


def test_a_page_that_runs_scripts_has_no_use_for_noscript(page, url):
    page.goto(url + "/script")
    page.wait_for_text("#p", "1")
    assert page.eval("document.querySelector('b')") is None


def test_a_browser_without_scripts_shows_noscript_and_can_be_looked_at(scriptless_page, url):
    page = scriptless_page
    for _ in range(2):
        page.goto(url + "/script")
        page.wait_for_text("b", "none")
        page.click("#p")
        assert page.text("#p") == "0"
    page.goto(url + "/endless")
    page.wait_for_text("#first", "first")
    assert page.eval("document.readyState") == "loading"
    assert page.png().startswith(b"\x89PNG")


def test_wait_for_says_what_it_saw_instead(page, url):
    page.goto(url)
    with pytest.raises(WaitError, match=r"(?s)never.*last seen: False.*seen never"):
        page.wait_for("p.textContent === 'never'", timeout=0.2)
    with pytest.raises(WaitError, match=r"last seen: ScriptError.*nothingOfThatName"):
        page.wait_for("nothingOfThatName", timeout=0.2)
    with pytest.raises(ScriptError, match="nothingOfThatName"):
        page.eval("nothingOfThatName")


def test_the_console_shows_warnings_and_what_nothing_caught(page, console, url):
    page.goto(url)
    page.run("console.warn('watch out'); setTimeout(() => { throw new Error('uncaught one') })")
    wait_until(console.errors, 5, "the error in the console")
    assert any(entry.level == "WARNING" and "watch out" in entry.text for entry in console)
    assert "uncaught one" in console.errors()[0].text
    console.errors_expected = True
