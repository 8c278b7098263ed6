"""What open pages show after their connections were cut, and their server killed: ours, and the usual ways.

The checker knows of a server only that rows, numbered from 1, are added to it one by one, that its page shows those
that are there, and that the page's stream brings more. A page of ours does what docs/wire.md says ("A client in
short"); one of the others what a browser's EventSource does, and a script of one line that appends what comes.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import re
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any

from afterload.cli import wires
from afterload.cli.wires import Address, Block, Line
from afterload.testing import Fault, FaultProxy

from .bench import Bench
from .publisher import Http
from .system import HERE, BenchError, Process, children
from .table import Row

RIGHT = "each page shows each row once, in order"
PAGES, CUTS, ROWS = 20, 500, 5_000
THREADS = 4
PAUSE = 0.05  # seconds from a cut to the next connection, on average
INTERVAL = 0.0016  # seconds from one row to the next, at least
SETTLE = 2.0  # seconds without a change after which a page is as it stays
PROMPT = 2.0  # seconds within which there is an answer, where somebody has time to give it
_sites = itertools.count(1)
_ROW = re.compile(r"@(\d+)@")
_POSITION = re.compile(r'data-position="([^"]*)"')


@dataclass
class Kind:
    """One way to serve the page.

    Attributes:
        name: as it is called in the table.
        command: of its server, from the descriptor of its socket and a number of threads.
        stream: the path of the page's stream.
        ours: the page is one of ours.
    """

    name: str
    command: Callable[[int, int], list[str]]
    stream: str
    ours: bool = False


def _gunicorn(app: str) -> Callable[[int, int], list[str]]:
    def command(fd: int, threads: int) -> list[str]:
        worker = ["-k", "gthread", "--threads", str(threads), "-c", str(HERE / "apps" / "gunicorn_conf.py")]
        return ["gunicorn", *worker, "-b", f"fd://{fd}", f"benchmarks.apps.{app}:app"]

    return command


def _uvicorn(fd: int, threads: int) -> list[str]:
    return [
        "uvicorn",
        "--no-access-log",
        "--log-level",
        "warning",
        "--fd",
        f"{fd}",
        "benchmarks.apps.rows_starlette:app",
    ]


KINDS = (
    Kind("afterload", _gunicorn("rows_ours"), "/page", ours=True),
    Kind("as flask-sse", _gunicorn("rows_flask"), "/queue"),
    Kind("a Flask generator", _gunicorn("rows_flask"), "/polling"),
    Kind("sse-starlette", _uvicorn, "/stream"),
)


class Site:
    """A server of one kind, on a socket that outlives it."""

    def __init__(self, kind: Kind, threads: int, listener: socket.socket, table: str) -> None:
        self.kind = kind
        self.port: int = listener.getsockname()[1]
        self._fd = fd = listener.fileno()
        self._command = [sys.executable, "-m", *kind.command(fd, threads)]
        namespace = f"bench-rows-{os.getpid()}-{next(_sites)}"
        self._env = {"BENCH_TABLE": table, "BENCH_AFTERLOAD_NAMESPACE": namespace}
        self._running = contextlib.ExitStack()
        self._pid = 0
        self.last = 0

    def start(self) -> None:
        process = self._running.enter_context(Process(self._command, env=self._env, pass_fds=(self._fd,)))
        self._pid = process.pid
        # The socket listens before the server does, so the first request just waits for it.
        if not self.answers("/plain", 20):
            raise BenchError(f"{self.kind.name}: no answer; stderr: {process.said()}")

    def kill(self) -> None:
        """By SIGKILL, all of its processes at once."""
        for pid in (self._pid, *children(self._pid)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._running.close()

    def add(self) -> None:
        """Adds a row, and does so until it was told that it is there."""
        self.last += 1
        until = time.monotonic() + 30
        while True:
            try:
                return self._post(f"{self.last}")
            except (OSError, HTTPException) as error:
                self._drop()
                if time.monotonic() > until:
                    raise BenchError(f"{self.kind.name}: a row cannot be added: {error}") from None

    def answers(self, path: str, timeout: float) -> bool:
        """Whether an ordinary request is answered."""
        with contextlib.closing(Http(self.port, timeout)) as http:
            try:
                http.ask("GET", path)
            except (OSError, HTTPException):
                return False
            return True

    _http: Http | None = None

    def _post(self, body: str) -> None:
        self._http = self._http or Http(self.port)
        self._http.ask("POST", "/add", body)

    def _drop(self) -> None:
        if self._http is not None:
            self._http.close()
            self._http = None


@contextlib.contextmanager
def site(kind: Kind, threads: int) -> Iterator[Site]:
    with (
        socket.create_server(("127.0.0.1", 0), backlog=4096) as listener,
        tempfile.NamedTemporaryFile(prefix="afterload-rows-") as file,
    ):
        # Connections inherit it; uvicorn takes a socket that it is given for one that needs none.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        found = Site(kind, threads, listener, file.name)
        try:
            found.start()
            yield found
        finally:
            found.kill()
            found._drop()


class Shown:
    """What a page shows.

    Args:
        ours: its rows have ids, and so one that is there already takes its place at the end.

    Attributes:
        rows: their numbers, from the top.
        doubled: how often a row was brought that had been brought before.
        fetches: how often it was served as HTML.
    """

    def __init__(self, *, ours: bool) -> None:
        self.rows: list[int] = []
        self.doubled = self.fetches = 0
        self._ours = ours
        self._served: list[int] = []
        self._came: set[int] = set()
        self._last: int | None = None

    def fetched(self, html: str) -> None:
        """It was served with this."""
        self.fetches += 1
        self._served = [int(number) for number in _ROW.findall(html)]
        self._last = None
        self._restore()

    def is_gap(self, block: Block) -> bool:
        """Whether a block is not for a page that has got so far."""
        if block.event != "patch" or self._last is None:
            return False
        [[_, seq, _, *since]] = block.data
        return bool((since[0] if since else seq - 1) > self._last)

    def take(self, block: Block) -> None:
        """Does what a block says."""
        if block.event == "message":
            self._append(block.data[0])
        elif block.event in ("patch", "snapshot"):
            [[_, seq, patches, *_]] = block.data
            if block.event == "snapshot":
                self._restore()
            for _, _, content, *_ in patches:
                self._append(content)
            self._last = seq

    def _restore(self) -> None:
        self.rows = self._served.copy()
        self._came.clear()

    def _append(self, content: str) -> None:
        [number] = map(int, _ROW.findall(content))
        if number in self._came:
            self.doubled += 1
        elif self._ours and number in self.rows:
            self.rows.remove(number)
        self._came.add(number)
        self.rows.append(number)


class Page:
    """An open page, that follows through a proxy.

    Attributes:
        shown: what it shows.
        open: its stream has begun.
    """

    def __init__(self, served: Site, proxy: FaultProxy, seed: int) -> None:
        self.shown = Shown(ours=served.kind.ours)
        self.open = threading.Event()
        self._site = served
        self._address = Address.of(f"{proxy.url}{served.kind.stream}", {})
        self._random = random.Random(seed)
        self._position = "0"
        self._over = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends it; the proxy is to have been closed before."""
        self._over = True
        self._thread.join(20)
        if self._thread.is_alive():
            raise BenchError("a page does not end")

    def _run(self) -> None:
        fetch = True
        while not self._over:
            try:
                if fetch:
                    self._fetch()
                    fetch = False
                fetch = self._follow()
            except (OSError, HTTPException, wires.Cut):
                pass
            self.open.clear()
            time.sleep(self._random.random() * 2 * PAUSE)

    def _fetch(self) -> None:
        """Shows the page as it is served."""
        with contextlib.closing(Http(self._site.port, 10.0)) as http:
            html = http.ask("GET", "/page")
        found = _POSITION.search(html)
        self._position = found[1] if found else "0"
        self.shown.fetched(html)

    def _follow(self) -> bool:
        """Follows until the connection is cut; whether the page is to be fetched."""
        with contextlib.closing(wires.stream(Line(self._address, 30.0), self._position)) as blocks:
            for block in blocks:
                self.open.set()
                if block.event == "refresh":
                    return True
                if self.shown.is_gap(block):
                    return False
                self.shown.take(block)
                if block.id:
                    self._position = block.id
        return False


