"""A hundred pages in a process of their own, on all wires, that come back as a client does and check what they get.

``python -m tests.soak.pages PORT COUNT`` takes a command on its standard input, a line of JSON, and answers it with
one; `Pages` is its other end. What a page does with blocks, and how it finds what is wrong, is said in
`tests.faults.page`.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import random
import re
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

from tests.faults.page import Block, Page, Wrong
from tests.faults.wires import Reader
from tests.servers.process import HOST, ROOT
from tests.soak.script import TOPICS, Script, number

WIRES = ("stream", "websocket", "poll")
HEARTBEAT = 2.0
GREETED = 3.0  # seconds for `hello`; else the next wire
_ACCEPTS = {"stream": "text/event-stream", "poll": "application/json"}
_REGION = re.compile(r"^(?:<body>)?(<div id=(\w+)>.*</div>)$", re.M)
_POSITION = re.compile(r'data-position="([^"]*)"')


class Shown(Page):
    """A page of the script."""

    def number(self, seq: int, patches: Sequence[Any]) -> int | None:
        return number(patches)

    def shown(self, channel: str) -> str:
        return hashlib.sha256(super().shown(channel).encode()).hexdigest()


class Tab(threading.Thread):
    """One page, which is open until it is told otherwise."""

    def __init__(self, port: int, index: int, script: Script) -> None:
        super().__init__(daemon=True)
        self.wire = WIRES[index % len(WIRES)]
        self.topic = TOPICS[index % len(TOPICS)]
        self.path = f"/{self.topic}" + ("?run=1" if index % 2 else "")
        self.page: Shown | None = None
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.falls = False
        self.over = threading.Event()
        self._port = port
        self.script = script
        self._lock = threading.Lock()
        self._chance = random.Random(index)
        self._was_cut = False

    def run(self) -> None:
        while not self.over.is_set():
            try:
                if self.page is None:
                    self._load()
                self._visit()
            except (OSError, http.client.HTTPException):
                self.counts["cut"] += 1
                self._was_cut = True
            except Wrong as wrong:
                self.wrong.append(f"{self.topic} {self.wire}: {wrong}")
                self.page = None
            # A client takes longer; but the more often it comes back, the better for this.
            self.over.wait(self._chance.uniform(0, 0.2) + (0.3 if self.wire == "poll" else 0))

    def is_right(self, numbers: dict[str, int]) -> bool:
        """Whether it shows of each channel what it is after its last entry."""
        with self._lock:
            page = self.page
            return page is not None and all(
                page.shown(name) == self.script.known(name, numbers[name]).document for name in page.channels
            )

    def _load(self) -> None:
        line = http.client.HTTPConnection(HOST, self._port, timeout=2.5 * HEARTBEAT)
        try:
            line.request("GET", self.path, headers={"Accept": "text/html", "Connection": "close"})
            response = line.getresponse()
            text = response.read().decode()
        finally:
            line.close()
        found = _POSITION.search(text)
        if response.status != 200 or found is None:  # a head that was cut is one without a length
            raise http.client.HTTPException(f"{response.status}, {len(text)} characters")
        served = {name: html for html, name in _REGION.findall(text)}
        said = re.search(rf"id={self.topic}-n[^>]*>(\d*)<", served[self.topic])
        assert said
        with self._lock:
            self.page = Shown(
                tuple(served),
                served,
                found[1],
                self.script,  # type: ignore[arg-type]
                # what its view has read behind its position may be more than that says
                ahead={self.topic: int(said[1] or 0)},
            )
        self.counts["loads"] += 1

    def _visit(self) -> None:
        page = self.page
        assert page is not None
        page.connect(self.script)  # type: ignore[arg-type]
        resumes = "~" not in page.position
        if not resumes:
            self.counts["first"] += 1
        elif self._was_cut:
            self.counts["resumes"] += 1
        self._was_cut = False
        reader = Reader(self.wire)
        with socket.create_connection((HOST, self._port), timeout=GREETED) as line:
            line.sendall(self._request(page))
            while not self.over.is_set():
                try:
                    data = line.recv(65536)
                except TimeoutError:
                    self._fall(reader)
                    raise
                line.settimeout(2.5 * HEARTBEAT)
                with self._lock:
                    blocks = reader.feed(data) if data else reader.end()
                    verdict = page.take_all(blocks)
                    self.counts["blocks"] += len(blocks)
                    self.counts["states"] += sum(map(_is_state, blocks)) if resumes else 0
                if reader.status not in (0, 101, 200, 204):
                    raise http.client.HTTPException(f"{reader.status}")
                if verdict == "refresh":
                    self.counts["refreshes"] += 1
                    self.page = None
                if page.gaps:
                    self.wrong.append(f"{self.topic} {self.wire}: a gap behind {page.position}")
                    self.page = None
                if verdict != "on":
                    self.counts[verdict] += 1
                    return
                if not data:
                    if self.wire == "poll" and (blocks or reader.status == 204):
                        self.counts["polls"] += 1
                        return
                    raise ConnectionError("cut")

    def _request(self, page: Page) -> bytes:
        position = page.position or "0"
        lines = [f"GET {self.path} HTTP/1.1", f"Host: {HOST}:{self._port}"]
        if self.wire == "websocket":
            lines += ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"]
            lines += ["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="]
            lines += [f"Sec-WebSocket-Protocol: afterload.v1, afterload.position.{position}"]
        else:
            lines += [f"Accept: {_ACCEPTS[self.wire]}", f"Last-Event-ID: {position}", "Al-Wait: 2"]
        return "\r\n".join([*lines, "", ""]).encode()

    def _fall(self, reader: Reader) -> None:
        """The next wire, if this one did not deliver."""
        if self.falls and self.wire != "poll":
            self.wire = WIRES[WIRES.index(self.wire) + 1]
            self.counts["fell"] += 1


def _is_state(block: Block) -> bool:
    """Whether it is something else than the entries that were missed."""
    if block.event == "patch":
        return any(line[3:] == [0] for line in block.lines)
    return block.event in ("snapshot", "reset", "refresh")


class Pages:
    """The process of the pages, as a test sees it.

    Args:
        port: to connect to.
        count: of pages.
    """

    def __init__(self, port: int, count: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.soak.pages", str(port), str(count)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def ask(self, command: str, **arguments: Any) -> Any:
        """Has it do something; the answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([command, arguments]).encode() + b"\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()


