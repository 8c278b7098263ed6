"""Whatever is done to the lines of a hundred pages on three wires, nothing is lost, doubled or out of order.

With ``SOAK=0.05`` in the environment a twentieth of it is done. The figures are printed (``-s`` shows them).
"""

from __future__ import annotations

import http.client
import json
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from afterload.testing import Fault, FaultProxy
from tests.servers.process import HOST, Server, Servers, wait_until
from tests.soak.pages import Pages
from tests.soak.scale import SCALE, scaled
from tests.soak.script import RUN, TOPICS

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3600)]

COUNT = 100  # of pages
CUTS = scaled(10_000)
UPDATES = scaled(100_000)
KILLS = scaled(100)
HOLES = [seconds for seconds in (5, 30, 120) if seconds <= 120 * SCALE or seconds == 5]
EQUAL = 5.0  # seconds within which all pages are right when nothing is done to them any more
PACE = 0.05  # seconds between two publishes


@dataclass
class Site:
    """The app on a real server, the proxy in front of it, the pages, and who publishes.

    Attributes:
        updates: entries published, of all topics.
        numbers: of the last entry of each topic.
    """

    server: Server
    proxy: FaultProxy
    pages: Pages
    updates: int = 0
    numbers: dict[str, int] = field(default_factory=dict)
    refused: int = 0

    def __post_init__(self) -> None:
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._publish, daemon=True)

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """Asks the server itself, and not by way of the proxy."""
        line = http.client.HTTPConnection(HOST, self.server.port, timeout=10)
        try:
            headers = {"Content-Type": "application/json"}
            line.request(method, path, None if body is None else json.dumps(body), headers)
            response = line.getresponse()
            assert response.status == 200, (path, response.status)
            return json.loads(response.read())
        finally:
            line.close()

    def begin(self) -> None:
        """Publishes, from now on."""
        self._thread.start()

    def end(self) -> None:
        """Publishes no more."""
        self._over.set()
        self._thread.join(30)

    def _publish(self) -> None:
        chance = random.Random(4)
        while not self._over.wait(PACE):
            # two of three alone, so that a page gets single steps, and some at once, so that they are merged
            counts = {name: chance.choice([1, 1, 2, 6]) for name in chance.sample(TOPICS, 6)}
            try:
                before = sum(self.numbers.values())
                self.numbers = self.ask("POST", "/advance", counts)
                self.updates += sum(self.numbers.values()) - before
            except (OSError, http.client.HTTPException):
                self.refused += 1  # it is being killed; its own record says how far it got

    def converge(self, within: float = EQUAL) -> float:
        """All pages are right; the seconds that took since nothing was done to them any more."""
        self.end()
        rows = self.ask("POST", "/rest")
        numbers = {**self.ask("POST", "/advance", {}), RUN: rows}
        self.pages.ask("prepare", numbers=numbers)
        self.proxy.switch()
        found = self.pages.ask("converge", numbers=numbers, within=within)
        report = self.report()
        assert not report["wrong"], report
        assert not found["left"], (found, report)
        return float(found["seconds"])

    def report(self) -> dict[str, Any]:
        """What the pages say."""
        found: dict[str, Any] = self.pages.ask("report")
        return found


@pytest.fixture
def site(servers: Servers, tmp_path: Path) -> Iterator[Site]:
    with _site(servers, tmp_path) as made:
        yield made


@contextmanager
def _site(servers: Servers, tmp_path: Path) -> Iterator[Site]:
    server = servers.gunicorn(
        "tests.soak.faults_app:app", threads=8, env={"SOAK_STORE": str(tmp_path / "store")}
    )
    with FaultProxy(server.port) as proxy, Pages(proxy.port, COUNT) as pages:
        made = Site(server, proxy, pages)
        try:
            yield made
        finally:
            made.end() if made._thread.is_alive() else None


