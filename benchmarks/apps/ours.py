"""afterload under test: one page of one named channel, as any app would have it."""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

from flask import Flask, Response, request

from afterload.flask import Live

app = Flask(__name__)
app.config.from_prefixed_env("BENCH")
live = Live(app)
computing: set[object] = set()


@app.get("/bench")
def bench() -> Response:
    return live.page("bench.html", "bench")


def thread() -> Iterator[Any]:
    for i in itertools.count():
        yield {"#data": i}
        live.sleep(0.1)


async def task() -> AsyncIterator[Any]:
    for i in itertools.count():
        yield {"#data": i}
        await asyncio.sleep(0.1)


@app.get("/thread")
def of_a_thread() -> Response:
    return live.page("bench.html", thread())


@app.get("/task")
def of_a_task() -> Response:
    return live.page("bench.html", task())


@app.post("/publish")
def publish() -> str:
    live.publish("bench", {"#data": request.get_data(as_text=True)})
    return "ok"


@app.post("/stamped")
def stamped() -> str:
    """As `publish`, of a value that has the time at which it is published in place of that of the request."""
    number = request.get_data(as_text=True).partition(":")[2]
    live.publish("bench", {"#data": f"@{time.monotonic_ns()}:{number}"})
    return "ok"


@app.get("/pid")
def pid() -> str:
    return str(os.getpid())


@app.get("/plain")
def plain() -> str:
    return "ok"


@app.get("/compute")
def compute() -> str:
    """Pure Python for `s` seconds: the view that does not let go of the interpreter."""
    until = time.monotonic() + float(request.args["s"])
    total = 0
    with counted(computing):
        while time.monotonic() < until:
            total += sum(i * i for i in range(1000))
    return str(total)


@app.get("/computing")
def how_many_compute() -> str:
    return str(len(computing))


@contextmanager
def counted(among: set[object]) -> Iterator[None]:
    token = object()
    among.add(token)
    try:
        yield
    finally:
        among.discard(token)


@app.post("/flood")
def flood() -> str:
    """Publishes `rate` values a second for `s` seconds, ending on their number; the seconds it took."""
    rate, count = float(request.args["rate"]), int(float(request.args["rate"]) * float(request.args["s"]))
    begin = time.monotonic()
    for i in range(1, count + 1):
        live.publish("bench", {"#data": f"@{time.monotonic_ns()}:{i}@".ljust(140, "x")})
        time.sleep(max(0.0, begin + i / rate - time.monotonic()))
    return str(time.monotonic() - begin)


@app.get("/stats")
def stats() -> dict[str, object]:
    return live.stats()


@app.get("/kept")
def kept() -> list[int]:
    """Of the viewer that has most unsent: those bytes, and the bytes of the block they are of."""
    rests = [v.rest for v in list(live.hub.fanout.viewers.values())]
    return max(
        ([rest.nbytes, memoryview(rest.obj).nbytes] for rest in rests if rest is not None), default=[0, 0]
    )
