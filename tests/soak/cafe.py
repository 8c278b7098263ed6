"""The example's order board on a real server, with a crowd that looks at it and tills that order.

What is done to it meanwhile is the tests' affair: `tests.soak.test_deploy` with thousands of viewers, and
`tests.servers.test_workers` with a few dozen. Both count the same: who had to reconnect, what a viewer has not been
sent, and what it was sent twice.
"""

from __future__ import annotations

import itertools
import math
import os
import re
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.servers.process import Server, Servers, wait_until
from tests.soak.crowd import Crowd
from tests.soak.ledger import Run, position, runs_of
from tests.soak.tills import Order, Tills

PAGES = ["/", "/bar", "/kitchen"]
TICK = 1.0  # seconds between two ticks of the example's clock
_READY = re.compile(r"Worker ready \(pid: (\d+)\) at ([\d.]+)")
_GONE = re.compile(r"Worker gone \(pid: (\d+)\) at ([\d.]+)")
_ENDING = 0.5  # seconds that a worker which was told to end may still be there
_POST = re.compile(r"^<(\d+)> POST 303$", re.M)


@dataclass
class Figures:
    """What a scenario came to; the fields are the columns of the table.

    Attributes:
        swaps: how often something was replaced or killed.
        orders, refused: acknowledged, and not.
        lost: over all viewers, what was acknowledged and did not arrive, and what is missing in between.
        doubled: over all viewers, what arrived again.
        runs: of the shared loop.
        pause: seconds, the longest between two ticks of it in different processes.
        idle: the same, of which a process that could run it was there.
        errors: tracebacks in the server's log.
    """

    name: str
    viewers: int
    seconds: float
    swaps: int
    workers: int
    orders: int
    refused: int
    reconnects: int
    lost: int
    doubled: int
    runs: int
    pause: float
    idle: float
    errors: int
    note: str = ""


