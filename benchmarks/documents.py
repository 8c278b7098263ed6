"""What a document that goes on and a streamed template cost, beside Flask responses of the same bytes."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from .bench import Bench, middle, ratio
from .reader import read
from .servers import Server, gunicorn
from .system import BenchError, cpu
from .table import Row

MOST = 1.1  # times what the first peer needs
VIEWERS = 20
INTERVAL = 0.05
# a response of Flask's holds one for as long as it goes on
WORKER = ("-k", "gthread", "--threads", str(VIEWERS + 4))


@dataclass
class Side:
    """One way to send a response.

    Attributes:
        name: as it is called in the table.
        path: where it is asked for.
    """

    name: str
    server: Server
    path: str

    def turn(self, count: int, interval: float = 0.0, viewers: int = 1, times: int = 1) -> dict[str, Any]:
        """Has `count` rows sent to each of the viewers, so many times one after the other.

        The answer says the `micros` of CPU for each row that was delivered, and the `millis` to the first byte.

        Raises:
            BenchError: a response has not each row once and in order.
        """
        path = f"{self.path}?count={count}&interval={interval}"
        before, firsts = cpu(self.server.pid), []
        for _ in range(times):
            for reading in read(self.server.port, path, viewers):
                if reading.rows() != list(range(count)):
                    raise BenchError(f"{self.name} has not sent each of {count:,} rows once and in order")
                assert reading.first is not None
                firsts.append(reading.first)
        time.sleep(0.02)  # for what a server does when the last byte is sent
        used = cpu(self.server.pid) - before
        return {"micros": used / (count * viewers * times) * 1e6, "millis": median(firsts) * 1e3}


def templates(bench: Bench) -> Iterator[Row]:
    """A streamed template beside `flask.stream_template` with the same template and rows.

    Under the same gunicorn worker (gthread, a thread for each viewer), in turns. The first byte is that of the
    body, counted from the request, where the template has one row and where it has 10,000 and does not pause. CPU is
    all that the worker uses, with the request, over the number of rows; the paced rows come 20 a second to each of 20
    viewers. The reader has every response whole, and each row in it. A bare generator is a Flask response
    that yields the same bytes, a row at a time, without a template.
    """
    yield from _beside(
        bench,
        "a streamed template",
        "/template",
        [("flask.stream_template", "/template"), ("a bare generator", "/bare-template")],
    )


def documents(bench: Bench) -> Iterator[Row]:
    """A document that goes on beside a Flask response whose generator yields the same blocks.

    Measured as `template` is. A loop of the page's own appends each row to the text of one element; at full speed,
    some go out together in one block. The generator formats a block for each, escapes nothing, renders no template
    before it, and has nothing for browsers without scripts.
    """
    yield from _beside(bench, "a document", "/document", [("a bare generator", "/bare-document")])


def _beside(bench: Bench, what: str, path: str, others: Sequence[tuple[str, str]]) -> Iterator[Row]:
    with contextlib.ExitStack() as stack:
        ours = stack.enter_context(gunicorn("benchmarks.apps.documents:app", *WORKER))
        peer = stack.enter_context(gunicorn("benchmarks.apps.peer_documents:app", *WORKER))
        sides = [Side(what, ours, path), *(Side(name, peer, path) for name, path in others)]
        for side in sides:
            side.turn(1, viewers=VIEWERS)

        bench.note(f"{what}: first byte")
        yield _row(sides, f"{what}: first byte", "millis", _turns(sides, bench.rounds(10), count=1, times=10))

        count = bench.size(10_000)
        bench.note(f"{what}: {count:,} rows at full speed")
        turns = _turns(sides, bench.rounds(10), count=count)
        yield _row(sides, f"{what}: first byte, {count:,} rows at full speed", "millis", turns)
        yield _row(sides, f"{what}: server CPU per row, {count:,} rows at full speed", "micros", turns)

        count = 5 if bench.small else bench.size(100)
        bench.note(f"{what}: rows paced, {VIEWERS} viewers")
        turns = _turns(sides, bench.rounds(4), count=count, interval=INTERVAL, viewers=VIEWERS)
        paced = f"{1 / INTERVAL:.0f} rows a second to each of {VIEWERS} viewers"
        yield _row(sides, f"{what}: server CPU per row, {paced}", "micros", turns)


def _turns(sides: Sequence[Side], rounds: int, **asked: Any) -> list[list[dict[str, Any]]]:
    """The turns of each side, in the order A B C C B A A B C: see `in_turns`."""
    found: list[list[dict[str, Any]]] = [[] for _ in sides]
    for i in range(rounds):
        for side, turns in list(zip(sides, found, strict=True))[:: -1 if i % 2 else 1]:
            turns.append(side.turn(**asked))
    return found


def _row(sides: Sequence[Side], what: str, measure: str, turns: list[list[dict[str, Any]]]) -> Row:
    """How the first side compares with the second, which is the target, and with the others."""
    ours, *others = turns
    unit = {"millis": "ms", "micros": "µs"}[measure]
    said = [
        f"{side.name} {middle(theirs, measure):.2f} {unit}"
        for side, theirs in zip(sides[1:], others, strict=True)
    ]
    ratios = [ratio(ours, theirs, measure) for theirs in others]
    more = "".join(f", {found:.2f} × {side.name}" for side, found in zip(sides[2:], ratios[1:], strict=True))
    return Row(
        what,
        f"≤ {MOST} × {sides[1].name}",
        f"{ratios[0]:.2f} ×{more} ({middle(ours, measure):.2f} {unit}; {', '.join(said)})",
        ratios[0] <= MOST,
        {side.name: of for side, of in zip(sides, turns, strict=True)},
        short=f"{ratios[0]:.2f} ×",
    )
