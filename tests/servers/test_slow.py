"""A reader that is slower than what is published: never far behind, at the cost of a block, and nobody waits for it."""

from __future__ import annotations

import re
import socket
import threading

import pytest
from websockets.client import ClientProtocol
from websockets.uri import parse_uri

from tests.servers.live_app import STATE
from tests.servers.process import Server, Servers, wait_until
from tests.servers.test_wires import stats

PUBLISHED = 300  # entries, three megabytes of them


class Reader:
    """A page behind a narrow line: what it has not read fills its buffer of a few kilobytes, and then the server's."""

    def __init__(self, server: Server, wire: str) -> None:
        self.sock = socket.socket()
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 1400)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        self.sock.settimeout(20)
        self.sock.connect(("127.0.0.1", server.port))
        more = b"Accept: text/event-stream\r\n"
        if wire == "websocket":
            asked = ClientProtocol(parse_uri("ws://127.0.0.1/flood")).connect().serialize()
            more = asked.partition(b"\r\n")[2].replace(b"Host: 127.0.0.1\r\n", b"")[:-2]
        self.sock.sendall(b"GET /flood HTTP/1.1\r\nHost: 127.0.0.1\r\n" + more + b"\r\n")
        self.data = b""

    def read(self, most: int) -> int:
        data = self.sock.recv(most)
        self.data += data
        return len(data)

    def numbers(self) -> list[int]:
        return [int(n) for n in re.findall(rb'"#data","(\d+) x', self.data)]


@pytest.mark.parametrize("wire", ["stream", "websocket"])
def test_a_slow_reader_is_never_far_behind_and_delays_nobody(servers: Servers, wire: str) -> None:
    server = servers.gunicorn("tests.servers.live_app:app")
    slow, fast = Reader(server, wire), Reader(server, wire)
    over = threading.Event()

    def read() -> None:
        while b'"#log","over"' not in fast.data[-20_000:] and fast.read(65536):
            pass
        over.set()

    thread = threading.Thread(target=read)
    thread.start()
    while (published := stats(server)["published"]) < PUBLISHED:
        if len(slow.data) < published * STATE / 10:
            slow.read(200)
    found = stats(server)
    assert found["viewers"] == 2
    assert found["behind"] <= 2
    read_before = len(slow.data)
    with socket.create_connection(("127.0.0.1", server.port)) as line:
        line.sendall(b"POST /enough HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
        assert line.recv(100).startswith(b"HTTP/1.1 200")
    assert over.wait(20), "the fast one has had the end, while the slow one has read next to nothing"
    thread.join()
    assert b'"#log","over"' not in slow.data
    while b'"#log","over"' not in slow.data[-20_000:]:
        assert slow.read(65536)
    # What had gone before it was over: the rest of a block, and what the system holds on its way.
    behind = len(slow.data) - read_before
    assert behind < 20 * STATE
    assert len(slow.data) < PUBLISHED * STATE / 4
    assert len(fast.numbers()) > PUBLISHED / 10
    assert slow.numbers() == sorted(set(slow.numbers()))
    assert slow.numbers()[-1] == fast.numbers()[-1]
    for reader in (slow, fast):
        reader.sock.close()


def test_who_reads_nothing_is_dropped_after_the_stated_time_and_counted(servers: Servers) -> None:
    server = servers.gunicorn("tests.servers.live_app:app", env={"STALL": "1"})
    reader = Reader(server, "stream")
    reader.read(100)
    wait_until(lambda: stats(server).get("ended_stalled") == 1, 20, "it to be dropped")
    assert stats(server)["viewers"] == 0
    reader.sock.close()


def test_who_reads_nothing_for_a_while_is_not_taken_for_one_that_has_vanished(servers: Servers) -> None:
    """Its system acknowledges nothing either, when its buffers are full, for much longer than a heartbeat."""
    server = servers.gunicorn("tests.servers.live_app:app", env={"HEARTBEAT": "1"})
    reader = Reader(server, "stream")
    reader.read(100)
    wait_until(lambda: stats(server)["behind"] == 1, 20, "its buffers to be full")
    until = stats(server)["published"] + PUBLISHED  # some 3 heartbeats, or more
    wait_until(lambda: stats(server)["published"] > until, 20, "more to be published")
    assert "ended_reset" not in stats(server)
    before = len(reader.numbers())
    while len(reader.numbers()) < before + 10:
        assert reader.read(65536)
    reader.sock.close()
