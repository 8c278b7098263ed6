"""Fixtures for tests in a real browser: ``page`` is a fresh tab, ``open_page()`` opens further ones."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.browser.driver import Browser, Chromium, ConsoleEntry, NotInstalledError, Page
from tests.evidence import add_evidence

HERE = Path(__file__).parent
OUTPUT = HERE.parents[1] / "test-output"


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """The browser all tests of this session share."""
    try:
        started = Chromium()
    except NotInstalledError as reason:
        pytest.skip(str(reason))
    yield started
    started.quit()


class Console(list[ConsoleEntry]):
    """What the pages of one test have logged, as a list that ``read`` brings up to date.

    Attributes:
        errors_expected: Set to true by a test whose page is meant to throw.
    """

    def __init__(self, browser: Browser) -> None:
        super().__init__()
        self.errors_expected = False
        self._browser = browser

    def read(self) -> list[ConsoleEntry]:
        self.extend(self._browser.console())
        return self

    def errors(self) -> list[ConsoleEntry]:
        """The errors that nothing in a page caught."""
        return [entry for entry in self.read() if entry.source == "javascript" and entry.level == "SEVERE"]


@pytest.fixture
def console(browser: Browser) -> Iterator[Console]:
    """The console of this test; an uncaught error in a page fails the test unless it is expected."""
    browser.console()  # what came after the end of the test before
    console = Console(browser)
    yield console
    errors = console.errors()
    if errors and not console.errors_expected:
        pytest.fail("a page threw: " + "\n".join(entry.text for entry in errors))


@pytest.fixture
def open_page(
    request: pytest.FixtureRequest, browser: Browser, console: Console
) -> Iterator[Callable[[], Page]]:
    """Opens a further tab at each call; all are closed after the test."""
    browser.forget()
    pages: list[Page] = []

    def open_() -> Page:
        page = Page(browser)
        pages.append(page)
        number = len(pages)
        add_evidence(request.node, f"page {number}", lambda: f"{page.describe()}\n{screenshot(page, number)}")
        return page

    def screenshot(page: Page, number: int) -> str:
        OUTPUT.mkdir(exist_ok=True)
        name = re.sub(r"[^A-Za-z0-9_.-]+", "-", request.node.nodeid.removeprefix("tests/browser/")).strip("-")
        path = OUTPUT / f"{name}-{number}.png"
        path.write_bytes(page.png())
        return f"screenshot: {path}"

    add_evidence(
        request.node,
        "console",
        lambda: "\n".join(f"{entry.level} {entry.source}: {entry.text}" for entry in console.read()),
    )
    yield open_
    console.read()
    for page in pages:
        page.close()


@pytest.fixture
def page(open_page: Callable[[], Page]) -> Page:
    """A fresh tab."""
    return open_page()
