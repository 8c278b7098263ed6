"""Real browsers for tests: what a page is asked, apart from how one browser is asked it.

``Page`` is what a test works with: one tab, driven by script expressions and waited for by polling. It
rests on the few operations of ``Browser``, and each browser is one class that supplies these; a further
browser is a further class.

Four rules, each learnt from how streamed pages behave:

- The page load strategy is ``none``: a page that streams is "loading" for as long as it lives, so waiting
  for ``load`` would wait for ever. Instead, ``goto`` waits until the old document is gone, and the test
  waits for what it is about.
- Nothing sleeps for a fixed time. ``wait_for`` asks again and again, and says in the end what it last saw.
- One browser serves a whole session of tests (a start takes a second), but each test gets a fresh tab,
  without the cookies and caches of the one before; and an error that nothing caught in a page fails the
  test.
- No tab of a test is hidden, however many there are: a hidden page lets its stream go, and its timers are slow.
"""

from __future__ import annotations

import itertools
import json
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

#: A window a desktop user would have; tests that need a phone call ``Page.resize``.
WINDOW = (1000, 700)


class NotInstalledError(Exception):
    """The browser is not installed here."""


class ScriptError(Exception):
    """A script threw, or its document went away while it ran."""


class WaitError(AssertionError):
    """What ``wait_for`` waited for did not come; the message says what was there instead."""


@dataclass(frozen=True, slots=True)
class ConsoleEntry:
    """One line of the browser's console.

    Attributes:
        level: ``INFO``, ``WARNING`` or ``SEVERE``.
        source: ``console-api`` (a page logged it), ``javascript`` (nothing caught it), ``network``, …
        text: The message; some browsers put its place in the source before it.
    """

    level: str
    source: str
    text: str


# As WebDriver says: what is typed comes after what is there, unless the caret is already somewhere.
FOCUS = """
const e = document.querySelector(arguments[0]);
if (!e) throw Error("there is no " + arguments[0]);
if (document.activeElement !== e) {
    e.focus();
    try { e.setSelectionRange(e.value.length, e.value.length); } catch { /* it has no caret, or no text */ }
}
"""


class Browser(ABC):
    """What a browser must be able to do for ``Page``. A tab is named by an opaque handle.

    Args:
        scripts: Whether pages may run scripts. Where they may not, ``<noscript>`` counts, and a test can still
            look at the page by scripts of its own.

    Raises:
        NotInstalledError: It, or what drives it, is not installed.
    """

    name: ClassVar[str]

    #: Whether it keeps a page that was left, to show it again as it was (the back/forward cache). Firefox keeps none
    #: that has a request under way.
    keeps_pages: ClassVar[bool]
    #: Whether a document whose line is reset while it loads is replaced by a page of the browser's that says so.
    replaces_cut_documents: ClassVar[bool]

    @abstractmethod
    def __init__(self, *, scripts: bool = True) -> None: ...

    @abstractmethod
    def new_tab(self) -> str:
        """Open an empty tab and return its handle."""

    @abstractmethod
    def close_tab(self, tab: str) -> None:
        """Close a tab. The browser stays, even without tabs."""

    @abstractmethod
    def goto(self, tab: str, url: str) -> None:
        """Begin to load ``url``; return without waiting for it."""

    @abstractmethod
    def history(self, tab: str, action: str) -> None:
        """``back``, ``forward`` or ``refresh``, without waiting for it."""

    @abstractmethod
    def run(self, tab: str, script: str, *arguments: Any) -> Any:
        """Run the body of a function in the page and return its JSON value.

        Raises:
            ScriptError: It threw, or its document went away.
        """

    @abstractmethod
    def click(self, tab: str, selector: str) -> None:
        """Click on an element as a person does."""

    @abstractmethod
    def type(self, tab: str, selector: str, text: str) -> None:
        """Focus an element and press keys."""

    @abstractmethod
    def resize(self, tab: str, width: int, height: int) -> None:
        """Give the tab's viewport this size in CSS pixels."""

    @abstractmethod
    def png(self, tab: str) -> bytes:
        """A screenshot of the viewport."""

    @abstractmethod
    def offline(self, tab: str, offline: bool) -> None:
        """Tell a tab that the network is gone, or back, where the browser can be told; cut lines by a ``Relay``."""

    @abstractmethod
    def console(self) -> list[ConsoleEntry]:
        """The console entries of all tabs since the last call."""

    @abstractmethod
    def forget(self) -> None:
        """Drop cookies and caches."""

    @abstractmethod
    def quit(self) -> None:
        """End the browser and its driver."""


