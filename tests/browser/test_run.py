"""The page of ``afterload run`` as a viewer sees it."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.browser.driver import Page
from tests.servers.process import Server, Servers

pytestmark = pytest.mark.server

STEPS = r"""
import pathlib, sys, time
def until(name):
    while not pathlib.Path(sys.argv[1], name).exists():
        time.sleep(0.02)
print("\x1b[1;32mready\x1b[0m")
for n in range(1, 101):
    print(f"\r{n:3d}%|{'#' * (n // 10):10}|", end="", flush=True)
    if n == 40:
        until("bar")
print("\n</script><img src=x onerror=window.owned=1>")
print("\x1b]0;owned\x07\x1b]8;;javascript:window.owned=1\x1b\\a link\x1b]8;;\x1b\\", flush=True)
until("end")
for n in range(100):
    print("line", n)
sys.exit(3)
"""


def start(servers: Servers, *arguments: str) -> Server:
    return servers.module(
        "afterload.cli", "run", "--port", "{port}", "--quiet", *arguments, ready="afterload run: http"
    )


def test_two_viewers_see_a_bar_move_in_place_and_the_end(
    servers: Servers, open_page: Callable[[], Page], tmp_path: Path
) -> None:
    server = start(servers, "--", sys.executable, "-c", STEPS, str(tmp_path))
    first, second = open_page(), open_page()
    first.goto(server.url)
    first.wait_for("document.querySelector('#s1-1').textContent.startsWith(' 40%')")
    assert first.eval("getComputedStyle(document.querySelector('#s1-0 span')).fontWeight") == "700"
    first.run("window.bar = document.querySelector('#s1-1')")
    second.goto(server.url)
    second.wait_for("document.querySelector('#s1-1').textContent.startsWith(' 40%')")
    (tmp_path / "bar").touch()
    for page in (first, second):
        page.wait_for("document.querySelector('#s1-1').textContent === '100%|##########|'")
        page.wait_for("document.querySelector('#s1-3').textContent === 'a link'")
        assert page.text("#s1-2") == "</script><img src=x onerror=window.owned=1>"
        assert page.eval("document.querySelectorAll('#log img, #log a, #log script').length") == 0
    assert first.eval("window.bar === document.querySelector('#s1-1')")
    (tmp_path / "end").touch()
    for page in (first, second):
        page.wait_for_status("failed")
        assert page.text("#result").startswith("exit status 3 after ")
        assert page.eval("document.title").startswith("✗ exit status 3 · ")
        assert page.eval("window.owned === undefined")
        assert page.text("#past .row:first-child") == "ready"


def test_a_late_viewer_sees_what_an_early_one_saw(servers: Servers, open_page: Callable[[], Page]) -> None:
    server = start(servers, "--lines", "500", "--", "seq", "1", "300")
    pages = [open_page(), open_page()]
    for page in pages:
        page.goto(server.url)
        page.wait_for_status("ended")
        shown = page.eval("[...document.querySelectorAll('.row')].map(r => r.textContent).filter(Boolean)")
        assert shown == [str(n) for n in range(1, 301)]
        assert page.eval(
            "(l => l.scrollHeight - l.scrollTop - l.clientHeight < 2)(document.querySelector('#log'))"
        )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_end_is_shown_however_it_ends(servers: Servers, page: Page, number: signal.Signals) -> None:
    server = start(servers, "--", "sh", "-c", "while :; do echo line; sleep 0.05; done")
    page.goto(server.url)
    page.wait_for_status("live")
    page.wait_for("document.querySelector('#s1-0').textContent === 'line'")
    server.stop(sig=number)
    page.wait_for_status("failed")
    assert page.text("#result").startswith(f"ended by {number.name} after ")


def test_error_output_is_told_apart(servers: Servers, page: Page) -> None:
    server = start(servers, "--no-pty", "--", "sh", "-c", "echo out; echo err >&2")
    page.goto(server.url)
    page.wait_for_status("ended")
    assert page.text("#past .err") == "err"
    assert page.text("#past .row:not(.err)") == "out"
    border = "getComputedStyle(document.querySelector('#past .err')).borderLeftStyle"
    assert page.eval(border) == "solid"


def test_it_fits_a_phone(servers: Servers, page: Page) -> None:
    server = start(servers, "--", "sh", "-c", "printf '%0300d\\n' 0")
    page.resize(375, 667)
    page.goto(server.url)
    page.wait_for_status("ended")
    assert page.eval("document.documentElement.scrollWidth <= innerWidth")
    assert page.eval("(l => l.scrollWidth <= l.clientWidth)(document.querySelector('#log'))")
