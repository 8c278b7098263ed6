"""What it costs to hold viewers: memory, room for ordinary requests, and taking them all at once."""

from __future__ import annotations

import contextlib
import json
import subprocess
import threading
import time
from collections.abc import Iterator
from statistics import median
from typing import Any

from .bench import GTHREAD, SYNC, Bench, all_there
from .publisher import Publisher
from .servers import BLOCK, Load, Server
from .system import BenchError, cpu, kernel_memory, private_memory
from .table import Row

Pair = tuple[float, float]


def memory(bench: Bench) -> Iterator[Row]:
    """Growth of the worker's own memory for each idle viewer, and of the kernel's.

    The worker's is what is private to its process. Some viewers come first: what the worker needs for any
    viewer at all is not the price of one more. The kernel's is that of the whole machine, so it is a rough
    figure; both ends of each connection are in it, as the load generator is on the same machine.
    """
    with bench.ours() as ours:
        viewers, each, kernel = idle(bench, ours)
    yield Row(
        f"user memory per idle viewer, {viewers:,} viewers",
        "≤ 1 KB",
        f"{each / 1024:.2f} KB (and about {kernel / 1024:.0f} KB in the kernel, both ends of its connection)",
        each <= 1024,
        {"bytes": each, "kernel": kernel},
    )


def idle(bench: Bench, server: Server) -> tuple[int, float, float]:
    """Holds idle viewers: how many, bytes of memory for each in the process that sends to them, and in the kernel."""
    warm, viewers = (20, 100) if bench.small else (500, 10_000)
    bench.note(f"memory of {viewers:,} idle viewers")
    with bench.hold(server, warm) as first:
        time.sleep(0.1 if bench.small else 0.5)
        before, kernel_before = private_memory(server.pid), kernel_memory()
        with bench.hold(server, viewers - warm) as rest:
            time.sleep(0.1 if bench.small else 1)
            each = (private_memory(server.pid) - before) / (viewers - warm)
            kernel = (kernel_memory() - kernel_before) / (viewers - warm)
            all_there(first.report(), warm)
            _reach_all(server, rest, viewers - warm)
    return viewers, each, kernel


def loops(bench: Bench) -> Iterator[Row]:
    """What a loop of a page's own costs: memory of the worker for each, and CPU for each of its updates.

    Pages with a loop each that yields ten times a second; once as a generator, which is a thread, and once as
    an async generator, which is a task. The page's viewer is in the memory, and the sending in the CPU.
    """
    warm, viewers, seconds = (5, 15, 3.0) if bench.small else (30, 150, 5.0)
    for name, path in (("a thread", "/thread"), ("a task", "/task")):
        bench.note(f"{viewers} loops of a page's own, each {name}")
        with bench.ours() as ours:
            ours.path = path
            with bench.hold(ours, warm) as first:
                before = private_memory(ours.pid)
                with bench.hold(ours, viewers) as rest:
                    time.sleep(0.2 if bench.small else 1)
                    each = (private_memory(ours.pid) - before) / viewers
                    first.mark()
                    rest.mark()
                    used = cpu(ours.pid)
                    time.sleep(seconds)
                    used = cpu(ours.pid) - used
                    updates = first.report()["blocks"] + rest.report()["blocks"]
        if updates < (warm + viewers) * seconds:
            raise BenchError(f"{updates} updates came of {warm + viewers} loops in {seconds} s")
        micros = used / updates * 1e6
        yield Row(
            f"a loop of a page's own, as {name}",
            "",
            f"{each / 1024:.0f} KB, and {micros:.0f} µs of CPU for each update",
            None,
            {"bytes": each, "micros": micros, "updates": updates},
        )


def _reach_all(server: Server, held: Load, viewers: int) -> None:
    """One value, which all of them must get: connections that are open are not yet viewers."""
    with contextlib.closing(Publisher(server.port, BLOCK - 60)) as publisher:
        number = publisher.publish()
    all_there(held.reached(number, timeout=20), viewers, number)


