"""Loops: how runs start, are paused, go on, and end; with real threads, and no sleeps to wait for them."""

from __future__ import annotations

import asyncio
import itertools
import logging
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from afterload import LoopError, loops
from afterload.hub.thread import HubThread
from afterload.hub.viewer import Follow
from afterload.live import Live
from afterload.log import PRIVATE, Log
from afterload.loops import Loops, SharedLoop
from afterload.runs import FAILED, sleep
from afterload.settings import Settings
from afterload.wire.sse import Decoder, Event


def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.002)


class Viewer:
    """The browser's end of a stream."""

    def __init__(self, world: World, log: Log, name: str, at: int | None = 0) -> None:
        ours, self.sock = socket.socketpair()
        self.sock.settimeout(20)
        self.decoder = Decoder()
        self.events: list[Event] = []
        world.viewers.append(self)
        world.thread.hub.adopt(ours, Follow(log, (name,), at=at))

    def next(self) -> Event | None:
        """The next block that is no hello and no ping; None at the end of the stream."""
        while True:
            while self.events:
                event = self.events.pop(0)
                if event.event not in ("hello", "ping"):
                    return event
            data = self.sock.recv(65536)
            if not data:
                return None
            self.events += self.decoder.feed(data)

    def close(self) -> None:
        self.sock.close()


class World:
    def __init__(self, **settings: Any) -> None:
        self.settings = Settings().updated({"linger": 0.3, **settings})
        self.thread = HubThread(self.settings)
        self.viewers: list[Viewer] = []
        self.contexts = 0
        self.inside = threading.local()
        self.definitions: dict[str, SharedLoop] = {}
        self.loops = Loops(self.thread.hub, self.settings, self.context, self.definitions)

    @contextmanager
    def context(self) -> Iterator[None]:
        self.contexts += 1
        self.inside.now = True
        yield
        self.inside.now = False

    def ensure(self, loop: SharedLoop) -> None:
        if loop.name not in self.definitions:
            self.definitions[loop.name] = loop
            self.loops.define(loop)
        self.loops.ensure(loop.name)

    def restart(self, loop: SharedLoop) -> None:
        self.thread.hub.restart(loop.name)

    def private(self, source: Any, away: str = "pause") -> Log:
        return self.loops.start_private(source, "test", away)


@pytest.fixture
def make() -> Iterator[Callable[..., World]]:
    made: list[World] = []

    def build(**settings: Any) -> World:
        made.append(World(**settings))
        return made[-1]

    yield build
    for world in made:
        world.loops.close(2)
        world.thread.close(2)
        for viewer in world.viewers:
            viewer.close()


@pytest.fixture
def world(make: Callable[..., World]) -> World:
    return make()


def test_what_a_loop_yields_arrives_and_then_its_end(world: World) -> None:
    log = world.private(iter_of({"#n": 1}, "text", [{"#a": 1}, {"#b": 2}]))
    viewer = Viewer(world, log, PRIVATE)
    assert [e.data for e in iter(viewer.next, None)] == [
        '["~",1,[["text","#n","1"]]]',
        "text",
        '["~",2,[["text","#a","1"],["text","#b","2"]]]',
        '{"channel":"~","status":"done","message":""}',
    ]
    until(lambda: world.loops.running == 0)
    viewer.close()


def iter_of(*things: Any) -> Iterator[Any]:
    yield from things


def test_each_step_runs_in_the_context_and_nothing_between_them_does(world: World) -> None:
    seen = []

    def loop() -> Iterator[Any]:
        for i in range(3):
            seen.append(world.inside.now)
            yield {"#n": i}

    viewer = Viewer(world, world.private(loop()), PRIVATE)
    while viewer.next() is not None:
        pass
    until(lambda: world.loops.running == 0)
    assert seen == [True] * 3
    assert world.contexts == 5  # three steps, the last one that returned, and the close
    viewer.close()