@dataclass
class Cafe:
    """An order board that is open."""

    server: Server
    crowd: Crowd
    tills: Tills
    namespace: str
    began: float = field(default_factory=time.monotonic)

    def report(self) -> dict[str, Any]:
        found: dict[str, Any] = self.crowd.ask("report")
        return found

    def gather(self, count: int, timeout: float) -> None:
        """Opens so many pages more, and waits until all are live."""
        before = self.report()["viewers"]
        self.crowd.ask("gather", paths=PAGES, count=count)
        wait_until(lambda: self.report()["live"] == before + count, timeout, f"{count} viewers")
        away = self.report()["counters"]
        assert not away, f"not all were let in at once: {away}"

    def all_have_everything(self) -> bool:
        """Whether all are there, and none lacks what another one has."""
        return _is_whole(self.report())

    def ordered(self, more: int, timeout: float = 30.0) -> None:
        """Waits until so many orders more were acknowledged."""
        before = len(self.tills.acknowledged)
        wait_until(lambda: len(self.tills.acknowledged) >= before + more, timeout, f"{more} orders")

    def runs(self) -> list[Run]:
        """The runs of the clock; see `runs_of`."""
        return runs_of(self.crowd.ask("ran"))

    def pauses(self) -> list[tuple[float, float]]:
        """From the last tick of each run to the first of the next, since the viewers are there.

        Returns:
            The seconds; and how many of them a worker was there that could have run it: had loaded the app, and was
            not about to end. When all are told to end together, as by SIGHUP, the next ones have yet to load it.
        """
        log = self.server.log()
        ready = {int(pid): float(at) for pid, at in _READY.findall(log)}
        gone = {int(pid): float(at) for pid, at in _GONE.findall(log)}
        found = []
        for run, then in itertools.pairwise(self.runs()):
            if then.began > self.began:
                able = [ready[then.pid]]
                for pid, at in ready.items():
                    if at < then.began and gone.get(pid, math.inf) > then.began + _ENDING:
                        able.append(at)
                found.append((then.began - run.last, then.began - max(run.last, min(able))))
        return found

    def took_orders(self) -> set[int]:
        """The workers that have taken orders."""
        return {int(pid) for pid in _POST.findall(self.server.log())}

    # What is done to it

    def reload(self, timeout: float = 30.0) -> None:
        """``kill -HUP``, and waits until every worker is a new one."""
        before = set(self.server.children())
        self.server.signal(signal.SIGHUP)

        def renewed() -> bool:
            now = set(self.server.children())
            return len(now) == len(before) and not now & before

        wait_until(renewed, timeout, "the workers to be replaced")

    def recycled(self) -> int:
        """How many workers have ended because of ``--max-requests``."""
        return self.server.log().count("Autorestarting worker after current request")

    def kill_runner(self, timeout: float = 10.0) -> float:
        """``kill -9`` to the worker that runs the clock; seconds until another one's first tick is there."""
        runs = len(self.runs())
        pid = self.runs()[-1].pid
        at = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: len(self.runs()) > runs, timeout, "another worker to run the clock")
        return self.runs()[runs].began - at

    def kill_hub(self, timeout: float = 30.0) -> tuple[list[float], list[float]]:
        """``kill -9`` to the hub process.

        Returns:
            The seconds until each viewer was live again, and until it was right again.
        """
        hub = hub_of(self.namespace)
        viewers: int = self.report()["viewers"]
        at = self.crowd.ask("mark")
        os.kill(hub, signal.SIGKILL)

        def healed() -> bool:
            right = len(self.crowd.ask("returns")["healed"])
            return viewers == right == int(self.report()["live"])

        wait_until(healed, timeout, "everybody to be back and right")
        assert hub_of(self.namespace) != hub
        found = self.crowd.ask("returns")
        return [back - at for back in found["back"]], [healed - at for healed in found["healed"]]

    def hang_hub(self, timeout: float) -> list[Order]:
        """Stops the hub until each till was refused an order and each viewer has noticed; those orders."""
        hub = hub_of(self.namespace)
        self.crowd.ask("mark")
        before = len(self.tills.refused)

        def noticed() -> bool:
            enough = len(self.tills.refused) >= before + self.tills.count
            return enough and not self.report()["live"]

        os.kill(hub, signal.SIGSTOP)
        try:
            wait_until(noticed, timeout, "the hub's silence to be noticed")
        finally:
            os.kill(hub, signal.SIGCONT)
        refused = self.tills.refused[before:]
        wait_until(self.all_have_everything, timeout, "everybody to be back")
        assert hub_of(self.namespace) == hub
        return refused

    def settle(self, name: str, swaps: int, timeout: float = 30.0) -> Figures:
        """Closes the tills, waits until everything has arrived, and counts."""
        self.tills.close()
        seconds = time.monotonic() - self.began
        acknowledged = self.tills.acknowledged
        wanted: dict[str, list[str]] = {}
        for order in acknowledged:
            wanted.setdefault(order.channel, []).append(order.mark)
        # What was looked at last is what counts: the clock goes on.
        deadline = time.monotonic() + timeout
        while True:
            missing: int = self.crowd.ask("missing", marks=wanted)
            report = self.report()
            if (not missing and _is_whole(report)) or time.monotonic() > deadline:
                break
        runs, pauses = self.runs(), self.pauses()
        counters = report["counters"]
        note = ", ".join(f"{count} {why}" for why, count in sorted(counters.items()))
        assert not report["wrong"], report["wrong"]
        misplaced = self._misplaced(acknowledged)
        assert not misplaced, misplaced
        return Figures(
            name,
            report["viewers"],
            round(seconds, 1),
            swaps,
            len(self.took_orders()),
            len(acknowledged),
            len(self.tills.refused),
            sum(counters.values()) - counters.get("pages", 0) - counters.get("refresh", 0),
            report["gaps"] + missing + report["behind"],
            report["doubled"],
            len(runs),
            round(max((pause for pause, _ in pauses), default=0.0), 2),
            round(max((idle for _, idle in pauses), default=0.0), 2),
            self.server.log().count("Traceback"),
            note,
        )

    def _misplaced(self, acknowledged: list[Order]) -> list[str]:
        """Orders that came in a block which does not promise the position that `publish` had returned.

        And those whose position is of a hub that nobody follows.
        """
        entries = self.crowd.ask("entries")
        epochs = {entry[0] for entry in entries.values()} | {*self.report()["epochs"]}
        wrong = []
        for order in acknowledged:
            asked, at = position(order.position)
            if asked not in epochs:
                wrong.append(f"{order} was published where nobody follows; they follow {epochs}")
            if order.mark in entries:  # else it was in a list
                epoch, channel, _, offset = entries[order.mark]
                if (epoch, channel) != (asked, order.channel) or at > offset:
                    wrong.append(f"{order} came as {entries[order.mark]}")
        return wrong


