"""Where the hub runs: in a thread of the one worker, or as a process of its own beside one or several."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from statistics import median
from typing import Any

from .bench import GTHREAD, Bench, Subject, caveat, fitted, in_turns, middle, ratio
from .fanout import computing
from .holding import idle
from .publisher import Http, to_each
from .servers import Server
from .system import Process
from .table import Row

INTERVAL = 0.05
WORKERS = 4
# Connections to a certain worker are to be kept while others have their turns.
KEEPING = (*GTHREAD, "--keep-alive", "75")
COMPUTE = "while True: sum(i * i for i in range(1000))"


def places(bench: Bench) -> dict[str, Callable[[], AbstractContextManager[Server]]]:
    """What is compared: where the hub is, and how many workers there are."""
    return {
        "in a thread of the worker": lambda: bench.ours(*KEEPING),
        "as a process, 1 worker": lambda: bench.hubbed(1, *KEEPING),
        f"as a process, {WORKERS} workers": lambda: bench.hubbed(WORKERS, *KEEPING),
    }


def hub(bench: Bench) -> Iterator[Row]:
    """A hub in a thread of the only worker, and a hub process beside one worker and four.

    Values are published as in `cpu`, by each worker in its turn. The time from publish to receipt begins where the
    view calls `live.publish`. Then a view of each of the four workers never stops computing; as that takes all
    cores of a small machine, it is compared with as many other programs that compute, in turns. Viewers come 200
    at a time, as fast as they are served. The memory is the hub process's own, for each idle viewer.
    """
    yield from fan_out(bench)
    yield from beside_computing(bench)
    yield from adopting(bench)
    with bench.hubbed(1) as server:
        viewers, each, kernel = idle(bench, server)
    yield Row(
        f"user memory of a hub process per idle viewer, {viewers:,} viewers",
        "≤ 1 KB",
        f"{each / 1024:.2f} KB (and about {kernel / 1024:.0f} KB in the kernel, both ends of its connection)",
        each <= 1024,
        {"bytes": each, "kernel": kernel},
    )


@contextlib.contextmanager
def published(bench: Bench, server: Server, viewers: int) -> Iterator[Subject]:
    """A server with its viewers, published to by each of its workers in turn."""
    pids = server.workers or (server.pid,)
    with (
        bench.hold(server, viewers) as held,
        to_each(server.port, pids) as connections,
        fitted(server, held, viewers, "/stamped", connections) as subject,
    ):
        yield subject


def fan_out(bench: Bench) -> Iterator[Row]:
    """Time and CPU from publish to receipt, at each place."""
    viewers, count = bench.size(2000), 5 if bench.small else 25
    bench.note(f"publish → received with the hub in a thread and as a process, {viewers:,} viewers")
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(server()) for server in places(bench).values()]
        subjects = [stack.enter_context(published(bench, server, viewers)) for server in servers]
        found = in_turns(subjects, bench.rounds(12), count, INTERVAL)
    for where, turns in zip(places(bench), found, strict=True):
        for turn in turns:
            turn["all"] = turn["micros"] + turn["workers"]
        short = (
            f"p50 {middle(turns, 'p50'):.0f} ms, p99 {middle(turns, 'p99'):.0f} ms; "
            f"{middle(turns, 'all'):.1f} µs of CPU per delivery"
        )
        times = ratio(turns, found[0], "all")
        of_them = f"{middle(turns, 'micros'):.1f} µs of them the hub's; {times:.2f} × in a thread"
        yield Row(
            f"publish → received, {viewers:,} viewers, hub {where}",
            "",
            (short if turns is found[0] else f"{short} ({of_them})") + caveat(turns),
            None,
            {"turns": turns},
            short=short,
        )


def beside_computing(bench: Bench) -> Iterator[Row]:
    """Time from publish to receipt, while a view of every worker never stops computing."""
    viewers, count = bench.size(2000), 5 if bench.small else 60
    bench.note(f"all of {WORKERS} workers compute, {viewers:,} viewers")
    others: list[dict[str, Any]] = []
    workers: list[dict[str, Any]] = []
    with (
        bench.hubbed(WORKERS, *KEEPING) as server,
        published(bench, server, viewers) as subject,
        to_each(server.port, server.workers) as to,
        to_each(server.port, server.workers) as beside,
    ):
        alone = subject.turn(count, INTERVAL)
        for i in range(bench.rounds(4)):
            for turns, load in ((others, other_programs), (workers, computing))[:: -1 if i % 2 else 1]:
                with load(list(zip(to, beside, strict=True))):
                    turns.append(subject.turn(count, INTERVAL))
    found = middle(workers, "p99") / middle(others, "p99")
    yield Row(
        f"p99 publish → received, {viewers:,} viewers, hub as a process, a view always computing in each of {WORKERS} "
        "workers",
        f"≤ 1.2 × {WORKERS} other programs that compute",
        f"{found:.2f} × ({middle(workers, 'p99'):.0f} ms; other programs {middle(others, 'p99'):.0f} ms; "
        f"{alone['p99']:.0f} ms where nothing computes){caveat(workers)}",
        found <= 1.2,
        {"alone": alone, "others": others, "turns": workers},
        short=f"{found:.2f} ×",
    )


@contextlib.contextmanager
def other_programs(workers: list[tuple[Http, Http]]) -> Iterator[None]:
    """As many programs that compute, and have nothing to do with the workers."""
    with contextlib.ExitStack() as stack:
        for _ in workers:
            stack.enter_context(Process([sys.executable, "-c", COMPUTE]))
        yield


def adopting(bench: Bench) -> Iterator[Row]:
    """How fast viewers are served who all come."""
    viewers = bench.size(2000)
    bench.note(f"{viewers:,} viewers come, 200 at a time")
    rates: dict[str, list[float]] = {where: [] for where in places(bench)}
    with contextlib.ExitStack() as stack:
        servers = {where: stack.enter_context(server()) for where, server in places(bench).items()}
        for i in range(bench.rounds(6)):
            for where in list(servers)[:: -1 if i % 2 else 1]:
                with bench.hold(servers[where], viewers) as held:
                    rates[where].append(viewers / held.ready["seconds"])
    yield Row(
        "viewers that are served a second, when many come",
        "",
        "; ".join(f"hub {where} {median(found):,.0f}" for where, found in rates.items()),
        None,
        {"rates": rates},
    )