def test_a_generator_is_always_resumed_and_closed_by_one_thread(world: World) -> None:
    threads = []

    def loop() -> Iterator[Any]:
        try:
            for i in itertools.count():
                threads.append(threading.current_thread())
                yield {"#n": i}
                sleep(0.01)
        finally:
            threads.append(threading.current_thread())

    viewer = Viewer(world, world.private(loop()), PRIVATE)
    for _ in range(3):
        viewer.next()
    viewer.close()
    until(lambda: world.loops.running == 0)
    assert len(threads) > 3
    assert len(set(threads)) == 1


def test_a_private_loop_is_paused_while_its_viewer_is_away_and_goes_on(make: Callable[..., World]) -> None:
    world = make(linger=30)
    steps = []

    def loop() -> Iterator[Any]:
        for i in itertools.count():
            steps.append(i)
            yield str(i)
            time.sleep(0.005)

    log = world.private(loop())
    first = Viewer(world, log, PRIVATE)
    event = first.next()
    while event is not None and event.data != "3":
        event = first.next()
    assert event is not None
    first.close()
    until(lambda: world.thread.hub.viewers(PRIVATE, log) == 0)
    run = world.loops._private[log.epoch]
    until(lambda: run.away)
    settled = len(steps)
    until(lambda: len(steps) <= settled + 1)
    before = len(steps)
    world.contexts = 0
    time.sleep(0.1)  # long enough for twenty steps, if it went on
    assert len(steps) <= before + 1

    back = Viewer(world, log, PRIVATE, at=int(event.id.rpartition(".")[2]))
    event = back.next()
    assert event is not None
    assert event.data == "4"  # not from 0, and nothing left out
    back.close()


def test_away_run_goes_on_without_its_viewer(make: Callable[..., World]) -> None:
    world = make(linger=30)
    steps = []

    def loop() -> Iterator[Any]:
        for i in itertools.count():
            steps.append(i)
            yield {"#n": i}
            time.sleep(0.002)

    log = world.private(loop(), away="run")
    viewer = Viewer(world, log, PRIVATE)
    viewer.next()
    viewer.close()
    until(lambda: world.thread.hub.viewers(PRIVATE, log) == 0)
    before = len(steps)
    until(lambda: len(steps) > before + 100)


def test_a_private_loop_whose_viewer_does_not_come_back_is_closed(world: World) -> None:
    closed = threading.Event()

    def loop() -> Iterator[Any]:
        try:
            while True:
                yield {"#n": 1}
                time.sleep(0.01)
        finally:
            closed.set()

    log = world.private(loop())
    viewer = Viewer(world, log, PRIVATE)
    viewer.next()
    viewer.close()
    assert closed.wait(20)
    until(lambda: world.loops.running == 0)
    assert world.loops.find_private(log.epoch, "test", 0) is None


def test_a_loop_that_is_forgotten_is_asked_for_by_those_only_who_have_all_of_it(world: World) -> None:
    log = world.private(iter_of({"#n": 1}))
    viewer = Viewer(world, log, PRIVATE)
    while viewer.next() is not None:
        pass
    end = log.channels[PRIVATE].ended
    assert world.loops.ask(log.epoch, "test", 0) == end
    viewer.close()
    until(lambda: world.loops.find_private(log.epoch, "test", 0) is None)
    assert world.loops.ask(log.epoch, "test", end) == end
    assert world.loops.ask(log.epoch, "test", end - 1) is None, "it would be sent there, and find nothing"


def test_a_loop_whose_viewer_never_came_is_closed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loops, "FIRST", 0.05)
    world.private(iter(itertools_yield()))
    until(lambda: world.loops.running == 0)


def test_without_a_linger_the_first_viewer_still_has_time_to_come(make: Callable[..., World]) -> None:
    world = make(linger=0.0)
    log = world.private(iter(itertools_yield()))
    turned = threading.Event()
    world.thread.hub.later(0, turned.set)  # behind the loop's own timer
    assert turned.wait(20)
    viewer = Viewer(world, log, PRIVATE)
    assert viewer.next() is not None
    viewer.close()
    until(lambda: world.loops.running == 0)


