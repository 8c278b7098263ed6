"""Thousands of viewers in a process of their own, which check what they are sent and come back as our client does.

``python -m tests.soak.crowd PORT`` takes commands on its standard input, a line of JSON each, and answers each with a
line; `Crowd` is its other end. One epoll loop, and of a block that all viewers of a page are sent alike no more for
each of them than a look into a dictionary and a comparison: the server is what the machine is for.
"""

from __future__ import annotations

import heapq
import itertools
import json
import os
import random
import re
import resource
import select
import socket
import subprocess
import sys
import time
from collections import Counter, deque
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from afterload.wire.sse import Decoder, Event
from tests.servers.process import HOST, ROOT, ServerError
from tests.soak.ledger import CLOCK, ROW, Entry, Ledger, Line, Shown, position

AT_ONCE = 100  # connects under way while the crowd gathers; those that come back do not ask
LOOK = 1.0  # seconds between two looks for lines that have gone silent


class Step(NamedTuple):
    """One block, parsed once for all who are sent it."""

    event: Event
    lines: tuple[Line, ...]
    position: tuple[str, int] | None


class Viewer:
    """One page, without the page: its connection, and what it shows."""

    __slots__ = (
        "asking",
        "back",
        "epoch",
        "failures",
        "gathered",
        "head",
        "healed",
        "heals",
        "heard",
        "heartbeat",
        "live",
        "offset",
        "path",
        "position",
        "request",
        "rest",
        "retry",
        "shown",
        "sock",
        "token",
    )

    def __init__(self, path: str) -> None:
        self.path = path
        self.shown = Shown()
        self.sock: socket.socket | None = None
        self.asking = "text/event-stream"
        self.gathered = self.live = self.head = False
        self.request = self.rest = b""
        self.position = ""
        self.epoch, self.offset = "", 0
        self.failures = self.heals = 0
        self.retry, self.heartbeat, self.heard = 500, 20.0, 0.0
        self.back = self.healed = 0.0  # clock times
        self.token = 0  # a timer counts only if it is the last that was set


