"""Fixtures for tests in real browsers: ``page`` is a fresh tab, ``open_page()`` opens further ones.

Each such test runs in every browser; ``-k firefox`` chooses one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.browser.chromium import Chromium
from tests.browser.driver import Browser, ConsoleEntry, NotInstalledError, Page
from tests.browser.firefox import Firefox
from tests.browser.webkit import WebKit
from tests.evidence import add_evidence

HERE = Path(__file__).parent
OUTPUT = HERE.parents[1] / "test-output"

BROWSERS: dict[str, type[Browser]] = {kind.name: kind for kind in (Chromium, Firefox, WebKit)}


@pytest.fixture(scope="session", params=list(BROWSERS))
def browser(request: pytest.FixtureRequest) -> Iterator[Browser]:
    """The browser all tests of this session share, one after the other."""
    yield from started(request.param)


@pytest.fixture(scope="session", params=list(BROWSERS))
def scriptless(request: pytest.FixtureRequest) -> Iterator[Browser]:
    """A browser whose pages run no scripts (``Page.eval`` works all the same)."""
    yield from started(request.param, scripts=False)


def started(name: str, *, scripts: bool = True) -> Iterator[Browser]:
    try:
        browser = BROWSERS[name](scripts=scripts)
    except NotInstalledError as reason:
        pytest.skip(str(reason))
    yield browser
    browser.quit()


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

    def refused(self) -> list[str]:
        """What a policy of a page did not allow, but for the icon that browsers ask for by themselves."""
        texts = [entry.text for entry in self.read()]
        words = re.compile(r"content.security.policy|trusted.?type", re.IGNORECASE)
        return [text for text in texts if words.search(text) and "favicon" not in text]


@pytest.fixture
def console(browser: Browser) -> Iterator[Console]:
    """The console of this test; an uncaught error in a page fails the test unless it is expected."""
    yield from watched(browser)


def watched(browser: Browser) -> Iterator[Console]:
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
    yield from opener(request.node, browser, console)


def opener(node: pytest.Item, browser: Browser, console: Console) -> Iterator[Callable[[], Page]]:
    browser.forget()
    pages: list[Page] = []

    def open_() -> Page:
        page = Page(browser)
        pages.append(page)
        number = len(pages)
        add_evidence(node, f"page {number}", lambda: f"{page.describe()}\n{screenshot(page, number)}")
        return page

    def screenshot(page: Page, number: int) -> str:
        OUTPUT.mkdir(exist_ok=True)
        name = re.sub(r"[^A-Za-z0-9_.-]+", "-", node.nodeid.removeprefix("tests/browser/")).strip("-")
        path = OUTPUT / f"{name}-{number}.png"
        path.write_bytes(page.png())
        return f"screenshot: {path}"

    add_evidence(
        node,
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


@pytest.fixture
def open_scriptless(request: pytest.FixtureRequest, scriptless: Browser) -> Iterator[Callable[[], Page]]:
    """Opens a further tab, in a browser whose pages run no scripts, at each call."""
    for console in watched(scriptless):
        yield from opener(request.node, scriptless, console)


@pytest.fixture
def scriptless_page(open_scriptless: Callable[[], Page]) -> Page:
    """A fresh tab of a browser whose pages run no scripts."""
    return open_scriptless()