def requests_beside(bench: Bench) -> Iterator[Row]:
    """Throughput of ordinary requests beside viewers, against the same worker with none.

    Four clients ask as fast as they are answered, a second at a time, by turns a worker with viewers and one
    without. The viewers are idle first; then a value is published to all of them five times a second, which the
    load generator receives on the same cores.
    """
    viewers = bench.size(5000)
    for name, worker in (("gthread", GTHREAD), ("sync", SYNC)):
        bench.note(f"ordinary requests beside {viewers:,} viewers, {name} worker")
        with bench.ours(*worker) as empty, bench.ours(*worker) as full, bench.hold(full, viewers) as held:
            idle = _pairs(bench, empty, full, None)
            with contextlib.closing(Publisher(full.port, BLOCK - 60)) as publisher:
                busy = _pairs(bench, empty, full, publisher)
            _reach_all(full, held, viewers)
        yield from _throughput(name, viewers, idle, busy, publisher.late)


def _pairs(bench: Bench, empty: Server, full: Server, publisher: Publisher | None) -> list[Pair]:
    """Requests a second of the worker without viewers and of the one with, in turns."""
    seconds = 0.2 if bench.small else 1.0
    pairs = []
    for i in range(bench.rounds(10)):
        rates = {}
        for server in (empty, full) if i % 2 else (full, empty):
            with _publishing(publisher if server is full else None, 5.0):
                rates[server.port] = _ask(bench, server, seconds)
        pairs.append((rates[empty.port], rates[full.port]))
    return pairs


def _ask(bench: Bench, server: Server, seconds: float) -> float:
    run = subprocess.run(
        [bench.ask, str(server.port), "/plain", "4", str(seconds)], capture_output=True, text=True, check=True
    )
    answer = json.loads(run.stdout)
    if answer["errors"]:
        raise BenchError(f"{answer['errors']} of {answer['answers']} ordinary requests failed")
    return float(answer["answers"] / answer["seconds"])


@contextlib.contextmanager
def _publishing(publisher: Publisher | None, rate: float) -> Iterator[None]:
    """Publishes `rate` times a second meanwhile."""
    if publisher is None:
        yield
        return
    stop = threading.Event()
    failures: list[Exception] = []

    def run() -> None:
        try:
            while not stop.is_set():
                publisher.run(1, 1 / rate)
        except Exception as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    if failures:
        raise BenchError(f"a publish failed: {failures[0]}")


def _throughput(name: str, viewers: int, idle: list[Pair], busy: list[Pair], late: int) -> Iterator[Row]:
    for what, pairs, least in (("idle", idle, 0.95), ("sent 5 publishes a second", busy, 0.75)):
        share = median(beside / alone for alone, beside in pairs)
        yield Row(
            f"ordinary requests while {viewers:,} viewers are {what}, {name} worker",
            f"≥ {least:.0%} of those without viewers",
            f"{share:.0%} ({median(beside for _, beside in pairs):,.0f} a second)"
            + (f"; {late} publishes were late" if late and pairs is busy else ""),
            share >= least,
            {"pairs": pairs},
            short=f"{share:.0%}",
        )


def connects(bench: Bench) -> Iterator[Row]:
    """Everyone comes at once: are all served, and how long does it take.

    All connections are begun before the first answer is read. Afterwards one value is published, and all must
    get it.
    """
    viewers = 50 if bench.small else 5000
    bench.note(f"{viewers:,} connects at once")
    with bench.ours() as ours, bench.connect(ours, viewers, window=0) as held:
        found: dict[str, Any] = held.ready
        if found["ready"]:
            _reach_all(ours, held, found["ready"])
    yield Row(
        f"{viewers:,} connects at once",
        "all served, no error",
        f"{found['ready']:,} served in {found['seconds']:.1f} s, {found['errors']} errors"
        + (f", the last: {found['error']}" if found["errors"] else ""),
        found["ready"] == viewers and not found["errors"],
        found,
    )
