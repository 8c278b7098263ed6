"""Pages that are cut off again and again, their server killed now and then: nothing lost, doubled or out of order."""

from __future__ import annotations

import json
import random
import threading
import time
import urllib.request
from http.client import HTTPException

import pytest

from afterload.wire.sse import Decoder
from tests.servers.process import Servers, wait_until
from tests.servers.relay import Relay

pytestmark = [pytest.mark.soak, pytest.mark.timeout(600)]

PAGES, SECONDS = 20, 60


class Page(threading.Thread):
    """Follows /rows through a relay, and keeps what its text would be."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self.url = url
        self.over = threading.Event()
        self.position = ""
        self.seq: int | None = None
        self.text = ""
        self.connects = self.snapshots = self.resets = 0
        self.wrong: list[str] = []

    def run(self) -> None:
        while not self.over.is_set():
            try:
                self.follow()
            except (OSError, HTTPException):
                pass
            self.over.wait(random.uniform(0, 0.1))

    def follow(self) -> None:
        headers = {"Accept": "text/event-stream"} | (
            {"Last-Event-ID": self.position} if self.position else {}
        )
        decoder = Decoder()
        with urllib.request.urlopen(
            urllib.request.Request(self.url, headers=headers), timeout=10
        ) as response:
            self.connects += 1
            while not self.over.is_set():
                data = response.read1(65536)
                if not data:
                    return
                for event in decoder.feed(data):
                    if not self.apply(event.event, event.data):
                        return
                    if event.id:
                        self.position = event.id

    def apply(self, event: str, data: str) -> bool:
        if event == "reset":
            self.resets += 1
            self.text, self.seq = "", None
        elif event in ("patch", "snapshot"):
            if event == "snapshot":
                self.snapshots += 1
                self.text = ""
            for line in data.split("\n"):
                _, seq, patches, *since = json.loads(line)
                before = since[0] if since else seq - 1
                if event == "patch" and self.seq is not None and before > self.seq:
                    self.wrong.append(f"a gap: {before} after {self.seq}")
                    return False
                self.seq = seq
                for action, target, content, *_ in patches:
                    if (action, target) == ("append_text", "#n"):
                        self.text += content
            self.check()
        return True

    def check(self) -> None:
        # the whole run from 1 on, each number once: a state no older, nothing lost, nothing doubled
        last = self.text.rpartition(",")[2]
        if self.text and len(self.text) != length(int(last)):
            self.wrong.append(f"not 1 to {last}: ...{self.text[-60:]}")


def length(n: int) -> int:
    """Of ",1,2,3" up to n."""
    total, digits, least = 0, 1, 1
    while least <= n:
        total += (min(n, least * 10 - 1) - least + 1) * (digits + 1)
        digits, least = digits + 1, least * 10
    return total


def test_pages_that_are_cut_off_again_and_again_have_everything_once(servers: Servers) -> None:
    server = servers.gunicorn("tests.soak.app:app")
    chance = random.Random(3)
    cuts = kills = 0
    with Relay(server.port) as relay:
        pages = [Page(relay.url + "/rows") for _ in range(PAGES)]
        for page in pages:
            page.start()
        until = time.monotonic() + SECONDS
        while time.monotonic() < until:
            time.sleep(chance.uniform(0.02, 0.3))
            cuts += relay.cut()
            if chance.random() < 0.02:
                server.restart(kill=True)
                kills += 1
        wait_until(lambda: all(page.text for page in pages), 20, "all pages to be back")
        for page in pages:
            page.over.set()
        for page in pages:
            page.join(15)
    print(
        f"{cuts} cuts, {kills} kills, {sum(p.connects for p in pages)} connects, "
        f"{sum(p.snapshots for p in pages)} snapshots, {sum(p.resets for p in pages)} resets"
    )
    assert not [wrong for page in pages for wrong in page.wrong]
    assert cuts > PAGES