class Page:
    """One tab of a browser.

    Args:
        browser: The browser it opens in.
    """

    def __init__(self, browser: Browser) -> None:
        self.browser = browser
        self._tab = browser.new_tab()
        self._departures = itertools.count()

    def goto(self, url: str, timeout: float = 15.0) -> None:
        """Load ``url``, and return once the new document has begun (not: has loaded)."""
        self._leave(lambda: self.browser.goto(self._tab, url), url, timeout)

    def reload(self, timeout: float = 15.0) -> None:
        """Reload the page as its button does."""
        self._leave(lambda: self.browser.history(self._tab, "refresh"), "the reloaded page", timeout)

    def back(self, timeout: float = 15.0) -> None:
        """Go one step back in the tab's history."""
        self._leave(lambda: self.browser.history(self._tab, "back"), "the page before", timeout)

    def forward(self, timeout: float = 15.0) -> None:
        """Go one step forward in the tab's history."""
        self._leave(lambda: self.browser.history(self._tab, "forward"), "the next page", timeout)

    def submit(self, selector: str, timeout: float = 15.0) -> None:
        """Click on what sends a form, and return once the document that answers has begun."""
        self._leave(lambda: self.click(selector), "the page that answers", timeout)

    def run(self, script: str, *arguments: Any) -> Any:
        """Run statements in the page; ``return`` gives a value back, ``arguments[0]`` is the first argument.

        Raises:
            ScriptError: It threw.
        """
        return self.browser.run(self._tab, script, *arguments)

    def eval(self, expression: str) -> Any:
        """The value of a script expression.

        Raises:
            ScriptError: It threw.
        """
        return self.run(f"return ({expression})")

    def text(self, selector: str) -> str:
        """The ``textContent`` of the first element that matches."""
        return str(self.eval(f"document.querySelector({json.dumps(selector)}).textContent"))

    def wait_for(self, expression: str, timeout: float = 10.0) -> Any:
        """Wait until a script expression is true in the page, and return its value.

        An expression that throws counts as not yet true: what it looks for may not be there yet.

        Raises:
            WaitError: It was not true within ``timeout`` seconds.
        """
        deadline = time.monotonic() + timeout
        while True:
            try:
                seen: Any = self.eval(expression)
                if seen:
                    return seen
            except ScriptError as error:
                seen = error
            if time.monotonic() > deadline:
                raise WaitError(
                    f"waited {timeout:g} s in vain for {expression}\nlast seen: {seen!r}\n{self.describe()}"
                )
            time.sleep(0.02)

    def wait_for_text(self, selector: str, text: str, timeout: float = 10.0) -> str:
        """Wait until the first element that matches contains ``text``; return all its text."""
        element = f"document.querySelector({json.dumps(selector)})"
        # In one piece: the page may be another one by the time it is asked again.
        found = f"((all) => all.includes({json.dumps(text)}) && [all])({element}.textContent)"
        return str(self.wait_for(found, timeout)[0])

    def wait_for_status(self, status: str, timeout: float = 10.0) -> None:
        """Wait until the client shows ``status`` on the root element (``data-live``)."""
        self.wait_for(f"document.documentElement.dataset.live === {json.dumps(status)}", timeout)

    def click(self, selector: str) -> None:
        """Click on an element as a person does; waits until there is one."""
        self._wait_for_element(selector)
        self.browser.click(self._tab, selector)

    def type(self, selector: str, text: str) -> None:
        """Focus an element and press keys; waits until there is one."""
        self._wait_for_element(selector)
        self.browser.type(self._tab, selector, text)

    def resize(self, width: int, height: int) -> None:
        """Give the viewport this size in CSS pixels."""
        self.browser.resize(self._tab, width, height)

    def png(self) -> bytes:
        """A screenshot of the viewport."""
        return self.browser.png(self._tab)

    def offline(self, offline: bool) -> None:
        """Tell the page that the network is gone, or back, where the browser can be told."""
        self.browser.offline(self._tab, offline)

    def describe(self) -> str:
        """Where the page is and what it shows, for the message of a failure."""
        try:
            url, live, html = self.run(
                "const e = document.documentElement;"
                "return [location.href, e.dataset.live ?? '(none)', (document.body ?? e).outerHTML]"
            )
        except ScriptError as error:
            return f"(the page does not answer: {error})"
        return f"url: {url}\ndata-live: {live}\n{html[:3000]}"

    def close(self) -> None:
        """Close the tab."""
        self.browser.close_tab(self._tab)

    def _wait_for_element(self, selector: str) -> None:
        # A document may have begun with its head alone.
        self.wait_for(f"document.querySelector({json.dumps(selector)}) !== null")

    def _leave(self, navigate: Callable[[], None], where: str, timeout: float) -> None:
        # Else the next wait_for could still be answered by the page that is about to go.
        # Named anew each time: a document from the back/forward cache still has the name it left with.
        departure = f"departure {next(self._departures)}"
        self.run("window.__departure = arguments[0]", departure)
        navigate()
        try:
            self.wait_for(f"window.__departure !== {json.dumps(departure)}", timeout)
        except WaitError as error:
            raise WaitError(f"{where} was not begun: {error}") from None
