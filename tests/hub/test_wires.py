"""One contract for every wire: whoever reads it gets the same blocks, in order, and ends as it is told.

A poll is read as its client does: answered, it asks again from where it is. A document has no positions, so what is
said of coming back is not for it.
"""

from __future__ import annotations

import gc
import random
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
from markupsafe import Markup
from websockets.frames import Frame, Opcode

from afterload import append, append_text, text
from afterload.hub.fanout import DISCARD
from afterload.hub.viewer import Follow, Viewer
from afterload.log import Log
from afterload.patch import message
from afterload.wire import document, poll, sse, websocket
from tests.faults.page import Block
from tests.faults.wires import Elements, Messages, Stream, Text
from tests.hub.test_hub import Bench

UNSEEN = ("hello", "ping")
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nSet-Cookie: a=b\r\n\r\n"
READERS: dict[ModuleType, Callable[[], Any]] = {
    sse: Stream, websocket: Messages, poll: Text, document: Elements
}  # fmt: skip


class Reader:
    """A page that follows channels on one wire."""

    def __init__(
        self,
        bench: Bench,
        wire: ModuleType,
        *names: str,
        position: str = "0",
        log: Log | None = None,
        **asked: Any,
    ) -> None:
        self.bench, self.wire, self.names, self.log, self.asked = bench, wire, names, log, asked
        self.position = position
        self.said: list[Block] = []
        self.new = 0
        self.answers = 0
        bench.peers.append(self)  # to be closed with it
        self.connect()

    def connect(self, **other: Any) -> None:
        ours, self.sock = socket.socketpair()
        if buffer := self.asked.get("buffer"):
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
        self.sock.setblocking(False)
        self.eof = False
        self.decoder = READERS[self.wire]()
        self.bytes = b""
        asked = {name: value for name, value in self.asked.items() if name != "buffer"}
        if self.wire is poll and self.position != "0":
            asked["wait"] = 25.0
        if self.log is not None and "at" not in asked:
            asked["at"] = int(self.position.rpartition(".")[2])
        self.bench.hub.adopt(
            ours,
            Follow(self.log, self.names, wire=self.wire, position=self.position, **asked | other),  # type: ignore[arg-type]
        )
        self.bench.turn()

    def read(self, most: int = 1 << 26) -> list[Block]:
        """What has come since the last call, but for hello and pings."""
        while most > 0 and not self.eof:
            self.bench.turn(1)
            try:
                data = self.sock.recv(min(most, 65536))
            except BlockingIOError:
                break
            except ConnectionResetError:
                data = b""
            most -= len(data)
            if not data:
                self.eof = True
                self.sock.close()
                if self.wire is poll:
                    self.take(self.decoder.end())
                if self.wire is not poll or self.is_over:
                    break
                self.answers += 1
                self.connect()
                continue
            self.bytes += data
            self.take(self.decoder.blocks(data) if self.wire is document else self.decoder.feed(data))
        new, self.new = self.said[self.new :], len(self.said)
        return [said for said in new if said.event not in UNSEEN]

    def take(self, blocks: list[Block]) -> None:
        self.said += blocks
        self.position = next((said.id for said in reversed(blocks) if said.id), self.position)

    @property
    def is_over(self) -> bool:
        ends = {said.lines[0]["channel"] for said in self.said if said.event == "end"}
        return ends == set(self.names) or (bool(self.said) and self.said[-1].event in ("bye", "refresh"))

    def content(self, target: str) -> str:
        """What the page shows in a place, by all it has read."""
        shown = ""
        for said in self.said:
            if said.event in ("patch", "snapshot"):
                for _, _, patches, *_ in said.lines:
                    for action, at, content, *_ in patches:
                        if at == target:
                            shown = content if action == "text" else shown + content
        return shown


pytestmark = pytest.mark.usefixtures("sent_one_by_one_and_many_at_a_time")


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench(heartbeat=20, flush_rate=10_000)
    yield made
    made.close()


every = pytest.mark.parametrize("wire", [sse, websocket, poll, document], ids=lambda wire: wire.NAME)
resumable = pytest.mark.parametrize("wire", [sse, websocket, poll], ids=lambda wire: wire.NAME)