def _shares(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {what}" for what, count in sorted(counts.items()))


def test_faults_random_cuts(site: Site) -> None:
    chance = random.Random(5)

    def plan(number: int) -> Fault:
        """A stream ends after some thousand bytes, and a poll now and then; some requests do not arrive whole."""
        reset = chance.random() < 0.5
        if chance.random() < 0.02:
            return Fault(cut_request=chance.randrange(300), reset=reset)
        return Fault(cut=int(chance.expovariate(1 / 8000)), reset=reset)

    site.proxy.plan = plan
    site.begin()
    began = time.monotonic()
    wait_until(lambda: site.proxy.cuts >= CUTS and site.updates >= UPDATES, 3000, "the cuts and updates")
    seconds = time.monotonic() - began
    cuts = site.proxy.cuts
    stats = site.ask("GET", "/stats")
    report = site.report()
    took = site.converge()
    counts = report["counts"]
    causes = {cause: stats.get(f"answers_{cause}", 0) for cause in ("state", "snapshot", "refresh")}
    # As it was served a page has to be given the state, cut off or not; that is no resume.
    beyond = sum(causes.values()) - counts["first"]
    print(
        f"\n{cuts} cuts, {site.updates} updates, {COUNT} pages, {seconds:.0f} s: {_shares(counts)}; "
        f"answers other than entries: {_shares(causes)}, of which {max(0, beyond)} to resumes; "
        f"all equal after {took:.1f} s; {report['wires']}"
    )
    assert cuts >= CUTS
    assert beyond <= 0.01 * counts["resumes"]
    assert counts.get("states", 0) <= 0.01 * counts["resumes"]  # and as the pages saw it
    assert counts.get("refreshes", 0) <= 0.01 * counts["resumes"]
    assert stats["errors"] == 0


def test_faults_server_kills(site: Site) -> None:
    site.begin()
    began = time.monotonic()
    for _ in range(KILLS):
        before = site.report()["counts"].get("blocks", 0)
        site.server.restart(kill=True)
        wait_until(lambda b=before: site.report()["counts"].get("blocks", 0) > b + 4 * COUNT, 30, "pages")
    seconds = time.monotonic() - began
    report = site.report()
    took = site.converge(30.0)
    print(
        f"\n{KILLS} kills in {seconds:.0f} s, {site.updates} updates, {site.refused} refused: "
        f"{_shares(report['counts'])}; all equal after {took:.1f} s"
    )
    assert report["counts"]["refreshes"] >= KILLS


@pytest.mark.parametrize("seconds", HOLES)
def test_faults_black_hole(site: Site, seconds: int) -> None:
    """Longer than 2.5 of the heartbeats of 2 s; for who is told to come back in time nothing is missing."""
    site.begin()
    wait_until(lambda: site.report()["counts"].get("blocks", 0) > 10 * COUNT, 30, "the pages")
    site.proxy.switch(Fault(blackhole=True))
    blocks = site.report()["counts"]["blocks"]
    time.sleep(seconds)
    assert site.report()["counts"]["blocks"] <= blocks + COUNT  # what was on its way
    took = site.converge(10.0)
    print(f"\na black hole of {seconds} s: {_shares(site.report()['counts'])}; all equal after {took:.1f} s")


def test_faults_a_proxy_that_cuts_every_7_seconds(site: Site) -> None:
    site.proxy.plan = Fault(cut_after=7.0)
    site.begin()
    time.sleep(max(15.0, 60 * SCALE))
    report = site.report()
    cuts = site.proxy.cuts
    took = site.converge()
    print(f"\ncut every 7 s, {cuts} cuts: {_shares(report['counts'])}; all equal after {took:.1f} s")
    assert cuts >= COUNT * 0.6  # polls do not last that long
    assert report["counts"].get("refreshes", 0) == 0


def test_faults_a_proxy_that_buffers_everything(site: Site) -> None:
    """What ends only when it is whole is given up for what ends; then everything comes."""
    site.proxy.plan = Fault(hold=True)
    site.pages.ask("fall")
    site.begin()
    wait_until(lambda: site.report()["wires"] == {"poll": COUNT}, 60, "all pages to poll")
    polls = site.report()["counts"].get("polls", 0)
    wait_until(lambda: site.report()["counts"]["polls"] > polls + 5 * COUNT, 60, "polls with something new")
    site.end()
    numbers = site.ask("POST", "/advance", {})
    rows = site.ask("POST", "/rest")
    found = site.pages.ask("converge", numbers={**numbers, RUN: rows}, within=10.0)
    report = site.report()
    print(f"\neverything buffered: {_shares(report['counts'])}; all equal after {found['seconds']:.1f} s")
    assert not report["wrong"]
    assert not found["left"]
