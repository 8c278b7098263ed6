"""What every scenario is given, and the measuring in turns that most of them do."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any

from .publisher import Http, Publisher
from .servers import BLOCK, Load, Server, gunicorn, hubbed, load, reference
from .system import BenchError, compiled, cpu

GTHREAD = ("-k", "gthread", "--threads", "4")
SYNC = ("-k", "sync")
# Files a server or the load generator has open beside its viewers.
OTHER_FILES = 100


@dataclass
class Bench:
    """Where the programs are compiled to, and how much is wanted.

    Attributes:
        directory: for the compiled programs.
        files: how many files a process may have open.
        quick: a rough figure in seconds is enough.
        small: so small that only whether it runs is of interest (the tests).
    """

    directory: Path
    files: int = sys.maxsize
    quick: bool = False
    small: bool = False

    @cached_property
    def load(self) -> str:
        """The load generator."""
        return compiled("load.c", self.directory)

    @cached_property
    def send(self) -> str:
        """The C loop."""
        return compiled("send.c", self.directory)

    @cached_property
    def ask(self) -> str:
        """The client for ordinary requests."""
        return compiled("ask.c", self.directory)

    def size(self, full: int) -> int:
        """A number of viewers or rounds, less of it when it has to be quick."""
        return max(20, full // 100) if self.small else full // 2 if self.quick else full

    def rounds(self, full: int) -> int:
        return 1 if self.small else min(full, 2) if self.quick else full

    def note(self, text: str) -> None:
        """Tells who waits what is going on."""
        print(f"  {text}", file=sys.stderr, flush=True)

    def ours(self, *worker: str) -> AbstractContextManager[Server]:
        return gunicorn("benchmarks.apps.ours:app", *(worker or GTHREAD))

    def hubbed(self, workers: int, *worker: str) -> AbstractContextManager[Server]:
        return hubbed("benchmarks.apps.ours:app", *(worker or GTHREAD), workers=workers)

    def reference(self) -> AbstractContextManager[Server]:
        return reference(self.send)

    @contextlib.contextmanager
    def hold(self, server: Server, viewers: int, *, window: int = 200, stalled: int = 0) -> Iterator[Load]:
        """Holds so many viewers, all of them or none."""
        with self.connect(server, viewers, window=window, stalled=stalled) as held:
            ready = held.ready
            if ready["ready"] != viewers:
                raise BenchError(
                    f"only {ready['ready']:,} of {viewers:,} viewers were served, with {ready['errors']} errors, "
                    f"the last of them: {ready['error'] or 'no answer in time'}"
                )
            yield held

    @contextlib.contextmanager
    def connect(self, server: Server, viewers: int, *, window: int, stalled: int = 0) -> Iterator[Load]:
        """Lets so many viewers come, however many of them are served."""
        needed = server.viewers + viewers + OTHER_FILES
        if needed > self.files:
            raise BenchError(f"it needs {needed:,} open files, and the limit is {self.files:,} (ulimit -Hn)")
        with load(self.load, server, viewers, window=window, stalled=stalled) as held:
            server.viewers += viewers
            try:
                yield held
            finally:
                server.viewers -= viewers


@dataclass
class Subject:
    """A server with its viewers, told to send to all of them.

    Attributes:
        fan_out: sends so many blocks, one every so many seconds, and returns the number of the last.
    """

    server: Server
    load: Load
    viewers: int
    fan_out: Callable[[int, float], int]

    def turn(self, count: int, interval: float) -> dict[str, Any]:
        """Sends `count` blocks to each; what that took and what the viewers saw.

        The answer is what the load generator reports, and `micros` of CPU for each value that was delivered
        (and in `workers` that of the processes that answer requests, where the one that sends is not among them),
        the `share` of the values that was (under overload some are merged into later ones), the `size` of a
        block, and how much of a core the `generator` itself had.

        Raises:
            BenchError: a viewer was lost, or did not get the last value; or one got more than was sent.
        """
        self.load.mark()
        began, before, beside = time.monotonic(), cpu(self.server.pid), cpu(self.load.process.pid)
        workers = sum(map(cpu, self.server.workers))
        number = self.fan_out(count, interval)
        report = self.load.reached(number, timeout=30)
        used, workers = cpu(self.server.pid) - before, sum(map(cpu, self.server.workers)) - workers
        report["generator"] = (cpu(self.load.process.pid) - beside) / (time.monotonic() - began)
        all_there(report, self.viewers, number)
        report["micros"] = used / max(1, report["tokens"]) * 1e6
        report["workers"] = workers / max(1, report["tokens"]) * 1e6
        report["share"] = report["tokens"] / (count * self.viewers)
        report["size"] = report["bytes"] / max(1, report["blocks"])
        if report["share"] > 1:
            raise BenchError("values from before this turn were counted in it")
        return report


def all_there(report: dict[str, Any], viewers: int, number: int = 0) -> None:
    """Whether all viewers are held, and have the value with that number.

    Raises:
        BenchError: they are not, or have not.
    """
    if report["ready"] != viewers or report["closed"]:
        raise BenchError(
            f"only {report['ready']:,} of {viewers:,} viewers are left, {report['closed']:,} were closed; "
            f"the last: {report['error']}"
        )
    if report["last"] < number:
        raise BenchError("not every viewer got the last value in time")


@contextlib.contextmanager
def fitted(
    server: Server, held: Load, viewers: int, path: str = "/publish", connections: Sequence[Http] = ()
) -> Iterator[Subject]:
    """Publishes by HTTP POST, in values of the size that makes a block `BLOCK` bytes; warmed up.

    Raises:
        BenchError: no size does.
    """
    with contextlib.closing(Publisher(server.port, BLOCK - 60, path, connections)) as by_post:
        subject = Subject(server, held, viewers, by_post.run)
        by_post.size += round(BLOCK - subject.turn(5, 0.05)["size"])
        size = subject.turn(5, 0.05)["size"]
        # the numbers in it grow
        if abs(size - BLOCK) > 4:
            raise BenchError(f"a block is {size:.0f} bytes, not {BLOCK}")
        yield subject


def looper(server: Server, block: int = BLOCK) -> Callable[[int, float], int]:
    """Tells the C loop to send."""

    def run(count: int, interval: float) -> int:
        server.process.tell(f"run {int(interval * 1000)} {count} {block}")
        return int(server.process.line(60 + count * interval).removeprefix("done "))

    return run


def in_turns(
    subjects: Sequence[Subject], rounds: int, count: int, interval: float
) -> list[list[dict[str, Any]]]:
    """Turns of each, each round beginning with the next: whoever follows itself has some per cent less to pay.

    Of two that is the order A B B A A B B A, and each follows itself as often; of three nobody does.
    """
    turns: list[list[dict[str, Any]]] = [[] for _ in subjects]
    for i in range(rounds):
        for j in range(i, i + len(subjects)):
            which = j % len(subjects)
            turns[which].append(subjects[which].turn(count, interval))
    return turns


def ratio(turns: list[dict[str, Any]], references: list[dict[str, Any]], name: str = "micros") -> float:
    """Median of the ratios of CPU, of two turns each (A B B A) to the two of the reference among them."""
    found = []
    for i in range(0, len(turns), 2):
        mine, other = (sum(t[name] for t in of[i : i + 2]) for of in (turns, references))
        found.append(float(mine / other))
    return median(found)


def middle(turns: list[dict[str, Any]], name: str) -> float:
    return median(float(turn[name]) for turn in turns)


def caveat(turns: list[dict[str, Any]]) -> str:
    """What a reader has to know about these turns, or nothing."""
    said = ""
    if (share := middle(turns, "share")) < 0.99:
        said += f"; {1 - share:.0%} of the values were merged into later ones"
    if (generator := middle(turns, "generator")) > 0.9:
        said += f"; the load generator was busy {generator:.0%} of the time"
    return said
