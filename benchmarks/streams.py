"""What viewers get when there is too much, from one that takes nothing, and how big the client is."""

from __future__ import annotations

import contextlib
import ctypes
import ctypes.util
import json
import shutil
import statistics
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import afterload

from .bench import Bench, all_there, fitted, middle
from .publisher import Http, Publisher
from .servers import Load, Server
from .system import BenchError, private_memory
from .table import Row

CLIENT = Path(afterload.__file__).parent / "static" / "afterload.js"
BIG = 65_536


def flood(bench: Bench) -> Iterator[Row]:
    """A thousand values a second to everyone: viewers are sent what can be seen, and all end on the last one.

    A view publishes in a loop. Sends are counted as blocks that arrive at one viewer, the most of any. How late
    the last value was is its age when it was received by whoever got it last.
    """
    viewers, rate, seconds = bench.size(1000), 1000, 1 if bench.small else 4
    bench.note(f"{rate:,} updates a second to {viewers:,} viewers")
    with bench.ours() as ours, bench.hold(ours, viewers) as held:
        held.mark()
        http = Http(ours.port)
        took = float(http.ask("POST", f"/flood?rate={rate}&s={seconds}"))
        http.close()
        report = held.reached(rate * seconds, timeout=seconds * 3)
        all_there(report, viewers)
    done = report["last"] == rate * seconds
    # the first of them is sent at once, before a sixtieth of a second has gone
    sends, really = (report["most"] - 1) / took, rate * seconds / took
    yield Row(
        f"{rate:,} updates/s on one channel × {viewers:,} viewers",
        "≤ 60 sends/s per viewer; all on the last value within 100 ms",
        f"{sends:.0f} sends/s; {'all' if done else 'not all'} on the last value "
        f"{report['behind']:.0f} ms after it"
        + (f"; only {really:.0f} updates/s were made" if really < rate * 0.95 else ""),
        done and sends <= 60.5 and report["behind"] <= 100 and really >= rate * 0.95,
        report | {"took": took},
    )


def stalled(bench: Bench) -> Iterator[Row]:
    """One viewer reads nothing: what is kept for it, and what the others notice.

    Its socket buffers are filled by blocks of 64 KB. Then megabytes more are published that it does not take:
    the worker must not grow by them, and the hub itself says how many unsent bytes of which block it keeps. The
    others' time from publish to receipt is measured with that viewer and without it, by turns.
    """
    viewers, count = bench.size(500), 5 if bench.small else bench.size(60)
    bench.note(f"one viewer that never reads beside {viewers:,}")
    without, beside, grown, rests = [], [], [], []
    with bench.ours() as ours, bench.hold(ours, viewers) as held, fitted(ours, held, viewers) as subject:
        for _ in range(bench.rounds(3)):
            without.append(subject.turn(count, 0.05))
            with bench.hold(ours, 1, stalled=1), contextlib.closing(Http(ours.port)) as http:
                grown.append(_fill(bench, ours, http, held))
                beside.append(subject.turn(count, 0.05))
                rests.append(json.loads(http.ask("GET", "/kept")))
                if json.loads(http.ask("GET", "/stats"))["viewers"] != viewers + 1:
                    raise BenchError("the viewer that never reads is not held any more")
    # A queue would grow by all of them in each round; what the log and the others need for such blocks, once.
    (rest, block), growth = max(rests), statistics.median(grown)
    p99, p99_without = middle(beside, "p99"), middle(without, "p99")
    yield Row(
        "a viewer that never reads",
        "at most one block beyond its socket buffer; others' p99 unchanged",
        f"{rest:,} B unsent of one block of {block:,} B; others' p99 {p99:.1f} ms ({p99_without:.1f} ms "
        "without it)",
        0 < rest <= block <= BIG + 1000 and growth < 1_000_000 and p99 <= p99_without * 1.2 + 2,
        {"rests": rests, "growth": grown, "beside": beside, "without": without},
    )


def _fill(bench: Bench, server: Server, http: Http, held: Load) -> int:
    """Publishes until a viewer takes no more, and megabytes past that; by how much the worker grew by them."""
    fill = Publisher(server.port, BIG)
    while json.loads(http.ask("GET", "/kept"))[0] == 0:
        if fill.published > 1000:
            raise BenchError("the viewer that never reads has no end of room")
        fill.run(4, 0.02)
    before = private_memory(server.pid)
    number = fill.run(bench.size(50), 0.02)
    fill.close()
    grown = private_memory(server.pid) - before
    # what the others have of this still before them is not to be measured with what comes next
    if held.reached(number, timeout=30)["last"] < number:
        raise BenchError("not every viewer got the last of the big blocks in time")
    return grown


def client(bench: Bench) -> Iterator[Row]:
    """The size of what a page loads, compressed with brotli as a server or CDN would serve it."""
    data = CLIENT.read_bytes()
    size = brotli_size(data)
    yield Row(
        "client, brotli",
        "≤ 2 kB",
        f"{size / 1000:.2f} kB ({len(data) / 1000:.1f} kB before it)",
        size <= 2000,
        {"bytes": len(data), "brotli": size},
        short=f"{size / 1000:.2f} kB",
    )


def brotli_size(data: bytes) -> int:
    """Bytes after brotli at its best, by whichever of the system's library and node is there.

    Raises:
        BenchError: neither is.
    """
    name = ctypes.util.find_library("brotlienc")
    if name:
        library: Any = ctypes.CDLL(name)
        size = ctypes.c_size_t(len(data) + 1024)
        out = ctypes.create_string_buffer(size.value)
        # quality 11, window of 2^22, text
        if library.BrotliEncoderCompress(
            11, 22, 1, ctypes.c_size_t(len(data)), data, ctypes.byref(size), out
        ):
            return int(size.value)
    node = shutil.which("node")
    if node:
        return _brotli_size_by_node(node, data)
    raise BenchError("there is no brotli (Debian: apt-get install libbrotli1, or nodejs)")


def _brotli_size_by_node(node: str, data: bytes) -> int:
    code = (
        "process.stdout.write(`${require('zlib').brotliCompressSync(require('fs').readFileSync(0)).length}`)"
    )
    run = subprocess.run([node, "-e", code], input=data, capture_output=True, check=True)
    return int(run.stdout)