def wrong(pages: Sequence[Shown], first: int, last: int) -> dict[str, int]:
    """What is wrong with what they show of the rows behind `first`, once nothing has changed for a while."""
    expected = list(range(first + 1, last + 1))
    before: list[list[int]] = []
    until = time.monotonic() + SETTLE
    while True:
        found = [[number for number in page.rows.copy() if number > first] for page in pages]
        if all(rows == expected for rows in found) or time.monotonic() > until:
            break
        if found != before:
            before, until = found, time.monotonic() + SETTLE
        time.sleep(0.05)
    return {
        "rows": len(expected) * len(pages),
        "lost": sum(len(set(expected) - set(rows)) for rows in found),
        "doubled": sum(page.doubled for page in pages),
        "unordered": sum(b < a for rows in found for a, b in itertools.pairwise(rows)),
        "wrong": sum(rows != expected for rows in found),
        "again": sum(max(0, page.fetches - 1) for page in pages),
    }


@contextlib.contextmanager
def opened(served: Site, count: int) -> Iterator[tuple[list[Page], FaultProxy]]:
    """So many pages, each with its stream. Rows are added until each has one: some servers say nothing before."""
    with contextlib.ExitStack() as stack:
        proxy = FaultProxy(served.port)
        pages = [Page(served, proxy, seed) for seed in range(count)]
        for page in pages:
            stack.callback(page.close)
        stack.callback(proxy.close)
        until = time.monotonic() + 20
        while not all(page.open.is_set() for page in pages):
            if time.monotonic() > until:
                raise BenchError(f"{served.kind.name}: a page's stream does not begin")
            served.add()
            time.sleep(0.02)
        yield pages, proxy