class Helper:
    """The crowd.

    Args:
        port: of the server.
    """

    def __init__(self, port: int) -> None:
        self.where = HOST, port
        self.ledger = Ledger()
        self.counters: Counter[str] = Counter()
        self.ticks: dict[tuple[str, int], float] = {}
        self.viewers: list[Viewer] = []
        self.absent: deque[Viewer] = deque()
        self.gathering = 0
        self.by_fd: dict[int, Viewer] = {}
        self.poll = select.epoll()
        self.memo: dict[tuple[str, bytes], tuple[Step, ...]] = {}
        self.timers: list[tuple[float, int, Viewer]] = []
        self.tokens = itertools.count(1)
        self.next_look = 0.0
        self.buffer = b""

    # Commands

    def run(self) -> None:
        stdin = sys.stdin.fileno()
        self.poll.register(stdin, select.EPOLLIN)
        while True:
            wait = self.timers[0][0] - time.monotonic() if self.timers else LOOK
            for fd, _ in self.poll.poll(min(max(wait, 0.0), LOOK), 512):
                if fd == stdin:
                    if not self._command(stdin):
                        return
                elif (viewer := self.by_fd.get(fd)) is not None:
                    self._ready(viewer)
            self._time()

    def _command(self, stdin: int) -> bool:
        data = os.read(stdin, 65536)
        self.buffer += data
        *lines, self.buffer = self.buffer.split(b"\n")
        for line in lines:
            command = json.loads(line)
            answer = getattr(self, command.pop("do"))(**command)
            print(json.dumps(answer), flush=True)
        return bool(data)

    def gather(self, paths: list[str], count: int) -> None:
        """So many more viewers, of these pages in turn."""
        for path in itertools.islice(itertools.cycle(paths), count):
            viewer = Viewer(path)
            self.viewers.append(viewer)
            self.absent.append(viewer)
        self._gather()

    def report(self) -> dict[str, Any]:
        """How they are."""
        behind = 0
        for viewer in self.viewers:
            for channel in channels(viewer.path):
                head = self.ledger.heads.get((viewer.epoch, channel), 0)
                behind += viewer.live and viewer.shown.last.get(channel, 0) < head
        return {
            "viewers": len(self.viewers),
            "live": sum(viewer.live for viewer in self.viewers),
            "epochs": sorted({viewer.epoch for viewer in self.viewers if viewer.live}),
            "behind": behind,
            "gaps": sum(viewer.shown.gaps for viewer in self.viewers),
            "doubled": sum(viewer.shown.doubled for viewer in self.viewers),
            "wrong": self.ledger.wrong,
            "counters": self.counters,
        }

    def mark(self) -> float:
        """From here on it is counted anew who comes back and how, and when."""
        self.counters.clear()
        for viewer in self.viewers:
            viewer.back = viewer.healed = 0.0
        return time.monotonic()

    def returns(self) -> dict[str, list[float]]:
        """When those who have come back since the mark were live, and when they were right again."""
        return {
            "back": sorted(viewer.back for viewer in self.viewers if viewer.back),
            "healed": sorted(viewer.healed for viewer in self.viewers if viewer.healed),
        }

    def ran(self) -> list[tuple[float, str]]:
        """The clock's ticks in order: when the first viewer had each, and its text."""
        epochs = list(dict.fromkeys(epoch for epoch, _ in self.ticks))
        keys = sorted(self.ticks, key=lambda key: (epochs.index(key[0]), key[1]))
        return [(self.ticks[key], self.ledger.marks[key[0], CLOCK, key[1]]) for key in keys]

    def missing(self, marks: dict[str, list[str]]) -> int:
        """Of what was acknowledged, by channel: how often a viewer lacks one."""
        wanted = {channel: frozenset(names) for channel, names in marks.items()}
        found: dict[Any, int] = {}
        lacking = 0
        for viewer in self.viewers:
            for channel in wanted.keys() & channels(viewer.path):
                part = viewer.shown.parts.get(channel)
                last = viewer.shown.last.get(channel, 0)
                key = (viewer.epoch, channel, last, part and part.start, part and part.base)
                if key not in found:
                    found[key] = viewer.shown.missing(self.ledger, viewer.epoch, channel, wanted[channel])
                lacking += found[key]
        return lacking

    def entries(self) -> dict[str, Entry]:
        """Where each mark was published."""
        return self.ledger.entries

    # Connecting

    def _gather(self) -> None:
        while self.absent and self.gathering < AT_ONCE:
            self.gathering += 1
            self._connect(self.absent.popleft())

    def _connect(self, viewer: Viewer) -> None:
        self._drop(viewer)
        sock = viewer.sock = socket.socket()
        sock.setblocking(False)
        lines = [
            f"GET {viewer.path} HTTP/1.1",
            "Host: board",
            f"Accept: {viewer.asking}",
            "Connection: close",
        ]
        if viewer.position:
            lines.append(f"Last-Event-ID: {viewer.position}")
        viewer.request = "\r\n".join(lines).encode() + b"\r\n\r\n"
        viewer.rest, viewer.head, viewer.heard = b"", False, time.monotonic()
        viewer.token = 0
        self.by_fd[sock.fileno()] = viewer
        try:
            sock.connect(self.where)
        except BlockingIOError:
            pass
        except OSError:
            self._cut(viewer, "refused")
            return
        self.poll.register(sock, select.EPOLLOUT)

    def _drop(self, viewer: Viewer) -> None:
        if viewer.sock is not None:
            self.by_fd.pop(viewer.sock.fileno(), None)
            viewer.sock.close()  # which takes it out of the poll too
            viewer.sock = None
        viewer.live = False

    def _later(self, viewer: Viewer, seconds: float) -> None:
        self._drop(viewer)
        viewer.token = next(self.tokens)
        heapq.heappush(self.timers, (time.monotonic() + seconds, viewer.token, viewer))

    def _cut(self, viewer: Viewer, why: str) -> None:
        """What is done after any interruption but those that say how to go on; see client/src/backoff.js."""
        self.counters[why] += 1
        wait = min(30.0, viewer.retry / 1000 * 2**viewer.failures) * random.random()
        viewer.failures += 1
        self._later(viewer, wait)

    def _time(self) -> None:
        now = time.monotonic()
        while self.timers and self.timers[0][0] <= now:
            _, token, viewer = heapq.heappop(self.timers)
            if token == viewer.token:
                self._connect(viewer)
        if now >= self.next_look:
            self.next_look = now + LOOK
            for viewer in self.viewers:
                if viewer.sock is not None and now - viewer.heard > viewer.heartbeat * 2.5:
                    self.counters["silence"] += 1
                    self._connect(viewer)

    # Reading

    def _ready(self, viewer: Viewer) -> None:
        sock = viewer.sock
        assert sock is not None
        try:
            if viewer.request:
                sock.sendall(viewer.request)  # a few hundred bytes into an empty buffer
                viewer.request = b""
                self.poll.modify(sock, select.EPOLLIN)
                return
            data = sock.recv(262_144)
        except BlockingIOError:
            return
        except OSError:
            self._cut(viewer, "reset")
            return
        viewer.heard = time.monotonic()
        if viewer.head and viewer.asking != "text/html":
            if data:
                self._feed(viewer, data)
            else:
                self._cut(viewer, "cut")
            return
        viewer.rest += data
        if viewer.asking == "text/html":
            if not data:
                self._page(viewer)
        elif b"\r\n\r\n" in viewer.rest:
            self._answer(viewer)
        elif not data:
            self._cut(viewer, "no answer")

    def _answer(self, viewer: Viewer) -> None:
        head, _, body = viewer.rest.partition(b"\r\n\r\n")
        status = int(head.split(b" ")[1])
        if status != 200 or b"text/event-stream" not in head:
            if status < 500:
                self.ledger.say(f"{viewer.path} was answered {head!r}")
            self._cut(viewer, f"status {status}")
            return
        if b"\r\nserver:" in head.lower() or b"chunked" in head.lower():
            self.ledger.say("a stream was left to the server")
        viewer.head, viewer.rest = True, b""
        if body:
            self._feed(viewer, body)

    def _feed(self, viewer: Viewer, data: bytes) -> None:
        if viewer.rest:
            data = viewer.rest + data
        if not data.endswith(b"\n\n"):
            whole, blank, viewer.rest = data.rpartition(b"\n\n")
            data = whole + blank
            if not data:
                return
        else:
            viewer.rest = b""
        key = viewer.epoch, data
        steps = self.memo.get(key)
        if steps is None:
            if len(self.memo) > 5000:
                self.memo.clear()
            steps = self._parse(viewer.epoch, data)
            if len(data) < 16_384:
                self.memo[key] = steps
        for step in steps:
            if step.event.event == "patch":
                last = viewer.shown.last
                for line in step.lines:
                    if line.whole or last.get(line.channel) != line.since:
                        if not viewer.shown.take(self.ledger, viewer.epoch, line, snapshot=False):
                            self._cut(viewer, "gap")
                            return
                    else:
                        last[line.channel] = line.seq
            elif not self._other(viewer, step):
                return
            if step.position is not None:
                epoch, offset = step.position
                if epoch == viewer.epoch and offset < viewer.offset:
                    self.ledger.say(f"{step.event.id} after {viewer.position}")
                viewer.epoch, viewer.offset = epoch, offset
                viewer.position = step.event.id

    def _parse(self, epoch: str, data: bytes) -> tuple[Step, ...]:
        steps: list[Step] = []
        # Each alone, as a decoder repeats the last id; and from the end, as the last of several has the id of all.
        for block in reversed(data.removesuffix(b"\n\n").split(b"\n\n")):
            [event] = Decoder().feed(block + b"\n\n")
            promised = position(event.id) if event.id and event.id != "0" else None
            if promised is not None and event.event != "hello":
                epoch = promised[0]
            lines: tuple[Line, ...] = ()
            if event.event in ("patch", "snapshot"):
                lines = self.ledger.read(epoch, promised[1] if promised else 0, event)
                for line in lines:
                    if line.channel == CLOCK:
                        self.ticks.setdefault((epoch, line.seq), time.monotonic())
            steps.insert(0, Step(event, lines, promised))
        return tuple(steps)

    def _other(self, viewer: Viewer, step: Step) -> bool:
        """Any block but a patch; whether what follows it counts."""
        event = step.event
        match event.event:
            case "hello":
                detail = json.loads(event.data)
                if not viewer.gathered:
                    viewer.gathered = True
                    self.gathering -= 1
                    self._gather()
                viewer.live, viewer.failures = True, 0
                viewer.heartbeat = detail["heartbeat"]
                viewer.retry = event.retry or viewer.retry
                viewer.back = viewer.back or time.monotonic()
            case "snapshot":
                for line in step.lines:
                    viewer.shown.take(self.ledger, viewer.epoch, line, snapshot=True)
            case "reset":
                channel = json.loads(event.data)["channel"]
                viewer.shown.last.pop(channel, None)
                viewer.shown.parts.pop(channel, None)
            case "refresh":
                self.counters["refresh"] += 1
                viewer.asking = "text/html"
                wait = 0.5 * 2**viewer.heals * random.random()
                viewer.heals += 1
                self._later(viewer, wait)
                return False
            case "bye":
                self.counters["bye"] += 1
                self._later(viewer, json.loads(event.data)["retry"] / 1000 * (1 + random.random()))
                return False
            case "end":
                self.ledger.say(f"{viewer.path}: {event.data}")
        return True

    def _page(self, viewer: Viewer) -> None:
        head, _, body = viewer.rest.partition(b"\r\n\r\n")
        found = re.search(rb'data-position="([^"]+)"', body)
        if not head.startswith(b"HTTP/1.1 200 ") or found is None:
            self._cut(viewer, "no page")
            return
        self.counters["pages"] += 1
        text = body.decode()
        page = {}
        for channel in channels(viewer.path) - {CLOCK}:
            rows = text.partition(f'<ul id="{channel}">')[2].partition("</ul>")[0]
            page[channel] = frozenset(ROW.findall(rows))
        viewer.shown.begin(page)
        viewer.position = found[1].decode()
        viewer.epoch, viewer.offset = position(viewer.position)
        viewer.asking = "text/event-stream"
        viewer.healed = time.monotonic()
        self._connect(viewer)


def channels(path: str) -> set[str]:
    """What the page at this path follows."""
    return {CLOCK} | ({path.strip("/")} if path.strip("/") else {"bar", "kitchen"})


class Crowd:
    """The process above, seen from a test.

    Args:
        port: of the server.
        log_path: where its complaints go, should it break.
    """

    def __init__(self, port: int, log_path: Path) -> None:
        self._log_path = log_path
        with log_path.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.soak.crowd", str(port)],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()

    def ask(self, do: str, **details: Any) -> Any:
        """Gives a command, and returns its answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **details}).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass
        answer = self._process.stdout.readline()
        if not answer:
            raise ServerError(f"the crowd has broken: {self._log_path.read_text()[-4000:]}")
        return json.loads(answer)


if __name__ == "__main__":
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    Helper(int(sys.argv[1])).run()
