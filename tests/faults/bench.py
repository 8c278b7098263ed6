"""The real hub on a pair of sockets, its clock and its poller turned by hand, and pages that follow it on any wire."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Collection, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from afterload.hub.hub import Hub
from afterload.hub.viewer import Follow
from afterload.position import Position
from afterload.settings import Settings
from tests.faults.page import Block, Page, Verdict
from tests.faults.record import Life, Publisher
from tests.faults.wires import WIRES, Reader

_MOST = 20  # connects until a page is right
_OVER = b"HTTP/1.1 204 No Content\r\n\r\n"


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Visit:
    """One connection of a page: what has come of it so far is in `data`."""

    def __init__(self, bench: Bench, page: Page, wire: str, wait: float, hold: bool, room: int) -> None:
        self.data = b""
        self.over = False
        self._filler = 0  # bytes that come before the answer
        self._bench = bench
        codec, head, _ = WIRES[wire]
        self.reader = Reader(wire)
        ours, self._sock = socket.socketpair()
        self._sock.setblocking(False)
        if wire != "poll" and bench.is_over(page):
            ours.send(_OVER)  # by the view, before anything is handed over
            ours.close()
            return
        if room:
            # What a system takes without being read are a few sends, each counted as a page or so: most are used up.
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
            ours.setblocking(False)
            try:
                while True:
                    self._filler += ours.send(b"\0")
            except BlockingIOError:
                self._filler -= len(self._sock.recv(room))
        # What has no position yet is answered at once, also where there is nothing.
        waits = wait if wire == "poll" and page.position else None
        bench.hub.adopt(ours, bench.follow(page, wire=codec, head=head, wait=waits, hold=hold))
        bench.turn()

    def read(self, most: int = 1 << 24) -> bytes:
        """What has come since the last call, or a part of it."""
        new = b""
        while not self.over and len(new) < most:
            try:
                data = self._sock.recv(most - len(new))
            except BlockingIOError:
                break
            except ConnectionResetError:  # a Unix socket that was closed with unread bytes
                data = b""
            self.over = not data
            skipped = min(len(data), self._filler)
            self._filler -= skipped
            new += data[skipped:]
        self.data += new
        return new

    def blocks(self, most: int = 1 << 24) -> list[Block]:
        """The blocks that have come since the last call, or with the next so many bytes."""
        found = self.reader.feed(self.read(most))
        return found + self.reader.end() if self.over else found

    def cut(self) -> None:
        """Ends it, from the page's side."""
        self._sock.close()
        self.over = True
        self._bench.turn()


class Bench:
    """A hub, a publisher to its channels, and the views that serve their pages.

    Args:
        blanks: what a page's HTML has of each channel at first, by name.
        runs: which of them are written by loops.
        private: of the one channel ``~`` that is a private loop's.
        sources: topics whose state the application gives when it is asked.
        settings: of the hub.
    """

    def __init__(
        self,
        blanks: Mapping[str, str],
        runs: Sequence[str] = (),
        *,
        private: bool = False,
        sources: Sequence[str] = (),
        **settings: Any,
    ) -> None:
        self.clock = Clock()
        self.private = private
        self.sources = sources
        self.publisher = Publisher(blanks, runs)
        self._settings = Settings().updated(settings)
        self._visits: list[Visit] = []
        self.hub = self._begin()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for visit in self._visits:
            visit.cut()
        errors = self.hub.poller.errors
        self.hub.release()
        assert errors == 0

    @property
    def life(self) -> Life:
        """Of the log that is published to."""
        return self.publisher.life

    def _begin(self) -> Hub:
        hub = Hub(self._settings, clock=self.clock, epoch=secrets.token_hex(4))
        self.publisher.attach(hub, hub.new_log(secrets.token_hex(8)) if self.private else None)
        return hub

    def restart(self) -> None:
        """The hub ends, and another one begins that remembers nothing."""
        assert self.hub.poller.errors == 0
        for visit in self._visits:
            visit.cut()
        self._visits.clear()
        self.hub.release()
        self.hub = self._begin()

    def turn(self, times: int = 3) -> None:
        """Lets the hub do what there is to do."""
        for _ in range(times):
            self.hub.poller.run_once(0)

    def wait(self, seconds: float) -> None:
        """Lets time pass."""
        self.clock.now += seconds
        self.turn()

    def page(
        self,
        *channels: str,
        position: str | None = None,
        at: int | None = None,
        painted: Collection[str] = (),
    ) -> Page:
        """A page is served.

        Args:
            channels: that it follows.
            position: which it has instead of that of its HTML; "" for none.
            at: where the log was when its request came; by default where it is.
            painted: channels whose state is in its HTML.
        """
        if position is None:
            head = Position(self.life.epoch, self.publisher.log.head if at is None else at, rendered=True)
            position = "" if self.private else str(head.with_painted(channels, painted))
        served = {name: self.publisher.html(name, painted=name in painted) for name in channels}
        return Page(channels, served, position, self.life, painted=painted)

    def connect(self, page: Page, wire: str, *, wait: float = 0.0, hold: bool = True, room: int = 0) -> Visit:
        """A page connects.

        Args:
            page: it.
            wire: by which.
            wait: seconds that a poll waits for news.
            hold: False for a short stream.
            room: so many sends, from 1 to 3, are taken before it reads; 0 for as many as the system lets.
        """
        page.connect(self.life)
        if self.sources:
            for name in self.hub.lacks(page.channels, page.position or "0", False):
                if name in self.sources:
                    self.publisher.restore(name)
        visit = Visit(self, page, wire, wait, hold, room)
        self._visits.append(visit)
        return visit

    def is_over(self, page: Page) -> bool:
        """Whether its channels are over, and it has all of them; as `Live.is_over`."""
        position = Position.parse(page.position or "0")
        if position is None or position.epoch != self.life.epoch or position.rendered:
            return False
        return self.hub.at_end(page.channels, position.offset, self.publisher.log)

    def follow(self, page: Page, **wire: Any) -> Follow:
        """What its view asks for; as `Live.connect` does."""
        position = Position.parse(page.position or "0")
        if not self.private:
            return Follow(None, tuple(page.channels), position=page.position or "0", **wire)
        log = self.publisher.log
        known = position is not None and position.epoch == log.epoch
        return Follow(
            log,
            tuple(page.channels),
            at=position.offset if known and position is not None else (None if position else 0),
            foreign=position is not None and not known,
            position=page.position if known else f"{log.epoch}.0",
            **wire,
        )

    def bring(self, page: Page, wire: str) -> Page:
        """A page comes back, again and again, until it has everything; it may be another one by then.

        Returns:
            The page: the same, or that which its own HTML has become.
        """
        for _ in range(_MOST):
            visit = self.connect(page, wire)
            self.wait(1.0)
            verdict: Verdict = page.take_all(visit.blocks())
            if wire != "poll" and visit.reader.status == 204:
                verdict = "over"
            visit.cut()
            self._visits.remove(visit)
            if verdict == "refresh":
                page = self.reload(page)
            elif verdict == "over" or (verdict == "on" and (wire != "poll" or visit.reader.status == 204)):
                page.check_everything()
                return page
        raise AssertionError(f"it has connected {_MOST} times and has not everything: {page.taken}")

    def reload(self, page: Page) -> Page:
        """A page fetches its own HTML and is brought to it."""
        again = self.page(*page.channels, painted=page.painted)
        again.taken = page.taken
        again.gaps = page.gaps
        return again
