"""What an update costs a browser, by ways that a page can be sent many of them in one response."""

from __future__ import annotations

import contextlib
import importlib
import json
import re
from collections.abc import Iterator
from statistics import median
from typing import Any

from .bench import Bench
from .publisher import Http
from .servers import Server, gunicorn
from .system import BenchError
from .table import Row

BROWSERS = ("Chromium", "Firefox", "WebKit")
WAYS = {"loop": "/loop?", "blocks": "/blocks?", "snippets": "/snippets?", "kept": "/snippets?keep&"}
OURS = ("loop", "blocks")
Seen = dict[str, list[dict[str, Any]]]


def browsers(bench: Bench) -> Iterator[Row]:
    """Updates of one element at full speed in real browsers: as blocks of a document, and as script snippets.

    The page itself says how long it took from the first update that was applied to the last of 10,000, and how many
    elements it has then. `live.document` has a loop that yields them, and joins those that come faster than they
    can be sent: the line says in how many blocks they came. The rest is the browser's part alone, each a
    response that is there as a whole: a block of the same document for each update, a `<script>` that sets the text
    and removes itself, and one that stays. By turns, the median of the page loads after a first one. A browser
    that is not installed is left out.
    """
    count = bench.size(10_000)
    found = 0
    with gunicorn("benchmarks.apps.browsed:app", "-k", "gthread", "--threads", "8") as server:
        for name in BROWSERS:
            with _started(bench, name) as browser:
                if browser is None:
                    continue
                found += 1
                bench.note(f"{count:,} updates in {name}")
                yield _row(name, count, _turns(browser, server, bench.rounds(6), count))
    if not found:
        raise BenchError("no browser is installed (Debian: chromium and chromium-driver, for one)")


@contextlib.contextmanager
def _started(bench: Bench, name: str) -> Iterator[Any]:
    """A browser, driven as the tests drive theirs; None if it is not installed."""
    try:
        make = getattr(importlib.import_module(f"tests.browser.{name.lower()}"), name)
        from tests.browser.driver import NotInstalledError
    except ImportError as error:
        raise BenchError(f"what drives the tests' browsers is not to be had: {error}") from None
    try:
        browser = make()
    except NotInstalledError as reason:
        bench.note(f"{name} is left out: {reason}")
        yield None
        return
    try:
        yield browser
    finally:
        browser.quit()


def _turns(browser: Any, server: Server, rounds: int, count: int) -> Seen:
    """What the pages have seen, each in turn, forwards and backwards.

    Raises:
        BenchError: a page has not the last update, or a document is not complete.
    """
    found: Seen = {way: [] for way in WAYS}
    tab = browser.new_tab()
    with contextlib.closing(Http(server.port, timeout=90)) as http:
        for i in range(rounds + 1):
            for way, path in list(WAYS.items())[:: -1 if i % 2 else 1]:
                browser.goto(tab, f"http://127.0.0.1:{server.port}{path}count={count}")
                # It says so when it is through: to be asked meanwhile would hold it up.
                seen = json.loads(http.ask("GET", "/found"))
                if seen["shown"] != f"@{count - 1}@" or (seen.get("status") == "ended") != (way in OURS):
                    raise BenchError(f"{way}: of {count:,} updates there is {seen}")
                if i:  # the first finds nothing in any cache
                    found[way].append(seen)
    return found


def _row(name: str, count: int, found: Seen) -> Row:
    ms = {way: f"{median(seen['ms'] for seen in of):.0f} ms" for way, of in found.items()}
    # WebKitGTK does not tell its own
    version = re.search(r"(?:Chrome|Firefox)/(\d+)", found["loop"][0]["agent"])
    elements = [f"{of[-1]['elements']:,}" for of in found.values()]
    blocks = round(median(seen["blocks"] for seen in found["loop"]))
    said = (
        f"live.document {ms['loop']}, in {blocks:,} blocks; {count:,} blocks {ms['blocks']}; "
        f"snippets {ms['snippets']}; snippets kept {ms['kept']}"
    )
    return Row(
        f"{count:,} updates of one element at full speed, {f'{name} {version[1]}' if version else name}",
        "",
        f"{said}; elements then: {', '.join(elements)}",
        None,
        found,
        short=said,
    )