@every
def test_hello_comes_first(bench: Bench, wire: ModuleType) -> None:
    reader = Reader(bench, wire, "a", "b", into="#x")
    assert reader.read() == []
    hello = reader.said[0]
    assert hello.event == "hello"
    assert hello.lines[0]["channels"] == ["a", "b"]
    assert (hello.lines[0]["v"], hello.lines[0]["into"]) == (1, "#x")
    assert hello.lines[0]["heartbeat"] == min(20, wire.HEARTBEAT)


@every
def test_all_of_it_comes_once_and_in_order(bench: Bench, wire: ModuleType) -> None:
    reader = Reader(bench, wire, "a", "b")
    reader.read()
    for n in range(1, 101):
        name = "a" if n % 3 else "b"  # each has places of its own
        bench.publish(name, append_text(f"#{name}", f",{n}"))
        if n % 7 == 0:
            reader.read()
        bench.wait(0.01)
    reader.read()
    assert reader.content("#a") == "".join(f",{n}" for n in range(1, 101) if n % 3)
    assert reader.content("#b") == "".join(f",{n}" for n in range(1, 101) if not n % 3)


@every
def test_patches_of_one_publish_are_one_block(bench: Bench, wire: ModuleType) -> None:
    reader = Reader(bench, wire, "a")
    reader.read()
    bench.publish("a", text("#x", "1"), append("#rows", Markup("<li>1</li>")))
    [said] = reader.read()
    assert said.event == "patch"
    assert said.lines == (["a", 1, [["text", "#x", "1"], ["append", "#rows", "<li>1</li>"]]],)


@every
def test_plain_strings_come_as_they_are(bench: Bench, wire: ModuleType) -> None:
    reader = Reader(bench, wire, "a")
    reader.read()
    for one in ("", "two\nlines", "a\r\nb\rc", " led by a blank", '"quoted"', "data: x\n\n", "</af-p>'"):
        bench.publish("a", message(one))
        [said] = reader.read()
        assert (said.event, said.lines) == ("message", (one.replace("\r\n", "\n").replace("\r", "\n"),))
        bench.wait(0.01)


@every
def test_every_plane_of_unicode_arrives(bench: Bench, wire: ModuleType) -> None:
    reader = Reader(bench, wire, "a")
    reader.read()
    planes = "".join(
        chr(plane * 0x10000 + low) for plane in range(17) for low in (0x20, 0x41, 0x2028, 0xFFFD)
    )
    hostile = planes + "\0\t\x0b\x0c\x1c\x85\u2028\u2029\ufeff<!--<script>&amp;'\"]]>"
    bench.publish("a", text("#x", hostile))
    [said] = reader.read()
    assert said.lines[0][2] == [["text", "#x", hostile]]


