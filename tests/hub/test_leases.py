"""Who runs a shared loop: one at a time, somebody whenever somebody watches, and nothing under a lease that is over."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, multiple, rule

from afterload import LoopError, Patch, append_text, text
from afterload.hub import leases as module
from afterload.hub.leases import FIRST
from tests.hub.test_hub import Bench, Peer

AGAIN = module._AGAIN
LINGER = 2.0


class Runner:
    """A process that offers to run loops: of this one, or of another, that can say only later that it has no room."""

    def __init__(self, remote: bool = False) -> None:
        self.has_room = True
        self.remote = remote
        self.told: list[tuple[str, str, int]] = []

    def start(self, name: str, number: int) -> None:
        if not self.has_room and not self.remote:
            raise LoopError("no room")
        self.told.append(("start", name, number))

    def stop(self, name: str, number: int) -> None:
        self.told.append(("stop", name, number))

    @property
    def number(self) -> int:
        """Of the last lease it was given."""
        return [number for what, _, number in self.told if what == "start"][-1]

    @property
    def starts(self) -> int:
        return sum(what == "start" for what, _, _ in self.told)


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench(linger=LINGER, loop_retention=100.0, failed_retention=10.0)
    yield made
    assert made.hub.poller.errors == 0
    made.close()


def publish(bench: Bench, runner: Runner, count: int = 1, number: int = 0) -> int | None:
    return bench.hub.leases.publish_run("clock", number or runner.number, count, (text("#a", str(count)),))


def offered(bench: Bench, *runners: Runner) -> None:
    for runner in runners:
        bench.hub.leases.offer(runner, "clock", LINGER)


# Beginning


def test_a_loop_that_nobody_watches_is_not_run(bench):
    runner = Runner()
    offered(bench, runner)
    bench.wait(20)
    assert runner.told == []


def test_its_first_viewer_has_it_run_by_who_offered_first(bench):
    first, second = Runner(), Runner()
    offered(bench, first, second)
    bench.connect("clock")
    assert (first.starts, second.starts) == (1, 0)
    bench.connect("clock")
    assert (first.starts, second.starts) == (1, 0)
    assert bench.hub.leases.holders() == {"clock": first}


def test_who_offers_what_is_watched_and_not_run_runs_it_at_once(bench):
    bench.connect("clock")
    runner = Runner()
    offered(bench, runner)
    assert runner.starts == 1


def test_who_is_asked_first_is_the_one_that_has_the_viewer(bench):
    first, second = Runner(), Runner()
    offered(bench, first, second)
    bench.hub.leases.want("clock", second)
    assert (first.starts, second.starts) == (0, 1)


def test_a_channel_that_no_loop_writes_needs_nobody(bench):
    bench.hub.leases.want("news")
    bench.connect("news")
    assert bench.hub.leases.holders() == {}
    assert list(bench.hub.leases.offered()) == []


def test_offering_twice_is_offering_once_with_the_last_linger(bench):
    runner = Runner()
    offered(bench, runner)
    bench.hub.leases.offer(runner, "clock", 7.0)
    peer = bench.connect("clock")
    bench.wait(10)
    peer.sock.close()
    bench.wait(6)
    assert runner.told == [("start", "clock", runner.number)]
    bench.wait(2)
    assert runner.told[-1] == ("stop", "clock", runner.number)


def test_more_loops_than_anybody_has_are_refused(bench, monkeypatch):
    monkeypatch.setattr(module, "_OFFERS_MOST", 3)
    runner = Runner()
    for i in range(3):
        bench.hub.leases.offer(runner, f"loop-{i}", 1.0)
    with pytest.raises(LoopError, match="3 loops are offered already"):
        bench.hub.leases.offer(runner, "one more", 1.0)
    bench.hub.leases.offer(runner, "loop-0", 1.0)


# What is published under it


def test_what_a_run_yields_is_published_once_however_often_it_is_told(bench):
    runner = Runner()
    offered(bench, runner)
    peer = bench.connect("clock")
    first = publish(bench, runner, 1)
    assert first == publish(bench, runner, 1) == bench.hub.head()
    second = publish(bench, runner, 2)
    assert second == publish(bench, runner, 2) == publish(bench, runner, 1) == bench.hub.head()
    bench.wait(1)
    assert [event.data.count("text") for event in peer.read() if event.event == "patch"] in ([1, 1], [1])


def test_nothing_is_published_under_a_number_that_is_not_the_leases(bench):
    runner = Runner()
    offered(bench, runner)
    assert publish(bench, runner, 1, number=1) is None  # nobody runs it
    bench.connect("clock")
    before = bench.hub.head()
    for number in (0, -1, runner.number + 1):
        assert bench.hub.leases.publish_run("clock", number, 1, (text("#a", "x"),)) is None
    assert bench.hub.leases.publish_run("unknown", runner.number, 1, (text("#a", "x"),)) is None
    assert bench.hub.head() == before


def test_a_run_that_has_lost_its_lease_can_neither_publish_nor_end_the_loop(bench):
    first, second = Runner(), Runner()
    offered(bench, first, second)
    bench.connect("clock")
    bench.hub.leases.withdraw(first)
    bench.turn()
    assert publish(bench, second) is not None
    before = bench.hub.head()
    assert publish(bench, first, 9) is None
    bench.hub.leases.finish("clock", first.number, "done", "")
    bench.hub.leases.give_back("clock", first.number)
    bench.hub.leases.refuse("clock", first.number)
    assert bench.hub.head() == before
    assert bench.hub.log.channels["clock"].status == "open"
    assert bench.hub.leases.holders() == {"clock": second}


# How it passes to another


def test_a_runner_that_is_gone_is_followed_by_another_at_once_where_somebody_watches(bench):
    first, second = Runner(), Runner()
    offered(bench, first, second)
    peer = bench.connect("clock")
    publish(bench, first)
    bench.hub.leases.withdraw(first)
    assert second.starts == 1
    assert second.number != first.number
    bench.turn()
    bench.wait(0.1)
    assert "reset" in [event.event for event in peer.read()]  # the new run begins from the beginning
    assert not peer.eof


def test_where_nobody_watches_the_loop_of_a_runner_that_is_gone_waits_for_a_viewer(bench):
    first, second = Runner(), Runner()
    offered(bench, first, second)
    peer = bench.connect("clock")
    peer.sock.close()
    bench.turn()
    bench.hub.leases.withdraw(first)
    bench.wait(20)
    assert second.starts == 0
    bench.connect("clock")
    assert second.starts == 1


def test_a_lease_that_is_given_back_is_given_out_again(bench):
    first, second = Runner(), Runner()
    offered(bench, first, second)
    bench.connect("clock")
    old = first.number
    bench.hub.leases.give_back("clock", old)
    assert first.starts + second.starts == 2
    assert bench.hub.leases.publish_run("clock", old, 1, (text("#a", "x"),)) is None


def test_who_is_gone_and_offers_again_is_the_last_to_be_asked(bench):
    first, second = Runner(), Runner()
    offered(bench, first, second)
    bench.hub.leases.withdraw(first)
    offered(bench, first)
    bench.connect("clock")
    assert (first.starts, second.starts) == (0, 1)


@pytest.mark.parametrize("remote", [False, True])
def test_who_has_no_room_is_passed_by(bench, remote):
    first, second = Runner(remote), Runner()
    first.has_room = False
    offered(bench, first, second)
    bench.connect("clock")
    if remote:
        assert second.starts == 0
        bench.hub.leases.refuse("clock", first.number)
    assert second.starts == 1


@pytest.mark.parametrize("remote", [False, True])
def test_where_nobody_has_room_they_are_asked_again_a_second_later(bench, remote):
    runner = Runner(remote)
    runner.has_room = False
    offered(bench, runner)
    bench.connect("clock")
    if remote:
        bench.hub.leases.refuse("clock", runner.number)
    begun = bench.hub.log.head
    bench.wait(AGAIN * 0.9)
    runner.has_room = True
    assert bench.hub.leases.holders() == {}
    bench.wait(AGAIN * 0.2)
    assert bench.hub.leases.holders() == {"clock": runner}
    assert bench.hub.log.head == begun  # pages are not told of a run that has not begun


def test_who_asks_for_a_loop_is_told_that_nobody_has_room(bench):
    runner = Runner()
    runner.has_room = False
    offered(bench, runner)
    with pytest.raises(LoopError, match="no room"):
        bench.hub.leases.want("clock")


def test_they_are_asked_no_more_when_nobody_watches(bench):
    runner = Runner(remote=True)
    offered(bench, runner)
    peer = bench.connect("clock")
    bench.hub.leases.refuse("clock", runner.number)
    peer.sock.close()
    bench.wait(20)
    assert runner.starts == 1


# Its end


def test_a_run_is_stopped_when_nobody_has_watched_for_its_linger(bench):
    runner = Runner()
    offered(bench, runner)
    peer = bench.connect("clock")
    bench.wait(FIRST)
    peer.sock.close()
    bench.wait(LINGER - 0.1)
    assert bench.hub.leases.holders() == {"clock": runner}
    bench.wait(0.2)
    assert bench.hub.leases.holders() == {}
    assert runner.told[-1] == ("stop", "clock", runner.number)
    bench.connect("clock")
    assert runner.starts == 2


def test_a_viewer_that_is_back_in_time_finds_the_same_run(bench):
    runner = Runner()
    offered(bench, runner)
    for _ in range(3):
        peer = bench.connect("clock")
        bench.wait(FIRST)
        peer.sock.close()
        bench.wait(LINGER * 0.9)
    bench.connect("clock")
    bench.wait(20)
    assert runner.told == [("start", "clock", runner.number)]


def test_the_linger_begins_with_the_last_viewer_that_left(bench):
    runner = Runner()
    offered(bench, runner)
    first = bench.connect("clock")
    bench.wait(FIRST)
    first.sock.close()
    bench.wait(LINGER * 0.8)
    second = bench.connect("clock")
    second.sock.close()
    bench.wait(LINGER * 0.9)
    assert bench.hub.leases.holders() == {"clock": runner}
    bench.wait(LINGER * 0.2)
    assert bench.hub.leases.holders() == {}


def test_a_run_that_was_asked_for_and_is_never_watched_is_stopped(bench):
    runner = Runner()
    offered(bench, runner)
    bench.hub.leases.want("clock")
    bench.wait(FIRST - 0.1)
    assert bench.hub.leases.holders() == {"clock": runner}
    bench.wait(0.2)
    assert bench.hub.leases.holders() == {}


@pytest.mark.parametrize(("status", "seconds"), [("done", 100.0), ("failed", 10.0), ("cancelled", 0.0)])
def test_a_run_that_has_ended_is_remembered_for_a_while_and_then_begun_anew_by_a_viewer(
    bench, status, seconds
):
    runner = Runner()
    offered(bench, runner)
    peer = bench.connect("clock")
    publish(bench, runner)
    bench.hub.leases.finish("clock", runner.number, status, "")
    bench.wait(0.1)
    bench.wait(seconds * 0.9)
    assert [event.event for event in peer.read()][-1] == "end"
    if seconds:
        late = bench.connect("clock")
        bench.turn()
        assert [event.event for event in late.read()][-1] == "end"
        assert runner.starts == 1
        bench.wait(seconds * 0.1)
    bench.connect("clock")
    assert runner.starts == 2
    assert publish(bench, runner, 1) == bench.hub.head()


def test_a_restart_ends_the_run_and_begins_another_where_somebody_watches(bench):
    runner = Runner()
    offered(bench, runner)
    peer = bench.connect("clock")
    first = runner.number
    publish(bench, runner, 5)
    bench.hub.leases.restart("clock")
    assert runner.told == [
        ("start", "clock", first),
        ("stop", "clock", first),
        ("start", "clock", runner.number),
    ]
    assert runner.number != first
    assert publish(bench, runner, 6, number=first) is None
    assert publish(bench, runner, 1) == bench.hub.head()
    bench.wait(0.1)
    assert "reset" in [event.event for event in peer.read()]


def test_a_restart_forgets_how_the_last_run_has_ended(bench):
    runner = Runner()
    offered(bench, runner)
    bench.connect("clock")
    bench.hub.leases.finish("clock", runner.number, "done", "")
    bench.wait(0.1)
    bench.hub.leases.restart("clock")
    assert runner.starts == 1
    bench.connect("clock")
    assert runner.starts == 2


def test_a_restart_of_what_is_no_loop_is_nothing(bench):
    bench.hub.leases.restart("news")
    assert bench.hub.head() == 0


# All of it, in any order

NAMES = st.sampled_from(["clock", "ticker"])


class Anything(RuleBasedStateMachine):
    """Any of what processes, viewers and time may do; what must hold is said by `settle` and the invariants."""

    runners = Bundle("runners")
    viewers = Bundle("viewers")

    def __init__(self) -> None:
        super().__init__()
        self.bench = Bench(linger=LINGER, loop_retention=20.0, failed_retention=4.0)
        self.leases = self.bench.hub.leases
        self.all: list[Runner] = []
        self.offers: dict[str, set[Runner]] = {"clock": set(), "ticker": set()}
        self.counts: dict[int, int] = {}
        self.ended: set[str] = set()  # by themselves, and nobody has come since then to begin them anew

    @initialize(target=runners)
    def two_processes(self):
        made = [Runner(), Runner(remote=True)]
        self.all += made
        for runner in made:
            for name in self.offers:
                self.offer(runner, name)
        return multiple(*made)

    def teardown(self) -> None:
        self.settle()
        assert self.bench.hub.poller.errors == 0
        self.bench.close()

    def given(self, name: str) -> list[tuple[Runner, int]]:
        return [(r, n) for r in self.all for what, loop, n in r.told if (what, loop) == ("start", name)]

    def holding(self, name: str) -> list[tuple[Runner, int]]:
        # What was told already is not published again: so this asks, and changes nothing.
        return [(r, n) for r, n in self.given(name) if self.leases.publish_run(name, n, 0, ()) is not None]

    @rule(target=runners, remote=st.booleans())
    def process(self, remote):
        made = Runner(remote)
        self.all.append(made)
        return made

    @rule(runner=runners, name=NAMES)
    def offer(self, runner, name):
        self.offers[name].add(runner)
        self.leases.offer(runner, name, LINGER)
        self.anew(name)

    @rule(runner=runners)
    def withdraw(self, runner):
        for offering in self.offers.values():
            offering.discard(runner)
        self.leases.withdraw(runner)

    @rule(runner=runners, has_room=st.booleans())
    def room(self, runner, has_room):
        runner.has_room = has_room

    @rule(has_room=st.booleans())
    def room_of_all(self, has_room):
        for runner in self.all:
            runner.has_room = has_room

    @rule(target=viewers, name=NAMES, count=st.integers(1, 3))
    def watch(self, name, count):
        peers = [self.bench.connect(name) for _ in range(count)]
        self.anew(name)
        return multiple(*peers)

    def anew(self, name):
        if not self.remembered(name):
            self.ended.discard(name)

    def remembered(self, name):
        loop = self.leases._loops.get(name)
        keep = {"done": 20.0, "failed": 4.0}.get(loop.status, 0.0) if loop else 0.0
        return loop is not None and self.bench.clock() - loop.ended < keep

    @rule(peer=viewers)
    def go(self, peer: Peer):
        peer.sock.close()
        self.bench.turn()

    @rule()
    def all_go(self):
        for peer in self.bench.peers:
            peer.sock.close()
        self.bench.turn()

    @rule(name=NAMES, times=st.integers(1, 3))
    def publishes(self, name, times):
        for runner, number in self.holding(name):
            assert runner in self.offers[name]
            for _ in range(times):
                self.counts[number] = count = self.counts.get(number, 0) + 1
                before = self.bench.hub.head()
                assert self.leases.publish_run(name, number, count, (text("#a", "x"),)) == before + 1
                assert self.leases.publish_run(name, number, count, (text("#a", "x"),)) == before + 1
                assert self.bench.hub.head() == before + 1

    @rule(name=NAMES, status=st.sampled_from(["done", "failed", "cancelled"]))
    def ends(self, name, status):
        for _, number in self.holding(name):
            self.leases.finish(name, number, status, "")
            self.ended.add(name)
            self.bench.turn()

    @rule(name=NAMES)
    def gives_back(self, name):
        for _, number in self.holding(name):
            self.leases.give_back(name, number)

    @rule()
    def those_without_room_say_so(self):
        for name in self.offers:
            for runner, number in self.given(name):
                if runner.remote and not runner.has_room:
                    self.leases.refuse(name, number)

    @rule(name=NAMES)
    def restart(self, name):
        self.leases.restart(name)
        self.ended.discard(name)

    @rule(name=NAMES)
    def those_who_have_lost_it_go_on(self, name):
        held = self.holding(name)
        before = self.bench.hub.head()
        for runner, number in self.given(name):
            if (runner, number) not in held:
                assert self.leases.publish_run(name, number, 1000, (text("#a", "x"),)) is None
                self.leases.finish(name, number, "done", "")
                self.leases.give_back(name, number)
                self.leases.refuse(name, number)
        assert self.bench.hub.head() == before
        assert self.holding(name) == held

    @rule(seconds=st.sampled_from([0.1, 1.1, 2.1, 5.1, 21.0]))
    def time(self, seconds):
        self.pass_time(seconds)

    def pass_time(self, seconds):
        for _ in range(round(seconds * 10)):
            self.bench.clock.now += 0.1
            self.bench.hub.poller.run_once(0)
            self.those_without_room_say_so()

    @rule()
    def settle(self):
        """Whatever was before: in so many seconds it is as it should be."""
        self.pass_time(2 * AGAIN + 0.3)
        for name, offering in self.offers.items():
            if self.bench.hub.viewers(name) and any(r.has_room for r in offering) and name not in self.ended:
                assert self.holding(name), f"nobody runs {name!r}"
        self.pass_time(max(FIRST, LINGER) + 0.3)
        for name in self.offers:
            if not self.bench.hub.viewers(name):
                assert not self.holding(name), f"{name!r} runs for nobody"

    @invariant()
    def one_at_most(self):
        for name in self.offers:
            assert len(self.holding(name)) <= 1

    @invariant()
    def no_number_is_given_twice(self):
        given = [number for name in self.offers for _, number in self.given(name)]
        assert len(given) == len(set(given))

    @invariant()
    def whoever_has_lost_it_while_it_was_there_was_told_so(self):
        for name in self.offers:
            held = self.holding(name)
            assert self.leases.holders().get(name) == (held[0][0] if held else None)


TestAnything = Anything.TestCase
TestAnything.settings = settings(max_examples=200, stateful_step_count=30, deadline=None)


# Jobs


class Works(Runner):
    """A process that runs jobs."""

    def cancel(self, name: str, number: int) -> None:
        self.told.append(("cancel", name, number))


def held(bench: Bench, runner: Runner, name: str = "job-1", *patches: Patch, whole: bool = True) -> int:
    return bench.hub.leases.hold(runner, name, patches, whole)


def test_a_job_needs_no_viewer_and_is_never_given_to_another(bench):
    runner, other = Works(), Works()
    bench.hub.leases.offer(other, "clock", LINGER)
    number = held(bench, runner)
    bench.wait(1000)
    assert bench.hub.leases.publish_run("job-1", number, 1, (text("#a", "1"),)) is not None
    peer = bench.connect("job-1", at=0)
    assert [event.data for event in peer.read()] == ['["job-1",1,[["text","#a","1"]]]']
    bench.hub.leases.restart("job-1")
    bench.hub.leases.withdraw(runner)
    bench.turn()
    (end,) = peer.read()
    assert '"status":"lost"' in end.data
    assert module.GONE in end.data
    bench.wait(50)
    assert (runner.told, other.told) == ([], [])
    assert bench.hub.leases.publish_run("job-1", number, 2, (text("#a", "2"),)) is None


def test_a_job_that_has_ended_is_remembered_for_loop_retention_and_then_forgotten(bench):
    number = held(bench, Works())
    bench.hub.leases.finish("job-1", number, "failed", "Sorry.")
    assert bench.hub.leases.standing("job-1") == ("failed", "Sorry.")
    bench.wait(99)
    assert bench.hub.leases.standing("job-1") == ("failed", "Sorry.")
    bench.wait(2)
    assert bench.hub.leases.standing("job-1") is None
    assert "job-1" not in bench.hub.log.channels
    assert bench.hub.fanout.watchers == {}


def test_a_job_that_is_looked_at_is_remembered_for_longer(bench):
    number = held(bench, Works())
    bench.hub.leases.finish("job-1", number, "done", "")
    peer = bench.connect("job-1", "news")
    bench.wait(150)
    assert bench.hub.leases.standing("job-1") == ("done", "")
    peer.sock.close()
    bench.wait(61)
    assert bench.hub.leases.standing("job-1") is None


def test_only_so_many_that_have_ended_are_remembered_and_all_that_run(bench, monkeypatch):
    monkeypatch.setattr(module, "_OVER_MOST", 3)
    runs = held(bench, Works(), "job-runs")
    for n in range(5):
        bench.hub.leases.finish(f"job-{n}", held(bench, Works(), f"job-{n}"), "done", "")
        bench.wait(0.1)
    assert [bench.hub.leases.standing(f"job-{n}") for n in range(5)] == [None, None, *[("done", "")] * 3]
    assert bench.hub.leases.standing("job-runs") == ("open", "")
    assert bench.hub.leases.publish_run("job-runs", runs, 1, (text("#a", "1"),)) is not None


def test_a_job_is_told_to_end_and_has_not_until_it_says_so(bench):
    runner = Works()
    number = held(bench, runner)
    assert bench.hub.leases.cancel("job-1") is True
    assert runner.told == [("cancel", "job-1", number)]
    assert bench.hub.leases.standing("job-1") == ("open", "")
    bench.hub.leases.finish("job-1", number, "cancelled", "")
    assert bench.hub.leases.cancel("job-1") is False
    assert bench.hub.leases.cancel("none") is False


def test_a_loop_is_no_job_and_a_job_no_loop(bench):
    runner = Works()
    offered(bench, runner)
    held(bench, runner)
    assert bench.hub.leases.standing("clock") is None
    assert bench.hub.leases.cancel("clock") is False
    with pytest.raises(LoopError, match="'clock' is the channel of a shared loop"):
        held(bench, runner, "clock")
    with pytest.raises(LoopError, match="'job-1' is the channel of a job"):
        bench.hub.leases.offer(runner, "job-1", LINGER)
    assert list(bench.hub.leases.offered()) == ["clock"]
    assert bench.hub.leases.holders() == {"job-1": runner}


def test_a_job_that_comes_to_a_new_hub_brings_its_state_and_pages_are_reset_to_it(bench):
    held(bench, Works(), "job-1", text("#a", "7"))
    peer = bench.connect("job-1", position="old.9", foreign=True)
    assert [(event.event, event.data) for event in peer.read()] == [
        ("reset", '{"channel":"job-1"}'),
        ("snapshot", '["job-1",1,[["text","#a","7"]]]'),
    ]


def test_a_job_whose_state_is_not_whole_has_pages_fetch_themselves(bench):
    held(bench, Works(), "job-1", text("#a", "7"), whole=False)
    assert [event.event for event in bench.connect("job-1", position="old.9", foreign=True).read()] == [
        "refresh"
    ]


def test_a_job_that_is_held_again_has_one_lease_and_begins_anew(bench):
    runner = Works()
    first = held(bench, runner)
    bench.hub.leases.publish_run("job-1", first, 1, (append_text("#log", "a"),))
    peer = bench.connect("job-1")
    peer.read()
    second = held(bench, runner, "job-1", append_text("#log", "ab"))
    assert bench.hub.leases.publish_run("job-1", first, 2, (append_text("#log", "x"),)) is None
    bench.turn()
    assert [event.event for event in peer.read()] == ["reset", "snapshot"]
    bench.hub.leases.withdraw(runner, module.STOPPED)
    assert bench.hub.leases.standing("job-1") == ("lost", module.STOPPED)
    assert bench.hub.leases.publish_run("job-1", second, 1, (append_text("#log", "x"),)) is None