def itertools_yield() -> Iterator[Any]:
    while True:
        yield {"#n": 1}
        sleep(0.01)


def test_close_ends_a_loop_at_once_also_inside_sleep(make: Callable[..., World]) -> None:
    world = make(linger=60)
    closed = threading.Event()

    def loop() -> Iterator[Any]:
        try:
            yield {"#n": 1}
            try:
                sleep(60)
            except Exception:  # must not hold it up
                pytest.fail("sleep ends a loop past `except Exception`")
        finally:
            closed.set()

    log = world.private(loop())
    viewer = Viewer(world, log, PRIVATE)
    viewer.next()
    world.loops.leave(log.epoch)
    assert closed.wait(20)
    viewer.close()


def test_a_private_loop_is_pulled(make: Callable[..., World]) -> None:
    world = make(linger=30)
    steps = itertools.count()
    made = []

    def loop() -> Iterator[Any]:
        for i in steps:
            made.append(i)
            yield {"#n": f"{i} " + "x" * 3000}

    log = world.private(loop())
    ours, theirs = socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    world.thread.hub.adopt(ours, Follow(log, (PRIVATE,), at=0))
    run = world.loops._private[log.epoch]

    def moves() -> bool:
        before = len(made)
        time.sleep(0.2)
        return len(made) != before

    until(lambda: not run.may_step() and not moves())  # it waits, as its viewer does not read
    assert 10 < len(made) < 120
    theirs.settimeout(20)
    while len(made) < 500:  # and goes on when it does
        theirs.recv(65536)
    theirs.close()


def test_a_fast_loop_is_not_held_to_the_flush_rate(world: World) -> None:
    def loop() -> Iterator[Any]:
        for i in range(5000):
            yield {"#n": i}

    viewer = Viewer(world, world.private(loop()), PRIVATE)
    start = time.monotonic()
    last = None
    for event in iter(viewer.next, None):
        if event.event == "patch":
            last = event
    assert last is not None
    assert '"4999"' in last.data
    assert (
        time.monotonic() - start < 60
    )  # 64 entries in each sixtieth of a second would be well over a second
    viewer.close()