def main(port: str, count: str) -> None:
    script = Script()
    tabs = [Tab(int(port), index, script) for index in range(int(count))]
    for tab in tabs:
        tab.start()
    for line in sys.stdin:
        command, arguments = json.loads(line)
        print(json.dumps(_DO[command](tabs, **arguments)), flush=True)


def _report(tabs: list[Tab]) -> dict[str, Any]:
    counts = sum((tab.counts for tab in tabs), Counter())
    wires = Counter(tab.wire for tab in tabs)
    return {"counts": counts, "wires": wires, "wrong": [wrong for tab in tabs for wrong in tab.wrong][:20]}


def _converge(tabs: list[Tab], numbers: dict[str, int], within: float) -> dict[str, Any]:
    """Waits until all pages show the end of everything; the seconds that took."""
    began = time.monotonic()
    left = list(tabs)
    while left and time.monotonic() < began + within:
        left = [tab for tab in left if not tab.is_right(numbers)]
        time.sleep(0.02)
    return {"seconds": time.monotonic() - began, "left": [f"{tab.topic} {tab.wire}" for tab in left]}


def _prepare(tabs: list[Tab], numbers: dict[str, int]) -> None:
    """Works out the truth, which takes its time where no page has seen anything for long."""
    for name, n in numbers.items():
        tabs[0].script.known(name, n)


def _fall_through(tabs: list[Tab]) -> None:
    for tab in tabs:
        tab.falls = True


_DO = {"report": _report, "prepare": _prepare, "converge": _converge, "fall": _fall_through}

if __name__ == "__main__":
    main(*sys.argv[1:])