@every
def test_a_block_of_a_megabyte_arrives_whole(bench: Bench, wire: ModuleType) -> None:
    reader = Reader(bench, wire, "a", buffer=4096)
    reader.read()
    for size in (125, 126, 65_535, 65_536, 1 << 20):
        big = "é" * (size // 2)
        bench.publish("a", text("#x", big))
        bench.wait(0.05)
        reader.read()
        assert reader.content("#x") == big


@every
def test_the_end_is_said_and_then_the_connection_is_closed(bench: Bench, wire: ModuleType) -> None:
    reader = Reader(bench, wire, "a", "b")
    reader.read()
    bench.hub.finish("a", "done")
    [said] = reader.read()
    assert (said.event, said.lines) == ("end", ({"channel": "a", "status": "done", "message": ""},))
    assert not reader.eof or wire is poll
    bench.publish("b", text("#x", "last"))
    bench.hub.finish("b", "failed", "no <b>luck</b>")
    bench.wait(0.05)
    got = reader.read()
    assert got[-1].lines == ({"channel": "b", "status": "failed", "message": "no <b>luck</b>"},)
    assert reader.content("#x") == "last"
    assert reader.eof
    if wire is websocket:
        assert reader.decoder.closed == 1000


@every
def test_a_viewer_that_comes_after_the_end_gets_the_state_and_the_end(bench: Bench, wire: ModuleType) -> None:
    bench.publish("a", text("#x", "result"))
    bench.hub.finish("a", "cancelled")
    reader = Reader(bench, wire, "a")
    got = reader.read()
    assert reader.content("#x") == "result"
    assert got[-1].lines == ({"channel": "a", "status": "cancelled", "message": ""},)
    assert reader.eof


@every
def test_bye_is_said_and_then_the_connection_is_closed(bench: Bench, wire: ModuleType) -> None:
    reader = Reader(bench, wire, "a")
    reader.read()
    bench.hub.say_bye()
    got = reader.read()
    assert got[-1].event == "bye"
    assert 500 <= got[-1].lines[0]["retry"] <= 60_000
    assert reader.eof
    if wire is websocket:
        assert reader.decoder.closed == 1001


@every
def test_without_room_a_viewer_gets_what_there_is_and_bye(bench: Bench, wire: ModuleType) -> None:
    bench.publish("a", text("#x", "1"))
    reader = Reader(bench, wire, "a", hold=False)
    got = reader.read()
    assert [said.event for said in got] == ["snapshot", "bye"]
    assert reader.eof


@every
def test_a_silent_line_gives_a_sign_of_life(bench: Bench, wire: ModuleType) -> None:
    reader = Reader(bench, wire, "a")
    reader.read()
    seen = len(reader.said)
    bench.publish("other", text("#x", "1"))
    bench.wait(27)
    reader.read()
    if wire is poll:
        assert reader.bytes == b""  # the wait is over, and it has asked again
        assert reader.answers >= 1
        return
    pings = [said for said in reader.said[seen:] if said.event == "ping"]
    assert pings
    if wire is not document:
        assert pings[-1].id == "e.1"


@every
def test_a_slow_reader_gets_every_row_once_and_holds_up_nobody(bench: Bench, wire: ModuleType) -> None:
    slow = Reader(bench, wire, "a", buffer=2048)
    fast = Reader(bench, wire, "a")
    for reader in (slow, fast):
        reader.read()
    for n in range(200):
        bench.publish("a", append_text("#n", f",{n}"), text("#big", f"{n}" * 300))
        bench.wait(0.01)
        fast.read()
        slow.read(most=64)
    everything = "".join(f",{n}" for n in range(200))
    assert fast.content("#n") == everything
    assert slow.content("#n") != everything
    held = [len(viewer.rest) for viewer in bench.hub.fanout.viewers.values() if viewer.rest is not None]
    assert max(held, default=0) < 100_000  # the rest of one block, and no queue of them
    for _ in range(1000):
        if slow.content("#n") == everything:
            break
        slow.read(most=20_000)
    assert slow.content("#n") == everything
    assert slow.content("#big") == "199" * 300


@resumable
def test_it_resumes_where_it_was(bench: Bench, wire: ModuleType) -> None:
    reader = Reader(bench, wire, "a")
    reader.read()
    chance = random.Random(wire.NAME)
    for n in range(60):
        bench.publish("a", append_text("#n", f",{n}"))
        bench.wait(0.01)
        if chance.random() < 0.3:
            reader.sock.close()
            bench.turn()
            reader.connect()
        elif chance.random() < 0.5:
            reader.read()
    reader.read()
    assert reader.content("#n") == "".join(f",{n}" for n in range(60))
    again = [said for said in reader.said if said.event == "hello" and said.id not in ("0", "e.0")]
    assert again
    assert all(said.lines[0]["resumed"] for said in again)


@resumable
def test_a_position_of_another_life_is_told_to_refresh(bench: Bench, wire: ModuleType) -> None:
    bench.publish("a", text("#x", "1"))
    reader = Reader(bench, wire, "a", position="old.7")
    got = reader.read()
    assert [said.event for said in got] == ["refresh"]


@resumable
def test_a_run_that_began_anew_is_a_reset_and_its_state(bench: Bench, wire: ModuleType) -> None:
    bench.hub.begin("a")
    bench.publish("a", text("#x", "1"))
    reader = Reader(bench, wire, "a", position="old.7")
    got = reader.read()
    assert [said.event for said in got] == ["reset", "snapshot"]
    bench.hub.begin("a")
    bench.publish("a", text("#x", "2"))
    bench.wait(0.05)
    got = reader.read()
    assert [said.event for said in got] == ["reset", "snapshot"]
    assert reader.content("#x") == "2"


@resumable
def test_a_viewer_that_was_revoked_is_told_to_ask_again(bench: Bench, wire: ModuleType) -> None:
    bob = Reader(bench, wire, "a", owner="bob")
    ann = Reader(bench, wire, "a", "b", owner="ann")
    for reader in (bob, ann):
        reader.read()
    bench.hub.revoke((), "bob")
    assert [said.event for said in bob.read()] == ["bye"]
    assert bob.eof
    assert ann.read() == []
    bench.hub.revoke(("b",), None)
    assert [said.event for said in ann.read()] == ["bye"]
    assert bench.hub.stats()["ended_revoked"] == 2


@every
@pytest.mark.parametrize("revoked", [((), "bob"), (("b",), None)], ids=["owner", "channel"])
def test_who_was_revoked_while_the_view_had_its_say_is_given_nothing(
    bench: Bench, wire: ModuleType, revoked: tuple[tuple[str, ...], str | None]
) -> None:
    asked = bench.clock()
    bench.wait(1)
    bench.hub.revoke(*revoked)
    bench.publish("a", text("#x", "secret"))
    bench.wait(1)
    late = Reader(bench, wire, "a", "b", owner="bob", asked=asked)
    assert [said.event for said in late.read()] == ["bye"]
    assert late.eof
    assert late.said[-1].lines[0]["retry"] < 1000
    again = Reader(bench, wire, "a", "b", owner="bob", asked=bench.clock())
    assert [said.event for said in again.read()] == ["snapshot"]
    bench.wait(600)
    assert not bench.hub.fanout._revocations._at, "it is not remembered for ever"


def test_many_who_are_revoked_are_not_told_to_come_back_together(bench: Bench) -> None:
    readers = [Reader(bench, sse, "a") for _ in range(1000)]
    bench.hub.revoke(("a",), None)
    bench.turn()
    later = Counter(reader.read()[-1].lines[0]["retry"] // 100 for reader in readers)
    assert min(later) >= 5
    assert max(later.values()) < 100, "in the same tenth of a second"


@pytest.mark.parametrize("wire", [sse, websocket], ids=lambda wire: wire.NAME)
def test_a_viewer_of_the_greatest_age_is_told_to_ask_again(wire: ModuleType) -> None:
    bench = Bench(max_age=100, heartbeat=1000)
    try:
        readers = [Reader(bench, wire, "a") for _ in range(20)]
        bench.wait(74)
        assert not any(reader.read() for reader in readers)
        ended = []
        for _ in range(30):
            bench.wait(1)
            ended.append(sum(bool(reader.read()) for reader in readers))
        assert sum(ended) == 20
        assert max(ended) < 20, "they are spread"
        assert all(reader.eof and reader.said[-1].event == "bye" for reader in readers)
        assert bench.hub.stats()["ended_age"] == 20
    finally:
        bench.close()


def test_a_document_of_any_age_is_left_alone() -> None:
    bench = Bench(max_age=10)
    reader = Reader(bench, document, "a")
    bench.wait(30)
    reader.read()
    assert not reader.eof
    bench.close()


def test_a_viewer_that_is_behind_is_told_when_it_has_its_block(bench: Bench) -> None:
    reader = Reader(bench, sse, "a", owner="bob", buffer=2048)
    reader.read()
    bench.publish("a", text("#x", "x" * 100_000))
    bench.wait(0.05)
    bench.hub.revoke((), "bob")
    bench.turn()
    got = reader.read()
    assert [said.event for said in got] == ["patch", "bye"]
    assert reader.content("#x") == "x" * 100_000


def test_one_page_on_another_wire_replaces_its_old_connection(bench: Bench) -> None:
    log = bench.hub.new_log("key")
    log.begin("~")
    old = Reader(bench, websocket, "~", log=log, position="key.0")
    old.read()
    new = Reader(bench, sse, "~", log=log, position="key.0")
    old.read()
    assert old.eof
    new.read()
    assert not new.eof
    assert bench.hub.viewers("~", log) == 1


def viewers() -> list[Viewer]:
    """All that are in memory."""
    gc.collect()
    return [found for found in gc.get_objects() if isinstance(found, Viewer)]


class TestPoll:
    def test_the_head_is_written_with_the_answer(self, bench: Bench) -> None:
        reader = Reader(bench, poll, "a")
        reader.read()
        reader.sock.close()
        reader.connect(head=HEAD)
        assert reader.read() == []
        assert reader.bytes == b""
        bench.publish("a", text("#x", "1"))
        bench.turn()
        assert reader.sock.recv(65536).startswith(HEAD + b'[["hello",')

    @pytest.mark.parametrize("wait", [0.0, 5.0])
    def test_nothing_new_is_a_204_after_the_wait(self, bench: Bench, wait: float) -> None:
        reader = Reader(bench, poll, "a", position="e.0~")
        reader.sock.close()
        reader.connect(head=HEAD, wait=wait)
        bench.wait(wait * 0.99)
        if wait:
            with pytest.raises(BlockingIOError):
                reader.sock.recv(1)
        bench.wait(0.1)
        assert reader.sock.recv(65536) == b"HTTP/1.1 204 No Content\r\nSet-Cookie: a=b\r\n\r\n"
        bench.turn()
        assert reader.sock.recv(1) == b""

    def test_where_the_head_is_a_servers_nothing_new_is_hello_alone(self, bench: Bench) -> None:
        reader = Reader(bench, poll, "a", position="e.0~")
        reader.sock.close()
        reader.connect(head=b"", wait=0.0)
        bench.turn()
        reader.decoder.feed(reader.sock.recv(65536))
        assert [said.event for said in reader.decoder.end()] == ["hello"]

    def test_without_a_position_it_is_answered_at_once_and_gets_one(self, bench: Bench) -> None:
        reader = Reader(bench, poll, "a")
        reader.read()
        assert reader.position == "e.0"
        assert reader.answers == 1  # the next one waits

    def test_a_plain_poll_is_answered_also_while_its_group_is_about_to_be_flushed(self) -> None:
        bench = Bench(flush_rate=1)
        slow = Reader(bench, poll, "a", position="e.0", buffer=2048)
        bench.publish("a", text("#x", "x" * 100_000))
        bench.turn()
        position = bench.publish("a", text("#x", "2"))  # and is to be flushed in a second
        plain = Reader(bench, poll, "a", position=position)
        plain.sock.close()
        plain.connect(head=HEAD, wait=0.0)
        assert plain.sock.recv(65536).startswith(b"HTTP/1.1 204")
        assert slow.read()[-1].lines[0][2] == [["text", "#x", "2"]]
        bench.close()

    def test_without_room_it_keeps_the_position_it_has(self, bench: Bench) -> None:
        reader = Reader(bench, poll, "a", position="e.0~", hold=False)
        assert [said.event for said in reader.read()] == ["bye"]
        assert [said.id for said in reader.said] == ["e.0~", None]
        none = Reader(bench, poll, "~", log=bench.hub.new_log("of this answer only"), hold=False, at=None)
        assert [said.event for said in none.read()] == ["bye"]
        assert none.position == "0"

    def test_of_those_that_were_answered_nothing_is_kept_until_their_time_is_up(self, bench: Bench) -> None:
        for _ in range(3):
            bench.connect("a", wire=poll, wait=25.0, at=bench.hub.head())
        assert len(viewers()) == 3
        bench.publish("a", text("#x", "1"))
        bench.turn()
        assert bench.hub.viewers("a") == 0
        assert viewers() == []

    def test_who_waits_and_goes_is_forgotten(self, bench: Bench) -> None:
        reader = Reader(bench, poll, "a", position="e.0")
        assert bench.hub.viewers("a") == 1
        reader.sock.close()
        bench.turn()
        assert bench.hub.viewers("a") == 0
        bench.wait(30)  # its wait ends with nobody there
        assert bench.hub.stats()["errors"] == 0


class TestWebSocket:
    @staticmethod
    def frame(opcode: Opcode, data: bytes = b"", *, fin: bool = True) -> bytes:
        return Frame(opcode, data, fin=fin).serialize(mask=True)

    def test_a_ping_is_answered_between_two_messages(self, bench: Bench) -> None:
        reader = Reader(bench, websocket, "a", buffer=2048)
        reader.read()
        bench.publish("a", text("#x", "x" * 50_000))
        bench.wait(0.05)
        for n in range(3):
            reader.sock.send(self.frame(Opcode.PING, b"%d" % n))
            bench.turn()
        reader.read()
        assert reader.content("#x") == "x" * 50_000
        assert reader.decoder.pongs == [b"2"]  # of those that had to wait the last
        reader.sock.send(self.frame(Opcode.PING, b"now"))
        reader.read()
        assert reader.decoder.pongs[-1] == b"now"
        bench.publish("a", text("#x", "on"))
        reader.read()
        assert reader.content("#x") == "on"

    def test_a_client_that_closes_is_answered_and_closed(self, bench: Bench) -> None:
        reader = Reader(bench, websocket, "a")
        reader.read()
        reader.sock.send(self.frame(Opcode.CLOSE, (1001).to_bytes(2)))
        reader.read()
        assert reader.decoder.closed == 1001
        assert reader.eof
        assert bench.hub.viewers("a") == 0
        assert bench.hub.stats()["ended_closed"] == 1

    @pytest.mark.parametrize("split", [1, 3, 1000])
    def test_what_a_client_says_is_read_and_forgotten(self, bench: Bench, split: int) -> None:
        reader = Reader(bench, websocket, "a")
        reader.read()
        said = (
            self.frame(Opcode.TEXT, b"hello")
            + self.frame(Opcode.BINARY, b"\0" * 100, fin=False)
            + self.frame(Opcode.PING, b"between")
            + self.frame(Opcode.CONT, b"\0" * 100)
            + self.frame(Opcode.PONG)
        )
        for i in range(0, len(said), split):
            reader.sock.send(said[i : i + split])
            bench.turn(1)
        reader.read()
        assert reader.decoder.pongs == [b"between"]
        bench.publish("a", text("#x", "on"))
        reader.read()
        assert reader.content("#x") == "on"

    @pytest.mark.parametrize(
        ("said", "code"),
        [
            (Frame(Opcode.TEXT, b"x" * 5000).serialize(mask=True), 1009),
            (Frame(Opcode.TEXT, b"x" * 100, fin=False).serialize(mask=True) * 2, 1002),
            (Frame(Opcode.TEXT, b"not masked").serialize(mask=False), 1002),
            (Frame(Opcode.TEXT, b"\xff\xff").serialize(mask=True), None),
            (b"GET / HTTP/1.1\r\n\r\n", 1002),
        ],
        ids=["oversized", "a message within a message", "not masked", "no UTF-8", "another request"],
    )
    def test_a_client_that_says_what_is_none_is_closed_with_a_code(
        self, bench: Bench, said: bytes, code: int | None
    ) -> None:
        other = Reader(bench, websocket, "a")
        reader = Reader(bench, websocket, "a")
        reader.sock.send(said)
        bench.turn()
        reader.read()
        assert reader.decoder.closed == code
        assert reader.eof == (code is not None)
        bench.publish("a", text("#x", "on"))
        other.read()
        assert other.content("#x") == "on"
        assert bench.hub.stats()["errors"] == 0

    def test_fragments_without_an_end_are_bounded(self, bench: Bench) -> None:
        reader = Reader(bench, websocket, "a")
        reader.sock.send(self.frame(Opcode.TEXT, b"x" * 1000, fin=False))
        for _ in range(10):
            bench.turn()
            try:
                reader.sock.send(self.frame(Opcode.CONT, b"x" * 1000, fin=False))
            except BrokenPipeError:
                break
        reader.read()
        assert reader.decoder.closed == 1009

    def test_a_flood_ends_it(self, bench: Bench) -> None:
        reader = Reader(bench, websocket, "a")
        reader.read()
        reader.sock.setblocking(True)
        reader.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * DISCARD)
        reader.sock.send(self.frame(Opcode.TEXT, b"x" * 2000) * 50)
        reader.sock.setblocking(False)
        bench.turn()
        reader.read()
        assert reader.eof
        assert bench.hub.stats()["viewers"] == 0

    def test_an_idle_one_has_no_protocol_of_its_own(self, bench: Bench) -> None:
        Reader(bench, websocket, "a").read()
        [viewer] = bench.hub.fanout.viewers.values()
        assert viewer.inbound is None
