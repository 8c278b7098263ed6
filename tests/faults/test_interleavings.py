"""Whatever happens between the publishing, rendering, connecting and cutting of pages: in the end each page is right.

A Hypothesis state machine over the real hub, its sockets, and all wires: what a page is sent is bytes, of which it gets
as many as are drawn. `tests.test_log` does the same with the log alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from tests.faults.bench import Bench, Visit
from tests.faults.page import Page
from tests.faults.wires import WIRES
from tests.test_log import BOUNDED, RUNS, TOPICS, blank, patch_of

NAMES = (*TOPICS, *RUNS)
SOURCES = TOPICS[1:]  # whose state the application gives
# What does no harm where a page's HTML shows it already, as a view may read what it shows behind its position.
REPEATABLE = (0, 1, 4, 5, 7)


@dataclass(repr=False)
class Follower:
    """A page, and its present connection."""

    page: Page
    wire: str
    visit: Visit | None = None

    def __repr__(self) -> str:
        return f"{'+'.join(self.page.channels)} at {self.page.position}"


class World(RuleBasedStateMachine):
    """A hub and the pages that follow it."""

    def __init__(self) -> None:
        super().__init__()
        # bounds so small that all of them are met
        self.bench = Bench(
            {name: blank(name) for name in NAMES},
            RUNS,
            sources=SOURCES,
            history=3,
            history_bytes=1500,
            state_bytes=1200,
            state_cells=9,
            max_channels=2,
            poll_wait=5,
        )
        self.followers: list[Follower] = []
        self.begun: set[str] = set()
        self.over: set[str] = set()
        self._first()

    def _first(self) -> None:
        """A line of a channel's first entry says the same as one of its state; so none is a first one."""
        for name in NAMES:
            if name in RUNS:
                self.begin(name)
            self.publish(name, [0], 1)

    # What is published

    @rule(
        name=st.sampled_from(NAMES),
        kinds=st.lists(st.integers(0, 11), min_size=1, max_size=3),
        n=st.integers(1, 4),
        alone=st.booleans(),
    )
    def publish(self, name: str, kinds: list[int], n: int, alone: bool = False) -> None:
        if name in RUNS:
            if name not in self.begun or name in self.over:
                return
            kinds = [BOUNDED[kind % len(BOUNDED)] for kind in kinds]
        self.bench.publisher.publish(name, *(patch_of(name, kind, n) for kind in kinds))
        self._look_for_what_was_forgotten()
        if alone:
            self.bench.wait(0.02)  # and is not merged with what is published next

    def _look_for_what_was_forgotten(self) -> None:
        for name in RUNS:
            if name not in self.bench.hub.log.channels:
                self.begun.discard(name)
                self.over.discard(name)

    @rule(name=st.sampled_from(RUNS))
    def begin(self, name: str) -> None:
        hub = self.bench.hub
        hub.watch(hub.log, name, lambda count: None)  # as its loop does
        self.bench.publisher.begin(name)
        self.begun.add(name)
        self.over.discard(name)

    @rule(name=st.sampled_from(RUNS), status=st.sampled_from(["done", "failed", "cancelled"]))
    def finish(self, name: str, status: str) -> None:
        if name in self.begun and name not in self.over:
            self.bench.publisher.finish(name, status)
            self.over.add(name)

    @rule(name=st.sampled_from(RUNS))
    def expire(self, name: str) -> None:
        """A finished run is not remembered for ever."""
        if name in self.over:
            self.bench.hub.unwatch(self.bench.hub.log, name)

    # What happens to the hub

    @rule()
    def lose_memory(self) -> None:
        self.bench.restart()
        for follower in self.followers:
            follower.visit = None
        self.begun.clear()
        self.over.clear()
        self._first()

    @rule(seconds=st.sampled_from([0.0, 0.02, 1.0, 6.0, 30.0]))
    def wait(self, seconds: float) -> None:
        self.bench.wait(seconds)

    @rule(name=st.sampled_from(NAMES))
    def revoke(self, name: str) -> None:
        self.bench.hub.fanout.revoke([name], None)
        self.bench.turn()

    @rule()
    def say_bye(self) -> None:
        self.bench.hub.say_bye()
        self.bench.turn()

    # What happens to pages

    @rule(
        names=st.sets(st.sampled_from(NAMES), min_size=1, max_size=3),
        wire=st.sampled_from(sorted(WIRES)),
        meanwhile=st.lists(
            st.tuples(st.sampled_from(TOPICS), st.sampled_from(REPEATABLE), st.integers(1, 4)), max_size=2
        ),
        painted=st.sets(st.sampled_from(RUNS)),
    )
    def open(
        self, names: set[str], wire: str, meanwhile: list[tuple[str, int, int]], painted: set[str]
    ) -> None:
        """A page is served; what is published while its view runs, the view may show already."""
        painted &= names
        head = self.bench.hub.log.head
        before = {name: self.bench.life.now(name).seq for name in names}
        for name, kind, n in meanwhile:
            self.publish(name, [kind], n)
        page = self.bench.page(*sorted(names), at=head, painted=painted)
        now = {name: self.bench.life.now(name).seq for name in names}
        page.ahead = {name: seq for name, seq in now.items() if seq != before[name]}
        self.followers.append(Follower(page, wire))

    @precondition(lambda self: self.followers)
    @rule(data=st.data(), hold=st.sampled_from([True, True, True, False]), room=st.integers(0, 3))
    def connect(self, data: st.DataObject, hold: bool, room: int) -> None:
        self._connect(data.draw(st.sampled_from(self.followers)), hold, room)

    def _connect(self, follower: Follower, hold: bool = True, room: int = 0) -> None:
        if follower.visit is not None:
            follower.visit.cut()
        self._begin_for(follower.page)
        page, wire = follower.page, follower.wire
        follower.visit = self.bench.connect(page, wire, wait=5.0, hold=hold, room=room)

    @precondition(lambda self: self.followers)
    @rule(
        data=st.data(),
        kinds=st.lists(st.integers(0, 11), min_size=2, max_size=6),
        room=st.integers(1, 3),
        most=st.integers(100, 1500),
    )
    def lag(self, data: st.DataObject, kinds: list[int], room: int, most: int) -> None:
        """A page connects, and reads more slowly than there is news."""
        follower = data.draw(st.sampled_from(self.followers))
        self._connect(follower, room=room)
        for n, kind in enumerate(kinds):
            self.publish(data.draw(st.sampled_from(follower.page.channels)), [kind], n % 4 + 1, alone=True)
            if follower.visit is not None and n % 2:
                self._take(follower, most)

    def _begin_for(self, page: Page) -> None:
        for name in page.channels:
            if name in RUNS and name not in self.begun:
                self.begin(name)  # a viewer starts the loop

    @precondition(lambda self: any(follower.visit for follower in self.followers))
    @rule(data=st.data(), most=st.integers(1, 2000))
    def read(self, data: st.DataObject, most: int) -> None:
        """A page gets some of what it was sent."""
        follower = data.draw(st.sampled_from([f for f in self.followers if f.visit]))
        assert follower.visit is not None
        self._take(follower, most)
        self.bench.turn()

    def _take(self, follower: Follower, most: int = 1 << 20) -> None:
        visit = follower.visit
        assert visit is not None
        verdict = follower.page.take_all(visit.blocks(most))
        if verdict == "refresh":
            follower.page = self.bench.reload(follower.page)
        if verdict != "on" or visit.over:
            visit.cut()
            follower.visit = None
        assert follower.page.gaps == 0

    @precondition(lambda self: self.followers)
    @rule(data=st.data())
    def cut(self, data: st.DataObject) -> None:
        follower = data.draw(st.sampled_from(self.followers))
        if follower.visit is not None:
            follower.visit.cut()
            follower.visit = None

    @precondition(lambda self: self.followers)
    @rule(data=st.data(), wire=st.sampled_from(sorted(WIRES)))
    def settle(self, data: st.DataObject, wire: str) -> None:
        """A page is left alone until it has everything; over another wire, perhaps."""
        self._settle(data.draw(st.sampled_from(self.followers)), wire)

    def _settle(self, follower: Follower, wire: str) -> None:
        if follower.visit is not None:
            follower.visit.cut()
            follower.visit = None
        self._begin_for(follower.page)
        follower.page = self.bench.bring(follower.page, wire)
        follower.wire = wire
        assert follower.page.gaps == 0

    @precondition(lambda self: any(f.visit and f.wire != "poll" for f in self.followers))
    @rule(data=st.data())
    def follow(self, data: st.DataObject) -> None:
        """A page that is connected has everything within a heartbeat, without coming back."""
        follower = data.draw(st.sampled_from([f for f in self.followers if f.visit and f.wire != "poll"]))
        for _ in range(50):
            if follower.visit is None:
                return  # it was sent away, has to fetch itself, or all is over
            self._take(follower)
            self.bench.wait(1.0)
        follower.page.check_everything()

    def teardown(self) -> None:
        with self.bench:
            for follower in self.followers:
                self._settle(follower, follower.wire)


TestWorld = World.TestCase
TestWorld.settings = settings(
    max_examples=150, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestWorld.pytestmark = [pytest.mark.timeout(60)]  # type: ignore[attr-defined]