def test_a_failing_loop_ends_its_channel_and_is_told_of(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[tuple[str, BaseException]] = []
    world.loops.handlers.append(lambda label, error: told.append((label, error)))

    def loop() -> Iterator[Any]:
        yield {"#n": 1}
        raise ValueError("secret detail")

    with caplog.at_level(logging.ERROR):
        viewer = Viewer(world, world.private(loop()), PRIVATE)
        events = list(iter(viewer.next, None))
        until(lambda: world.loops.running == 0)
    assert events[-1].event == "end"
    assert '"failed"' in events[-1].data
    assert FAILED in events[-1].data
    assert "secret" not in events[-1].data
    assert "secret detail" in caplog.text
    assert [(label, str(error)) for label, error in told] == [("test", "secret detail")]
    viewer.close()


def test_something_unfit_that_is_yielded_fails_the_loop_and_names_it(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    viewer = Viewer(world, world.private(iter_of({"#n": [1, 2]})), PRIVATE)
    events = list(iter(viewer.next, None))
    until(lambda: world.loops.running == 0)
    assert '"failed"' in events[-1].data
    assert "#n" in caplog.text
    viewer.close()


def test_an_error_handler_that_fails_disturbs_nothing(world: World, caplog: pytest.LogCaptureFixture) -> None:
    def handler(label: str, error: BaseException) -> None:
        raise RuntimeError("handler broke")

    world.loops.handlers.append(handler)
    viewer = Viewer(world, world.private(iter_of({"#n": {}})), PRIVATE)
    assert list(iter(viewer.next, None))[-1].event == "end"
    until(lambda: world.loops.running == 0)
    assert "handler broke" in caplog.text
    viewer.close()


def test_no_more_than_max_loops_run(make: Callable[..., World]) -> None:
    world = make(max_loops=2, linger=30)
    world.private(itertools_yield())
    world.private(itertools_yield())
    with pytest.raises(LoopError, match="max_loops"):
        world.private(itertools_yield())


@pytest.mark.parametrize("kind", ["thread", "task"])
def test_a_loop_that_gets_no_thread_is_refused_and_leaves_nothing_behind(
    world: World, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Stands for a container at its limit of threads."""

    async def ticks() -> AsyncIterator[Any]:
        yield {"#n": 1}

    def start(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    live = Live()
    shared = live.loop(ticks if kind == "task" else lambda: (yield {"#n": 1}), name="shared")  # type: ignore[arg-type]
    world.thread.start()
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", start)
        with pytest.raises(LoopError, match="no thread for a loop"):
            world.private(ticks() if kind == "task" else iter_of({"#n": 1}))
        with pytest.raises(LoopError, match="no thread for a loop"):
            world.ensure(shared)
    assert world.loops.running == 0
    world.ensure(shared)
    viewer = Viewer(world, world.thread.hub.log, "shared", at=None)
    assert (event := viewer.next())
    assert '["text","#n","1"]' in event.data  # alone, or in the snapshot


def test_an_async_generator_is_a_task_in_one_thread_for_all(world: World) -> None:
    threads = set()

    async def loop() -> AsyncIterator[Any]:
        for i in range(3):
            threads.add(threading.current_thread())
            yield {"#n": i}
            await asyncio.sleep(0.001)

    viewers = [Viewer(world, world.private(loop()), PRIVATE) for _ in range(5)]
    for viewer in viewers:
        events = list(iter(viewer.next, None))
        assert [e.event for e in events][-1] == "end"
        assert '"2"' in "".join(e.data for e in events)
        viewer.close()
    assert len(threads) == 1
    until(lambda: world.loops.running == 0)


def test_an_async_loop_is_cancelled_where_it_awaits(make: Callable[..., World]) -> None:
    world = make(linger=60)
    closed = threading.Event()

    async def loop() -> AsyncIterator[Any]:
        try:
            yield {"#n": 1}
            await asyncio.sleep(60)
        finally:
            closed.set()

    log = world.private(loop())
    viewer = Viewer(world, log, PRIVATE)
    viewer.next()
    world.loops.leave(log.epoch)
    assert closed.wait(20)
    until(lambda: world.loops.running == 0)
    viewer.close()


def test_live_sleep_in_an_async_loop_is_an_error_that_says_what_to_use(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    async def loop() -> AsyncIterator[Any]:
        sleep(1)
        yield {}

    viewer = Viewer(world, world.private(loop()), PRIVATE)
    assert list(iter(viewer.next, None))[-1].event == "end"
    until(lambda: world.loops.running == 0)
    assert "asyncio.sleep" in caplog.text
    viewer.close()


# Shared loops


def shared(world: World, function: Callable[[], Any], **options: Any) -> Any:
    live = Live(world.settings)
    made = live.loop(**options)(function)
    return SharedLoop(function, made.name, made.linger, world)


def test_a_shared_loop_runs_once_and_stops_after_its_last_viewer(world: World) -> None:
    starts, ends = [], []

    def clock() -> Iterator[Any]:
        starts.append(1)
        try:
            for i in itertools.count():
                yield {"#t": i}
                sleep(0.005)
        finally:
            ends.append(1)

    loop = shared(world, clock)
    log = world.thread.hub.log
    viewers = []
    for _ in range(3):
        world.ensure(loop)
        viewers.append(Viewer(world, log, "clock", at=None))
    for viewer in viewers:
        assert viewer.next() is not None
    assert len(starts) == 1
    for viewer in viewers:
        viewer.close()
    until(lambda: world.loops.running == 0)
    assert len(ends) == 1

    world.ensure(loop)
    late = Viewer(world, log, "clock", at=None)
    assert late.next() is not None
    assert len(starts) == 2
    late.close()


def test_a_finished_shared_loop_is_remembered_and_not_run_again(world: World) -> None:
    starts = []

    def work() -> Iterator[Any]:
        starts.append(1)
        yield {"#result": 42}

    loop = shared(world, work)
    world.ensure(loop)
    until(lambda: world.loops.running == 0)
    for _ in range(2):
        world.ensure(loop)
        viewer = Viewer(world, world.thread.hub.log, "work", at=None)
        events = list(iter(viewer.next, None))
        assert [e.event for e in events] == ["snapshot", "end"]
        assert "42" in events[0].data
        viewer.close()
    assert len(starts) == 1


def test_a_loop_that_has_ended_is_not_run_again_while_its_failure_is_still_told_of(
    make: Callable[..., World],
) -> None:
    """The end is in the channel before the app's handlers have been called, and they may take their time."""
    world = make(failed_retention=60.0)
    live = Live()
    runs = []
    told, go_on = threading.Event(), threading.Event()

    @live.loop
    def work() -> Iterator[Any]:
        runs.append(1)
        yield {"#n": 1}
        raise ValueError("x")

    def slow(label: str, error: BaseException) -> None:
        told.set()
        assert go_on.wait(20)

    world.loops.handlers.append(slow)
    world.ensure(work)
    assert told.wait(20)
    world.ensure(work)
    go_on.set()
    until(lambda: world.loops.running == 0)
    assert runs == [1]


def test_a_failed_shared_loop_starts_again_after_a_while(make: Callable[..., World]) -> None:
    world = make(failed_retention=0.05)
    starts = []

    def work() -> Iterator[Any]:
        starts.append(1)
        if len(starts) == 1:
            raise ValueError
        yield {"#ok": 1}

    loop = shared(world, work)
    world.ensure(loop)
    until(lambda: world.loops.running == 0)
    until(lambda: world.ensure(loop) or len(starts) == 2)


def test_restart_begins_anew_and_open_pages_start_from_what_they_were_served_with(world: World) -> None:
    def work() -> Iterator[Any]:
        yield {"#step": 1}
        sleep(30)

    loop = shared(world, work)
    world.ensure(loop)
    viewer = Viewer(world, world.thread.hub.log, "work", at=None)
    first = viewer.next()
    assert first is not None
    loop.restart()
    event = viewer.next()
    assert event is not None
    assert event.event == "reset"
    following = viewer.next()
    assert following is not None
    assert '"#step","1"' in following.data
    viewer.close()


def test_a_run_that_was_told_to_stop_publishes_nothing_more(world: World) -> None:
    go = threading.Event()

    def work() -> Iterator[Any]:
        yield {"#n": "old"}
        go.wait(20)
        yield {"#n": "too late"}

    loop = shared(world, work)
    world.ensure(loop)
    log = world.thread.hub.log
    until(lambda: log.head >= 1)
    loop.restart()
    go.set()
    until(lambda: world.loops.running == 0)
    assert all(p.content != "too late" for e in log.channels["work"].entries for p in e.patches)


def test_a_shared_loop_takes_a_generator_function_without_arguments() -> None:
    live = Live()
    with pytest.raises(LoopError, match="generator function"):
        live.loop(lambda: None)  # type: ignore[arg-type, return-value]

    def needs(user: str) -> Iterator[Any]:
        yield user

    with pytest.raises(LoopError, match="user"):
        live.loop(needs)  # type: ignore[arg-type]


def test_two_shared_loops_cannot_have_one_name() -> None:
    live = Live()

    def clock() -> Iterator[Any]:
        yield 1

    live.loop(clock)
    with pytest.raises(LoopError, match="name="):
        live.loop(clock)
    live.loop(name="clock2")(clock)
