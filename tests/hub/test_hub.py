"""The hub on real sockets, its poller turned by hand, its clock injected."""

from __future__ import annotations

import json
import random
import socket
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from afterload import append, text
from afterload.hub import sending
from afterload.hub.hub import Hub
from afterload.hub.lingering import DRAIN
from afterload.hub.viewer import Follow
from afterload.log import Log
from afterload.patch import message
from afterload.pipe import Pipe
from afterload.settings import Settings
from afterload.wire import sse
from afterload.wire import text as plain
from afterload.wire.sse import Decoder, Event


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Peer:
    """The browser's end of a viewer's connection."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.decoder = Decoder()
        self.events: list[Event] = []
        self.bytes = 0
        self.eof = False
        sock.setblocking(False)

    def read(self, most: int = 1 << 20) -> list[Event]:
        """What has come since the last call, hello and pings left out."""
        new: list[Event] = []
        while most > 0:
            try:
                data = self.sock.recv(min(most, 65536))
            except BlockingIOError:
                break
            except ConnectionResetError:  # a Unix socket closed with unread bytes
                data = b""
            if not data:
                self.eof = True
                break
            most -= len(data)
            self.bytes += len(data)
            new += self.decoder.feed(data)
        self.events += new
        return [e for e in new if e.event not in ("hello", "ping")]

    @property
    def position(self) -> str:
        return self.decoder.id


class Bench:
    def __init__(self, **settings: object) -> None:
        self.clock = Clock()
        self.hub = Hub(Settings().updated(settings), clock=self.clock, epoch="e")
        self.peers: list[Any] = []

    def connect(self, *names: str, log: Log | None = None, buffer: int = 0, **follow: object) -> Peer:
        ours, theirs = socket.socketpair()
        if buffer:
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
        self.hub.adopt(ours, Follow(log or self.hub.log, names, **follow))  # type: ignore[arg-type]
        peer = Peer(theirs)
        self.peers.append(peer)
        self.turn()
        return peer

    def turn(self, times: int = 3) -> None:
        for _ in range(times):
            self.hub.poller.run_once(0)

    def wait(self, seconds: float) -> None:
        """Lets time pass, and the poller turn as it does."""
        end = self.clock.now + seconds
        while self.clock.now < end:
            self.clock.now = min(end, self.clock.now + 0.01)
            self.hub.poller.run_once(0)

    def publish(self, name: str, *patches: object) -> str:
        return f"e.{self.hub.publish(name, patches)}"  # type: ignore[arg-type]

    def close(self) -> None:
        self.hub.release()
        for peer in self.peers:
            peer.sock.close()


pytestmark = pytest.mark.usefixtures("sent_one_by_one_and_many_at_a_time")


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.close()


def data(events: list[Event]) -> list[str]:
    return [event.data for event in events]


def test_hello_comes_first_and_repeats_the_position(bench: Bench) -> None:
    bench.publish("a", text("#n", 1))
    peer = bench.connect("a", at=1, position="e.1", into="#n")
    peer.read()
    (hello,) = peer.events
    assert hello.event == "hello"
    assert hello.id == "e.1"
    assert hello.retry is not None
    assert hello.retry >= 500
    assert hello.data == '{"v":1,"resumed":true,"heartbeat":20.0,"channels":["a"],"into":"#n"}'


def test_the_response_head_is_sent_before_anything(bench: Bench) -> None:
    peer = bench.connect("a", head=b"HTTP/1.1 200 OK\r\n\r\n")
    assert peer.sock.recv(1000).startswith(b"HTTP/1.1 200 OK\r\n\r\nevent: hello\n")


def test_every_viewer_gets_a_publish_at_once(bench: Bench) -> None:
    peers = [bench.connect("a") for _ in range(5)]
    other = bench.connect("b")
    position = bench.publish("a", text("#n", 1))
    bench.turn(1)
    for peer in peers:
        (event,) = peer.read()
        assert (event.event, event.data, event.id) == ("patch", '["a",1,[["text","#n","1"]]]', position)
    assert other.read() == []


def test_a_block_is_encoded_once_for_all_groups(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    peers = [bench.connect("a", f"user-{i}") for i in range(10)]
    calls = []
    step = sse.step
    monkeypatch.setattr(sse, "step", lambda *a: calls.append(1) or step(*a))  # type: ignore[func-returns-value]
    bench.publish("a", text("#n", 1))
    bench.turn(1)
    assert [len(peer.read()) for peer in peers] == [1] * 10
    assert len(calls) == 1


def test_a_burst_is_merged_into_sixty_blocks_a_second(bench: Bench) -> None:
    peer = bench.connect("a")
    blocks = []
    for i in range(1000):
        bench.publish("a", text("#n", i))
        bench.wait(0.001)
        blocks += peer.read()
    bench.wait(0.1)
    blocks += peer.read()
    assert 50 <= len(blocks) <= 62
    assert '"999"' in blocks[-1].data
    assert blocks[-1].id == "e.1000"


def test_strings_in_a_burst_are_each_kept(bench: Bench) -> None:
    peer = bench.connect("a")
    for i in range(50):
        bench.publish("a", message(f"token {i}"))
    bench.wait(0.1)
    assert data(peer.read()) == [f"token {i}" for i in range(50)]


def test_a_viewer_that_comes_back_gets_only_what_it_missed(bench: Bench) -> None:
    first = bench.connect("a")
    bench.publish("a", append("#log", "1"))
    bench.turn()
    first.read()
    first.sock.close()
    bench.publish("a", append("#log", "2"))
    bench.publish("a", append("#log", "3"))
    back = bench.connect("a", at=1, position=first.position)
    (event,) = back.read()
    assert event.data == '["a",3,[["append","#log","2"],["append","#log","3"]],1]'
    assert event.id == "e.3"


def test_a_publish_between_connect_and_live_is_neither_lost_nor_doubled(bench: Bench) -> None:
    watched = bench.connect("a")  # so that the group exists, and gets dirty
    bench.publish("a", append("#log", "1"))
    ours, theirs = socket.socketpair()
    bench.hub.adopt(ours, Follow(bench.hub.log, ("a",), at=0, position="e.0"))
    bench.publish("a", append("#log", "2"))
    peer = Peer(theirs)
    bench.peers.append(peer)
    bench.wait(0.1)
    bench.publish("a", append("#log", "3"))
    bench.wait(0.1)
    rows = "".join(data(peer.read()))
    assert [rows.count(f'"{n}"') for n in (1, 2, 3)] == [1, 1, 1]
    rows = "".join(data(watched.read()))
    assert [rows.count(f'"{n}"') for n in (1, 2, 3)] == [1, 1, 1]


def test_a_viewer_that_never_reads_holds_one_block_and_hinders_nobody(bench: Bench) -> None:
    stuck = bench.connect("a", buffer=4096)
    peer = bench.connect("a")
    received = 0
    for i in range(300):
        bench.publish("a", text("#n", f"{i} " + "x" * 2000))
        bench.wait(0.02)
        received += len(peer.read())
    assert received == 300
    (viewer,) = [v for g in bench.hub.fanout.groups.values() for v in g.behind]
    assert viewer.rest is not None
    assert len(viewer.rest.obj) < 2500  # one block, shared with the others
    stuck.read()
    bench.wait(0.1)
    assert '"299 x' in stuck.read()[-1].data  # the last state, not every step
    assert len([e for e in stuck.events if e.event == "patch"]) < 20


def test_a_slow_viewer_gets_every_appended_row_once_and_in_order(bench: Bench) -> None:
    slow = bench.connect("a", buffer=4096)
    for i in range(400):
        bench.publish("a", append("#log", f"[{i}]" + "x" * 200))
        bench.wait(0.02)
        slow.read(300)
    for _ in range(400):
        bench.wait(0.02)
        slow.read(4000)
    rows = "".join(e.data for e in slow.events if e.event == "patch")
    found = [int(part.split("]")[0]) for part in rows.split('"[')[1:]]
    assert found == list(range(400))


def test_a_viewer_that_takes_nothing_is_dropped_after_the_stall_time(bench: Bench) -> None:
    stuck = bench.connect("a", buffer=4096)
    for i in range(100):
        bench.publish("a", text("#n", f"{i}" + "x" * 4000))
        bench.wait(0.02)
    bench.wait(bench.hub.settings.stall - 5)
    assert bench.hub.viewers("a") == 1
    bench.wait(8)
    assert bench.hub.viewers("a") == 0
    assert bench.hub.fanout.counters["ended_stalled"] == 1
    stuck.read()
    assert stuck.eof


def test_a_silent_stream_carries_a_ping_with_the_head_as_its_id(bench: Bench) -> None:
    peer = bench.connect("a")
    bench.publish("b", text("#n", 1))  # not ours: but everything of ours is had up to it
    bench.wait(19)
    peer.read()
    assert [e.event for e in peer.events] == ["hello"]
    bench.wait(2.5)
    peer.read()
    assert [(e.event, e.id) for e in peer.events[1:]] == [("ping", "e.1")]


def test_a_viewer_that_closes_is_forgotten_at_once(bench: Bench) -> None:
    peer = bench.connect("a")
    assert bench.hub.viewers("a") == 1
    peer.read()
    peer.sock.close()
    bench.turn(1)
    assert bench.hub.viewers("a") == 0
    assert bench.hub.fanout.groups == {}
    assert bench.hub.fanout.counters["ended_gone"] == 1


def test_what_a_viewer_sends_is_discarded_and_a_flood_ends_it(bench: Bench) -> None:
    peer = bench.connect("a")
    peer.sock.send(b"GET /other HTTP/1.1\r\n\r\n")
    bench.turn()
    assert bench.hub.viewers("a") == 1
    peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    peer.sock.send(b"x" * 200_000)
    bench.turn()
    assert bench.hub.viewers("a") == 0


def test_the_end_of_a_channel_is_said_and_the_connection_closed_in_order(bench: Bench) -> None:
    peer = bench.connect("a")
    bench.publish("a", text("#n", 1))
    bench.hub.finish("a", "done", "ready")
    bench.wait(0.1)
    events = peer.read()
    assert [e.event for e in events] == ["patch", "end"]
    assert events[1].data == '{"channel":"a","status":"done","message":"ready"}'
    assert events[0].id == "e.1"
    assert events[1].id == "e.2"
    assert peer.eof
    assert bench.hub.viewers("a") == 0
    peer.sock.close()
    bench.turn()
    assert len(bench.hub.fanout.lingering) == 0


def test_a_viewer_that_does_not_close_after_the_end_is_closed_by_us(bench: Bench) -> None:
    bench.connect("a")
    bench.hub.finish("a", "done")
    bench.wait(0.1)
    assert len(bench.hub.fanout.lingering) == 1
    bench.wait(DRAIN + 1.1)
    assert len(bench.hub.fanout.lingering) == 0


def test_a_finished_channel_gives_a_late_viewer_its_result_and_its_end(bench: Bench) -> None:
    bench.publish("a", text("#n", 1))
    bench.hub.finish("a", "failed", "no")
    peer = bench.connect("a")
    events = peer.read()
    assert [(e.event, e.id) for e in events] == [("snapshot", "e.1"), ("end", "e.2")]
    assert peer.eof
    assert bench.hub.at_end(["a"], 2)
    assert not bench.hub.at_end(["a"], 1)


def test_one_of_two_channels_ends_and_the_other_goes_on(bench: Bench) -> None:
    peer = bench.connect("a", "b")
    bench.hub.finish("a", "done")
    bench.turn()
    assert [e.event for e in peer.read()] == ["end"]
    bench.publish("b", text("#n", 1))
    bench.wait(0.1)
    assert [e.event for e in peer.read()] == ["patch"]
    assert not peer.eof


def test_a_short_stream_says_what_is_new_and_when_to_ask_again(bench: Bench) -> None:
    bench.publish("a", text("#n", 1))
    peer = bench.connect("a", at=0, position="e.0", hold=False)
    events = peer.read()
    assert [e.event for e in events] == ["patch", "bye"]
    assert events[1].retry is not None
    assert 5000 <= events[1].retry <= 7500
    assert peer.eof


def test_viewers_are_told_when_the_hub_goes_away(bench: Bench) -> None:
    peers = [bench.connect("a") for _ in range(40)]
    bench.hub.say_bye()
    retries = set()
    for peer in peers:
        (event,) = peer.read()
        assert event.event == "bye"
        assert event.retry is not None
        assert event.retry >= 500
        retries.add(event.retry)
        assert peer.eof
    assert len(retries) > 10  # not all come back in one moment


def test_pages_that_lose_one_server_together_do_not_come_back_to_it_together() -> None:
    bench = Bench()
    peers = [bench.connect("a") for _ in range(1000)]
    bench.hub.say_bye()
    bench.turn()
    chance = random.Random(5)
    waits = []
    for peer in peers:
        [bye] = peer.read()
        # as docs/wire.md#coming-back has it, and the client does
        waits.append(json.loads(bye.data)["retry"] * (1 + chance.random()))
    bench.close()
    window = bench.hub.settings.retry / 1000
    first, last = min(waits) / 1000, max(waits) / 1000
    assert last - first > window
    tenths = Counter(int(wait / 100) for wait in waits)
    even = len(waits) / (last - first) / 10
    assert max(tenths.values()) < 3 * even, "in no tenth of a second more than a server is asked evenly"


def test_the_page_that_comes_back_with_a_private_key_replaces_its_old_connection(bench: Bench) -> None:
    log = bench.hub.new_log("key")
    old = bench.connect("~", log=log, at=0)
    new = bench.connect("~", log=log, at=0)
    old.read()
    assert old.eof
    bench.hub.publish("~", (text("#n", 1),), log)
    bench.turn()
    assert len(new.read()) == 1
    assert bench.hub.viewers("~", log) == 1


def test_an_error_with_one_viewer_touches_no_other(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bad, good = bench.connect("a"), bench.connect("a")
    viewer = next(
        v for v in bench.hub.fanout.viewers.values() if v.sock.fileno() == min(bench.hub.fanout.viewers)
    )
    readable = bench.hub.fanout._read

    def fail(v: object) -> None:
        if v is viewer:
            raise RuntimeError("boom")
        readable(v)  # type: ignore[arg-type]

    monkeypatch.setattr(bench.hub.fanout, "_read", fail)
    bad.sock.send(b"x")
    good.sock.send(b"x")
    bench.turn()
    bench.publish("a", text("#n", 1))
    bench.turn()
    assert len(bad.read()) + len(good.read()) == 1
    assert bench.hub.viewers("a") == 1
    assert bench.hub.poller.errors == 1


@pytest.mark.parametrize("where", ["_encode", "_broadcast", "_sender.send_all"])
def test_pages_of_whom_an_error_leaves_unknown_what_they_have_come_back_and_have_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    peers, other = [bench.connect("a"), bench.connect("a")], bench.connect("b")
    bench.publish("a", append("#log", "1"))
    bench.turn()
    fanout: Any = bench.hub.fanout

    def fail(*_: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patched:
        *path, name = where.split(".")
        patched.setattr(getattr(fanout, path[0]) if path else fanout, name, fail)
        bench.publish("a", append("#log", "2"))
        bench.wait(0.1)
    bench.publish("a", append("#log", "3"))
    bench.publish("b", text("#n", 1))
    bench.wait(0.1)
    assert bench.hub.poller.errors == 1
    assert bench.hub.stats()["ended_error"] == 2
    assert data(other.read()) == ['["b",1,[["text","#n","1"]]]']
    for peer in peers:
        assert data(peer.read()) == ['["a",1,[["append","#log","1"]]]']
        assert peer.eof
        again = bench.connect("a", position=peer.position, at=int(peer.position.split(".")[1]))
        assert data(again.read()) == ['["a",3,[["append","#log","2"],["append","#log","3"]],1]']


def test_an_error_with_one_that_catches_up_touches_no_other(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    peers = [bench.connect("a"), bench.connect("a")]
    fanout = bench.hub.fanout
    bad, good = fanout.viewers.values()
    real = fanout._catch_up

    def fail(viewer: Any) -> None:
        if viewer is bad:
            raise MemoryError
        real(viewer)

    for viewer in (bad, good):
        fanout._leave_current(viewer)
    monkeypatch.setattr(fanout, "_catch_up", fail)
    bench.publish("a", text("#n", 1))
    bench.turn()
    assert sorted((len(peer.read()), peer.eof) for peer in peers) == [(0, True), (1, False)]
    assert bench.hub.poller.errors == 1


def test_an_error_in_a_heartbeat_leaves_nobody_with_a_part_of_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer = bench.connect("a")

    def fail(*_: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr(bench.hub.fanout._sender, "send_all", fail)
        bench.wait(bench.hub.settings.heartbeat + 2)
    peer.read()
    assert peer.eof
    assert bench.hub.viewers("a") == 0


def test_many_at_a_time_are_counted_and_it_can_be_turned_off_meanwhile(bench: Bench) -> None:
    peers = [bench.connect("a") for _ in range(3)]
    rings = sending.MANY == 1

    def batched() -> int:
        bench.publish("a", text("#n", 1))
        bench.wait(0.1)
        return int(bench.hub.stats().get("batched", 0))

    assert batched() == (3 if rings else 0)
    bench.hub.settle(bench.hub.settings.updated({"io_uring": False}))
    assert batched() == (3 if rings else 0)
    bench.hub.settle(bench.hub.settings.updated({"io_uring": True}))
    assert batched() == (6 if rings else 0)
    assert [len(peer.read()) for peer in peers] == [3] * 3


def test_a_reused_descriptor_never_gets_bytes_of_its_former_viewer(bench: Bench) -> None:
    # the attack: a private update written by number after its viewer left and somebody else got the number
    for i in range(200):
        log = bench.hub.new_log(f"key{i}")
        peer = bench.connect("~", log=log, at=0)
        bench.hub.publish("~", (text("#secret", i),), log)
        if i % 2:
            bench.turn()
        peer.sock.close()
        other = bench.connect("public")
        bench.wait(0.02)
        assert all("#secret" not in event.data for event in other.read())
        other.sock.close()
        bench.turn()


def test_counters_agree_with_what_was_received(bench: Bench) -> None:
    peers = [bench.connect("a") for _ in range(3)]
    for i in range(10):
        bench.publish("a", text("#n", i))
        bench.wait(0.02)
    for peer in peers:
        peer.read()
    assert bench.hub.fanout.counters["bytes"] == sum(peer.bytes for peer in peers)
    viewers = list(bench.hub.fanout.viewers.values())
    for peer in peers:
        peer.sock.close()
    bench.turn()
    assert sum(viewer.sent for viewer in viewers) == sum(peer.bytes for peer in peers)


def test_a_gap_that_history_does_not_cover_is_filled_from_the_state() -> None:
    bench = Bench(history=5)
    for i in range(50):
        bench.publish("a", append("#log", f"row {i}"))
    peer = bench.connect("a", at=10, position="e.10")
    (event,) = peer.read()
    assert event.event == "patch"
    assert event.data.count("row") == 40
    assert event.data.endswith(",0]")
    assert bench.hub.fanout.counters["answers_state"] == 1
    bench.close()


def test_a_state_that_is_more_than_its_bound_is_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(state_bytes=1000)
    for _ in range(20):
        bench.publish("chat", append("#rows", "x" * 200))
    (record,) = [r for r in caplog.records if r.levelname == "WARNING"]
    assert "'chat'" in record.getMessage()
    assert "keep=n" in record.getMessage()
    assert bench.hub.stats()["state_overflows"] > 1
    bench.close()


def test_the_answer_for_many_that_come_from_one_place_is_made_once(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stands for a restart: thousands of pages come back in the same second, with the same position."""
    made = []
    connect = Log.connect

    def counted(self: Log, *args: object, **kwargs: object) -> object:
        made.append(1)
        return connect(self, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(Log, "connect", counted)
    bench.publish("a", text("#n", 1))
    ends = [socket.socketpair() for _ in range(10)]
    for ours, _ in ends:
        bench.hub.adopt(ours, Follow(bench.hub.log, ("a",), at=None, foreign=True))
    peers = [Peer(theirs) for _, theirs in ends]
    bench.peers += peers
    bench.turn()
    for peer in peers:
        assert [e.event for e in peer.read()] == ["refresh"]
    assert made == [1]


def test_the_channel_of_a_loop_is_never_forgotten() -> None:
    bench = Bench(max_channels=5)
    bench.hub.watch(bench.hub.log, "result", lambda count: None)
    for name in ("result", *(f"topic-{i}" for i in range(20))):
        bench.publish(name, text("#n", 1))
    assert "result" in bench.hub.log.channels
    assert len(bench.hub.log.channels) < 10
    bench.close()


def test_memory_lost_is_healed_by_the_page_itself(bench: Bench) -> None:
    bench.publish("a", append("#log", "new"))
    peer = bench.connect("a", foreign=True, position="other.99")
    assert [e.event for e in peer.read()] == ["refresh"]


def test_a_timer_far_ahead_is_waited_for_in_parts(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """epoll refuses to wait for a month."""
    waited = []
    poller = bench.hub.poller
    monkeypatch.setattr(poller._selector, "select", lambda timeout: waited.append(timeout) or [])
    bench.hub.later(30 * 86400, lambda: None)
    poller.run_once()
    poller.run_once()
    assert 0 < waited[-1] <= 3600


@pytest.mark.parametrize("broken", ["_hello", "_recount", "_encode", "poller.register"])
def test_a_connection_that_cannot_be_taken_in_is_closed_and_forgotten(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(
            bench.hub.poller if broken.startswith("poller.") else bench.hub.fanout,
            broken.rpartition(".")[2],
            lambda *_: 1 / 0 if _[-1] != -1 else None,
        )
        lost = bench.connect("a")
    lost.read()
    assert lost.eof
    assert not bench.hub.fanout.viewers
    assert not bench.hub.fanout.groups
    assert not bench.hub.fanout.by_channel
    assert bench.hub.room("")
    peer = bench.connect("a")
    bench.publish("a", text("#n", 1))
    bench.turn()
    assert len(peer.read()) == 1


def test_what_was_still_to_be_taken_in_is_let_go_with_the_hub() -> None:
    """Stands for a fork: the child must not hold what its parent is about to serve."""
    bench = Bench()
    ours, theirs = socket.socketpair()
    bench.hub.adopt(ours, Follow(bench.hub.log, ("a",)))
    bench.close()
    with theirs:
        assert theirs.recv(1) == b""


def test_a_viewers_small_blocks_go_at_once(bench: Bench) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        theirs = socket.create_connection(listener.getsockname())
        ours, _ = listener.accept()
    bench.peers.append(Peer(theirs))
    bench.hub.adopt(ours, Follow(bench.hub.log, ("a",)))
    bench.turn()
    assert ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert ours.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)


# Pipes


def written(bench: Bench, buffer: int = 0) -> tuple[Pipe, Peer]:
    pipe = Pipe("text")
    pipe.begin("~")
    return pipe, bench.connect("~", log=pipe, at=0, wire=plain, buffer=buffer)


def received(peer: Peer, most: int = 1 << 20) -> bytes:
    data = b""
    while len(data) < most:
        try:
            got = peer.sock.recv(min(most - len(data), 65536))
        except BlockingIOError:
            break
        if not got:
            peer.eof = True
            break
        data += got
    return data


def test_a_piece_goes_out_in_the_thread_that_writes_it(bench: Bench) -> None:
    pipe, peer = written(bench)
    bench.hub.write("~", b"one", pipe)
    assert received(peer) == b"one"  # and the poller has not turned
    assert pipe.size == 0
    assert bench.hub.stats()["bytes"] == 3


def test_many_pieces_go_out_together_and_in_order(bench: Bench) -> None:
    pipe, peer = written(bench)
    for n in range(1000):
        bench.hub.write("~", b"%d," % n, pipe)
    bench.wait(0.1)
    assert received(peer) == b"".join(b"%d," % n for n in range(1000))
    assert bench.hub.stats()["sends"] < 20


def test_what_a_viewer_does_not_take_waits_for_it(bench: Bench) -> None:
    pipe, peer = written(bench, buffer=4096)
    sent = b""
    for n in range(30):
        piece = bytes([n]) * 3000
        bench.hub.write("~", piece, pipe)
        sent += piece
        bench.wait(0.02)
    got = b""
    for _ in range(100):
        got += received(peer, 5000)
        bench.wait(0.02)
    assert got == sent
    bench.hub.write("~", b"last", pipe)
    bench.hub.finish("~", "done", log=pipe)
    bench.wait(0.1)
    assert received(peer) == b"last"
    assert peer.eof


def test_who_has_left_is_written_to_no_more(bench: Bench) -> None:
    pipe, peer = written(bench)
    peer.sock.close()
    bench.hub.write("~", b"one", pipe)
    bench.hub.write("~", b"two", pipe)
    bench.wait(0.1)
    assert bench.hub.stats()["viewers"] == 0
    bench.hub.write("~", b"three", pipe)
    assert pipe.size > 0