def cut(served: Site, count: int, rows: int, pages: int) -> dict[str, Any]:
    """Adds rows, and cuts `count` connections meanwhile."""
    chance = random.Random(7)
    seconds = rows * INTERVAL
    # A page is cut, is away, and is cut again; the last cuts are to come before the last rows.
    life = 0.9 * seconds * pages / count - PAUSE

    def plan(number: int) -> Fault | None:
        # The first are open already, and are cut by hand.
        again = number < count
        return Fault(cut_after=chance.uniform(0, 2 * life), reset=chance.random() < 0.5) if again else None

    with opened(served, pages) as (found, proxy):
        first, began, before = served.last, time.monotonic(), proxy.cuts
        proxy.plan = plan
        proxy.cut()
        for number in range(1, rows + 1):
            served.add()
            time.sleep(max(0.0, began + number * INTERVAL - time.monotonic()))
        took = time.monotonic() - began
        cuts = proxy.cuts - before
        return {
            "cuts": cuts,
            "rate": rows / took,
            **wrong([page.shown for page in found], first, served.last),
        }


def killed(served: Site, rows: int, pages: int) -> dict[str, Any]:
    """Adds rows, and half of them after the server was killed and started again."""
    with opened(served, pages) as (found, proxy):
        first = served.last
        for number in range(rows):
            if number == rows // 2:
                proxy.refusing = True
                served.kill()
                served.start()
                proxy.refusing = False
            served.add()
        return wrong([page.shown for page in found], first, served.last)