def _is_whole(report: dict[str, Any]) -> bool:
    return len(report["epochs"]) == 1 and not report["behind"] and bool(report["live"] == report["viewers"])


@contextmanager
def open_cafe(
    servers: Servers,
    directory: Path,
    *arguments: str,
    viewers: int,
    worker_class: str = "gthread",
    workers: int = 4,
    tills: int = 4,
    pause: float = 0.4,
    timeout: float = 120.0,
    **settings: object,
) -> Iterator[Cafe]:
    """An order board that has its viewers, and at which orders are taken.

    Args:
        servers: the fixture.
        directory: for its database.
        *arguments: further ones of gunicorn.
        viewers: so many.
        worker_class, workers: of gunicorn.
        tills: so many orders at once.
        pause: seconds between two orders of one till.
        timeout: seconds in which the viewers have to be there.
        **settings: of afterload; a namespace among them is one whose hub is there already.
    """
    settings.setdefault("namespace", f"cafe-{secrets.token_hex(5)}")
    namespace = str(settings["namespace"])
    env = {f"FLASK_AFTERLOAD_{name.upper()}": str(value) for name, value in settings.items()}
    env["BOARD"] = str(directory / "board.sqlite")
    log = ["--access-logfile", "-", "--access-logformat", "%(p)s %(m)s %(s)s"]
    log += ["--config", "python:tests.soak.gunicorn_conf"]
    threads = 1 if worker_class == "sync" else 4
    try:
        server = servers.gunicorn(
            "examples.board:app",
            *log,
            *arguments,
            worker_class=worker_class,
            workers=workers,
            threads=threads,
            env=env,
        )
        with Crowd(server.port, directory / "crowd.log") as crowd:
            server.wait_log(f"(?s)(?:Worker ready.*?){{{workers}}}")
            cafe = Cafe(server, crowd, Tills(server.port, tills, pause), namespace)
            cafe.gather(viewers, timeout)
            wait_until(lambda: crowd.ask("ran"), 10, "the clock's first tick")
            crowd.ask("mark")
            cafe.began = time.monotonic()
            with cafe.tills:
                yield cafe
        server.stop()
    finally:
        for pid in hubs(namespace):
            os.kill(pid, signal.SIGKILL)


def hubs(namespace: str) -> list[int]:
    """The hub processes of a namespace that apps have started."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            is_hub = path.with_name("comm").read_text() == "afterload-hub\n"
            if is_hub and f"\0-m\0afterload.hub\0{namespace}\0" in path.read_text():
                found.append(int(path.parent.name))
        except OSError:
            continue  # it has ended meanwhile
    return found


def hub_of(namespace: str) -> int:
    """The one hub process of a namespace."""
    found = hubs(namespace)
    assert len(found) == 1, f"{namespace} has {len(found)} hub processes"
    return found[0]


def is_met(namespace: str) -> bool:
    """Whether somebody is at the rendezvous of a namespace."""
    return f"@afterload/{os.getuid()}/{namespace}\n" in Path("/proc/net/unix").read_text()


@contextmanager
def separate_hub(directory: Path) -> Iterator[str]:
    """``afterload hub`` as a supervisor would start it; the namespace."""
    namespace = f"cafe-{secrets.token_hex(5)}"
    command = [str(Path(sys.executable).with_name("afterload")), "hub", "--namespace", namespace]
    log_path = directory / "hub.log"
    with log_path.open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        wait_until(lambda: is_met(namespace) or process.poll() is not None, 20, "the hub")
        assert process.poll() is None, log_path.read_text()
        yield namespace
        assert process.poll() is None, log_path.read_text()
    finally:
        process.terminate()
        process.wait(20)
