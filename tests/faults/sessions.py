"""What a page may live through on one connection, as scripts: of all together no block is missing."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from afterload import patch as p
from tests.faults.bench import Bench
from tests.faults.page import Block, Page

LONG = 1000.0  # seconds for which a poll waits


@dataclass(frozen=True)
class Session:
    """What happens to a page.

    Attributes:
        name: of it.
        channels: that the page follows.
        runs: which of them are written by loops.
        before: what happens before the page connects; makes the page.
        steps: what happens while it is connected, one after the other.
        private: it follows a loop of its own.
        hold: False for a short stream.
        settings: of the hub.
    """

    name: str
    channels: tuple[str, ...]
    runs: tuple[str, ...]
    before: Callable[[Bench], Page]
    steps: tuple[Callable[[Bench], object], ...] = ()
    private: bool = False
    hold: bool = True
    settings: tuple[tuple[str, Any], ...] = ()

    def bench(self) -> Bench:
        """What it happens on."""
        blanks = {name: blank(name) for name in self.channels}
        return Bench(blanks, self.runs, private=self.private, **dict(self.settings))


@dataclass
class Segment:
    """An answer, and the page that it came to, as that was before."""

    page: Page
    data: bytes
    blocks: list[Block]


def blank(name: str) -> str:
    return f"<div id={name}><p id={name}t>-</p><ul id={name}r></ul><i id={name}m></i></div>"


def say(name: str, text: object) -> p.Patch:
    return p.text(f"#{name}t", text)


def row(name: str, n: int, keep: int | None = None) -> p.Patch:
    return p.append(f"#{name}r", Markup(f"<li id={name}{n}>{n}</li>"), keep=keep)


def more(name: str, text: str) -> p.Patch:
    return p.append_text(f"#{name}m", text)


def publish(name: str, *patches: p.Patch) -> Callable[[Bench], object]:
    return lambda bench: bench.publisher.publish(name, *patches)


def all_at_once(*steps: Callable[[Bench], object]) -> Callable[[Bench], object]:
    return lambda bench: [step(bench) for step in steps]


def begin(name: str) -> Callable[[Bench], object]:
    return lambda bench: bench.publisher.begin(name)


def finish(name: str, status: str, message: str = "") -> Callable[[Bench], object]:
    return lambda bench: bench.publisher.finish(name, status, message)


def _opened(bench: Bench) -> Page:
    bench.publisher.publish("a", say("a", "old"))
    bench.publisher.publish("a", row("a", 1))
    bench.publisher.begin("c")
    bench.publisher.publish("c", row("c", 1))
    return bench.page("a", "b", "c")


def _opened_without_a_position(bench: Bench) -> Page:
    bench.publisher.publish("a", say("a", "1"))
    bench.publisher.begin("c")
    bench.publisher.publish("c", more("c", "x"), p.message("hi"))
    return bench.page("a", "c", position="")


def _back_after_a_restart(bench: Bench) -> Page:
    bench.publisher.publish("a", row("a", 1))
    page = bench.bring(bench.page("a", "c"), "stream")
    bench.restart()
    bench.publisher.begin("c")
    bench.publisher.publish("c", say("c", 2))
    bench.publisher.publish("a", row("a", 2))
    return page


def _back_to_a_run_that_is_another(bench: Bench) -> Page:
    bench.publisher.begin("c")
    bench.publisher.publish("c", row("c", 1))
    page = bench.bring(bench.page("c"), "stream")
    bench.publisher.begin("c")
    bench.publisher.publish("c", row("c", 2), p.message("new"))
    return page


def _late(bench: Bench) -> Page:
    """More is missed than there is history."""
    bench.publisher.publish("a", say("a", 0))
    page = bench.bring(bench.page("a"), "stream")
    for n in range(4):
        bench.publisher.publish("a", row("a", n, keep=2))
    return page


def _three_runs(bench: Bench) -> Page:
    for name in "cde":
        bench.publisher.begin(name)
    return bench.bring(bench.page("c", "d", "e"), "stream")


def _own_loop(bench: Bench) -> Page:
    bench.publisher.begin("~")
    return bench.page("~")


def _lost_loop(bench: Bench) -> Page:
    bench.publisher.begin("~")
    page = bench.page("~")
    page.position = f"{secrets.token_hex(4)}.0"
    bench.publisher.finish("~", "lost", "gone")
    return page


SESSIONS = (
    Session(
        "live", ("a", "b", "c"), ("c",), _opened,
        (
            publish("a", say("a", "1 < 2")),
            all_at_once(publish("a", row("a", 2)), publish("c", more("c", "x")), publish("b", say("b", "2"))),
            all_at_once(*(publish("c", more("c", f"{n}")) for n in range(3))),
            publish("c", p.message("two\nlines")),
            publish("b", p.dispatch("ding", {"n": 1}), say("b", "\0é€😀\u2028\U0010ffff&'")),
            lambda bench: bench.wait(30.0),  # a heartbeat
            all_at_once(begin("c"), publish("c", row("c", 9))),
            finish("c", "done"),
            publish("a", row("a", 1, keep=1)),
        ),
    ),
    Session("none", ("a", "c"), ("c",), _opened_without_a_position, (publish("a", row("a", 1)),)),
    Session("restart", ("a", "c"), ("c",), _back_after_a_restart),
    Session("anew", ("c",), ("c",), _back_to_a_run_that_is_another, (publish("c", more("c", "y")),)),
    Session(
        "late", ("a",), (), _late, (publish("a", row("a", 9, keep=2)),), settings=(("history", 2),)
    ),
    Session(
        "ends", ("c", "d", "e"), ("c", "d", "e"), _three_runs,
        (
            publish("d", row("d", 1)),
            finish("c", "failed", "no <b>"),
            finish("d", "done"),
            all_at_once(publish("e", row("e", 1)), finish("e", "cancelled")),
        ),
    ),
    Session(
        "own", ("~",), ("~",), _own_loop,
        (
            publish("~", p.message("1")),
            all_at_once(publish("~", p.message("2"), say("~", 2)), publish("~", p.message("3"))),
            all_at_once(publish("~", say("~", 3)), finish("~", "done")),
        ),
        private=True,
    ),
    Session("lost", ("~",), ("~",), _lost_loop, private=True),
    Session("short", ("a", "b", "c"), ("c",), _opened, hold=False),
    Session(
        "away", ("a", "b", "c"), ("c",), _opened,
        (publish("a", row("a", 2)), publish("c", row("c", 2)), lambda bench: bench.hub.say_bye()),
    ),
)  # fmt: skip


def happen(session: Session, bench: Bench, wire: str) -> Iterator[Segment]:
    """Lets it happen, on a wire; what came, answer by answer."""
    page = session.before(bench)
    steps = iter(session.steps)
    while True:
        before = page.clone()
        visit = bench.connect(page, wire, wait=LONG, hold=session.hold)
        blocks = visit.blocks()
        while not visit.over and (step := next(steps, None)) is not None:
            step(bench)
            bench.wait(0.1)
            blocks += visit.blocks()
        verdict = page.take_all(blocks)
        answered = visit.over
        visit.cut()
        yield Segment(before, visit.data, blocks)
        # A poll is over with its answer, and the page asks again; another wire has been left.
        if not (wire == "poll" and answered and verdict == "on"):
            return