def serves_one_more(kind: Kind, viewers: int) -> bool:
    """Whether a server with as many threads as it has viewers answers one that comes then."""
    request = f"GET {kind.stream} HTTP/1.1\r\nHost: bench\r\nAccept: text/event-stream\r\n\r\n".encode()
    with site(kind, viewers) as served, contextlib.ExitStack() as stack:
        for _ in range(viewers):
            viewer = stack.enter_context(socket.create_connection(("127.0.0.1", served.port)))
            viewer.sendall(request)
        return served.answers("/page", PROMPT)


def interruptions(bench: Bench) -> Iterator[Row]:
    """Pages whose connections are cut, and whose server is killed: what they show at the end, ours and the usual ways.

    A page shows a list of rows from a table, and its stream appends those that are added while it is open. A proxy cuts
    the connections of the pages, one after the other, amid whatever is on its way; each comes back after 0 to 100 ms.
    Rows come many times as fast as on most pages, so while one is away it misses about as many as where a browser waits
    its three seconds. At the end each page should show each row once, in order. Then the server is killed by SIGKILL
    and started again, while rows are added to the table. Last, as many viewers hold a server as it has threads, and
    one more asks for the page.

    The usual ways are written as their documentation shows them, and their pages as `EventSource` is used: what comes
    is appended. "As flask-sse" is a Flask view with a queue for each viewer, under gunicorn; it stands for extensions
    on Redis' pub/sub, which keeps nothing either, and whose ids are not looked at when a page comes back. "A Flask
    generator" is a view that looks for more rows twenty times a second. sse-starlette has a queue for each viewer,
    under uvicorn. Each could do better: whoever sends ids, reads the table from `Last-Event-ID` on, and puts the
    first id into the page as it is rendered, loses no row. That is what afterload does by itself. A row is doubled
    where a stream has brought it twice. Where a server of ours has lost its memory, pages fetch themselves again; how
    many did stands behind the figures. How many rows are lost is a matter of how many come while a page is away.
    """
    count, rows = (20, 200) if bench.small else (bench.size(CUTS), bench.size(ROWS))
    pages = 4 if bench.small else PAGES
    after: dict[str, dict[str, Any]] = {}
    for kind in KINDS:
        bench.note(f"{count:,} cuts, {rows:,} rows, {pages} pages: {kind.name}")
        # More threads than there can be connections, those that a server has not missed yet among them.
        with site(kind, pages + 200) as served:
            found = cut(served, count, rows, pages)
            after[kind.name] = killed(served, rows // 10, pages)
        yield Row(
            f"{pages} pages, {rows:,} rows added, {found['cuts']} cuts: {kind.name}",
            RIGHT if kind.ours else "",
            f"{_said(found)} ({found['rate']:.0f} rows a second)",
            _right(found) if kind.ours else None,
            found,
        )
    for kind in KINDS:
        found = after[kind.name]
        yield Row(
            f"{pages} pages, {rows // 10:,} rows added, the server killed and started again: {kind.name}",
            RIGHT if kind.ours else "",
            _said(found),
            _right(found) if kind.ours else None,
            found,
        )
    served = {kind.name: serves_one_more(kind, THREADS) for kind in KINDS}
    yield Row(
        f"{THREADS} viewers and {THREADS} threads; the next one",
        "is served by ours",
        "; ".join(
            f"{name}: {'served' if one else f'no answer in {PROMPT:g} s'}" for name, one in served.items()
        ),
        served[KINDS[0].name],
        dict(served),
    )


def _right(found: dict[str, Any]) -> bool:
    return not any(found[name] for name in ("lost", "doubled", "unordered", "wrong"))


def _said(found: dict[str, Any]) -> str:
    again = f"; pages fetched again: {found['again']}" if found["again"] else ""
    return (
        f"{found['lost']:,} of {found['rows']:,} lost, {found['doubled']:,} doubled, "
        f"{found['unordered']:,} out of order; pages wrong at the end: {found['wrong']}{again}"
    )
