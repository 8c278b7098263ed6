"""What one publish to many viewers costs: beside the C loop, other servers, and a view that computes."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

from .bench import Bench, Subject, caveat, fitted, in_turns, looper, middle, ratio
from .publisher import Http
from .servers import BLOCK, Server, gunicorn, uvicorn
from .system import BenchError
from .table import Row

PEERS = ("sse-starlette", "Starlette", "Flask + gevent")
INTERVAL = 0.05


def cpu_per_delivery(bench: Bench) -> Iterator[Row]:
    """CPU of the worker for each value that reaches a viewer, as a ratio to the C loop.

    A real gunicorn worker (gthread, 4 threads); a value is published by HTTP POST every 50 ms; a block is 200
    bytes. The CPU is all that the worker process uses meanwhile, so answering the POSTs is part of it. The C
    loop sends as many blocks of the same size, as often, to as many connections, in turns with it.
    """
    found = []
    for viewers, rounds in ((bench.size(2000), 20), (bench.size(5000), 16)):
        bench.note(f"CPU per delivery, {viewers:,} viewers")
        turns, references = beside_c(bench, viewers, bench.rounds(rounds))
        found.append((viewers, ratio(turns, references)))
        yield Row(
            f"server CPU per delivery, gunicorn worker, publish by HTTP POST every 50 ms, {BLOCK} B, "
            f"{viewers:,} viewers",
            "≤ 1.3 × C loop",
            f"{found[-1][1]:.2f} × ({middle(turns, 'micros'):.1f} µs; "
            f"C loop {middle(references, 'micros'):.1f} µs){caveat(turns)}",
            found[-1][1] <= 1.3,
            {"turns": turns, "references": references},
            short=f"{found[-1][1]:.2f} ×{caveat(turns)}",
        )
    (fewer, at_fewer), (more, at_more) = found
    yield Row(
        f"the same, linear in viewers: {fewer:,} → {more:,}",
        "≤ 1.1 times the ratio",
        f"{at_more / at_fewer:.2f} ({at_fewer:.2f} × → {at_more:.2f} ×)",
        at_more <= at_fewer * 1.1,
        short=f"{at_more / at_fewer:.2f}",
    )


def beside_c(bench: Bench, viewers: int, rounds: int) -> list[list[dict[str, Any]]]:
    """Ours and the C loop, by turns."""
    with (
        bench.reference() as c,
        bench.ours() as ours,
        bench.hold(c, viewers) as c_load,
        bench.hold(ours, viewers) as ours_load,
        fitted(ours, ours_load, viewers) as subject,
    ):
        reference = Subject(c, c_load, viewers, looper(c))
        reference.turn(5, INTERVAL)
        return in_turns((subject, reference), rounds, 5 if bench.small else 25, INTERVAL)


def peers(bench: Bench) -> Iterator[Row]:
    """The same for other ways to do it, in the same turns with the C loop.

    sse-starlette and bare Starlette with a queue for each viewer, under uvicorn as pip installs it (asyncio,
    h11), and Flask with a generator for each viewer under gunicorn's gevent worker. Blocks are as big, and
    published as often, to a number of viewers that all of them can keep up with. There is no target: they are
    what the ratios above can be compared with.
    """
    viewers, count = bench.size(1000), 3 if bench.small else bench.size(20)
    names = ("afterload", *PEERS)
    with contextlib.ExitStack() as stack:
        c = stack.enter_context(bench.reference())
        reference = Subject(c, stack.enter_context(bench.hold(c, viewers)), viewers, looper(c))
        reference.turn(5, INTERVAL)
        for name in names:
            bench.note(f"peers: {name}, {viewers:,} viewers")
            with (
                peer(bench, name) as server,
                bench.hold(server, viewers) as held,
                fitted(server, held, viewers) as subject,
            ):
                turns, references = in_turns((subject, reference), bench.rounds(6), count, INTERVAL)
            found = ratio(turns, references)
            yield Row(
                f"server CPU per delivery at {viewers:,} viewers: {name}",
                "",
                f"{found:.1f} × C loop ({middle(turns, 'micros'):.1f} µs){caveat(turns)}",
                None,
                {"turns": turns, "references": references},
                short=f"{found:.1f} × C loop",
            )


@contextlib.contextmanager
def peer(bench: Bench, name: str) -> Iterator[Server]:
    with contextlib.ExitStack() as stack:
        if name == "afterload":
            yield stack.enter_context(bench.ours())
        elif name == "Flask + gevent":
            options = ("-k", "gevent", "--worker-connections", "20000", "--graceful-timeout", "1")
            yield stack.enter_context(gunicorn("benchmarks.apps.peer_gevent:app", *options))
        else:
            env = {"BENCH_PEER": name.lower()}
            yield stack.enter_context(uvicorn("benchmarks.apps.peer_starlette:app", env))


def beside_computing(bench: Bench) -> Iterator[Row]:
    """Time from publish to receipt while one view of the same worker never stops computing.

    The time begins before the POST that publishes and ends when the load generator has the block, so answering
    that POST beside the computing view is part of it. The view is pure Python, a second for each request, and
    is asked for again at once.
    """
    viewers, count = bench.size(2000), 5 if bench.small else 60
    bench.note(f"beside a computing view, {viewers:,} viewers")
    with bench.ours() as ours, bench.hold(ours, viewers) as held, fitted(ours, held, viewers) as subject:
        alone = subject.turn(count, INTERVAL)
        with _computing(ours):
            beside = [subject.turn(count, INTERVAL) for _ in range(bench.rounds(4))]
    p99 = middle(beside, "p99")
    yield Row(
        f"p99 publish → received, {viewers:,} viewers, one view always computing in the same worker",
        "≤ 150 ms",
        f"{p99:.0f} ms ({alone['p99']:.0f} ms without it){caveat(beside)}",
        p99 <= 150,
        {"alone": alone, "beside": beside},
    )


@contextlib.contextmanager
def _computing(server: Server) -> Iterator[None]:
    with (
        contextlib.closing(Http(server.port)) as to,
        contextlib.closing(Http(server.port)) as beside,
        computing([(to, beside)]),
    ):
        yield


@contextlib.contextmanager
def computing(workers: Sequence[tuple[Http, Http]]) -> Iterator[None]:
    """One request after the other to a view of each worker that computes, from before the block begins until it ends.

    Args:
        workers: two connections to each.
    """
    stop = threading.Event()
    failures: list[Exception] = []

    def compute(http: Http) -> None:
        try:
            while not stop.is_set():
                http.ask("GET", "/compute?s=1")
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=compute, args=(to,)) for to, _ in workers]
    for thread in threads:
        thread.start()
    try:
        for _, beside in workers:
            while beside.ask("GET", "/computing") != "1" and not failures:
                time.sleep(0.01)
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    if failures:
        raise BenchError(f"the computing view failed: {failures[0]}")
