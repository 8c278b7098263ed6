"""The proxy with faults: exact to the byte, and what it keeps back it does not lose."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from afterload.errors import LoopError, SettingError
from afterload.testing import Fault, FaultProxy
from tests.servers.process import wait_until

ANSWER = bytes(range(256)) * 40
ASKED = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


class Bench:
    """A server of which the test does each step by hand, and a proxy in front of it."""

    def __init__(self, plan: Any = None) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.settimeout(10)
        self.proxy = FaultProxy(self.listener.getsockname()[1], plan)
        self.socks: list[socket.socket] = [self.listener]

    def client(self) -> socket.socket:
        sock = socket.create_connection(("127.0.0.1", self.proxy.port), timeout=10)
        self.socks.append(sock)
        return sock

    def accept(self) -> socket.socket:
        sock, _ = self.listener.accept()
        sock.settimeout(10)
        self.socks.append(sock)
        return sock

    def pair(self) -> tuple[socket.socket, socket.socket]:
        """A client's end and the server's of one line."""
        client = self.client()
        return client, self.accept()

    def close(self) -> None:
        for sock in self.socks:
            sock.close()
        self.proxy.close()


@pytest.fixture
def bench() -> Iterator[Callable[..., Bench]]:
    with contextlib.ExitStack() as stack:

        def make(plan: Any = None) -> Bench:
            made = Bench(plan)
            stack.callback(made.close)
            return made

        yield make


def read(sock: socket.socket) -> bytes:
    """All up to the end."""
    got = b""
    while data := sock.recv(65536):
        got += data
    return got


def read_to_reset(sock: socket.socket, most: int = 65536) -> bytes:
    got = b""
    try:
        while data := sock.recv(most):
            got += data
    except ConnectionResetError:
        return got
    raise AssertionError("it ended by FIN")


def reads_nothing(sock: socket.socket, seconds: float = 0.15) -> bool:
    """Whether nothing comes, not even the end, for so long."""
    sock.settimeout(seconds)
    try:
        sock.recv(1)
    except TimeoutError:
        return True
    finally:
        sock.settimeout(10)
    return False


Make = Callable[..., Bench]


def test_without_a_fault_everything_passes_both_ways_and_each_end_by_itself(bench: Make) -> None:
    made = bench()
    client, server = made.pair()
    client.sendall(ASKED)
    assert server.recv(100) == ASKED
    server.sendall(ANSWER)
    server.shutdown(socket.SHUT_WR)
    assert read(client) == ANSWER
    client.sendall(b"more")
    client.close()
    assert read(server) == b"more"
    assert (made.proxy.bytes_asked, made.proxy.bytes_answered) == (len(ASKED) + 4, len(ANSWER))
    assert (made.proxy.connections, made.proxy.cuts) == (1, 0)
    wait_until(lambda: made.proxy.open == 0, 10, "the line to be gone")


def test_megabytes_pass_while_nobody_reads_for_a_while(bench: Make) -> None:
    client, server = bench().pair()
    data = ANSWER * 1000
    writer = threading.Thread(target=lambda: (server.sendall(data), server.close()))
    writer.start()
    assert reads_nothing(server)
    assert read(client) == data
    writer.join()


def test_a_reset_passes_as_a_reset(bench: Make) -> None:
    client, server = bench().pair()
    server.sendall(b"x")
    assert client.recv(1) == b"x"
    server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    server.close()
    assert read_to_reset(client) == b""


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("count", [1, 2, 255, 4096, len(ANSWER) - 1, len(ANSWER)])
def test_an_answer_is_cut_at_exactly_the_byte(bench: Make, count: int, reset: bool) -> None:
    made = bench(Fault(cut=count, reset=reset))
    client, server = made.pair()
    server.sendall(ANSWER)
    assert (read_to_reset if reset else read)(client) == ANSWER[:count]
    with contextlib.suppress(ConnectionResetError):
        assert read(server) == b""
        assert not reset
    assert (made.proxy.cuts, made.proxy.bytes_answered) == (1, count)


def test_every_count_of_bytes_is_exact_however_the_answer_comes(bench: Make) -> None:
    made = bench(lambda number: Fault(cut=number, reset=number % 2 == 1))
    for count in range(60):
        client, server = made.pair()
        with contextlib.suppress(OSError):  # it is cut while it is written to
            for at in range(0, 60, 7):
                server.sendall(ANSWER[at : at + 7])
        assert (read_to_reset if count % 2 else read)(client) == ANSWER[:count]
        client.close()
        server.close()
    assert made.proxy.cuts == 60


def test_a_cut_at_0_comes_with_the_first_byte_of_the_answer_and_not_before(bench: Make) -> None:
    client, server = bench(Fault(cut=0)).pair()
    client.sendall(ASKED)
    assert server.recv(100) == ASKED
    assert reads_nothing(client)
    server.sendall(b"x")
    assert read(client) == b""


@pytest.mark.parametrize("count", [0, 1, len(ASKED) - 1])
def test_a_request_is_cut_at_exactly_the_byte(bench: Make, count: int) -> None:
    client, server = bench(Fault(cut_request=count)).pair()
    client.sendall(ASKED)
    assert read(server) == ASKED[:count]
    assert read(client) == b""


def test_a_cut_is_no_reset_although_the_client_goes_on_sending(bench: Make) -> None:
    client, server = bench(Fault(cut=3)).pair()
    client.sendall(ASKED * 100)
    server.sendall(ANSWER)
    client.sendall(ASKED)
    assert read(client) == ANSWER[:3]
    assert read(client) == b""


def test_a_slow_reader_of_a_line_that_is_reset_still_gets_all_that_was_passed_on(bench: Make) -> None:
    data = ANSWER * 20
    made = bench(Fault(cut=len(data) - 1, reset=True))
    client = socket.socket()
    made.socks.append(client)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.settimeout(10)
    client.connect(("127.0.0.1", made.proxy.port))
    server = made.accept()
    writer = threading.Thread(target=server.sendall, args=(data,))
    writer.start()
    assert read_to_reset(client, 2000) == data[:-1]
    writer.join()


def test_a_line_that_stalls_stays_open_and_goes_on_where_it_was(bench: Make) -> None:
    made = bench(Fault(stall=100))
    client, server = made.pair()
    server.sendall(ANSWER)
    server.shutdown(socket.SHUT_WR)
    got = client.recv(65536)
    while len(got) < 100:
        got += client.recv(65536)
    assert got == ANSWER[:100]
    assert reads_nothing(client)
    client.sendall(ASKED)
    assert server.recv(100) == ASKED  # its request is none the worse
    made.proxy.switch()
    assert got + read(client) == ANSWER


def test_in_a_black_hole_nothing_passes_and_afterwards_nothing_is_missing(bench: Make) -> None:
    made = bench()
    client, server = made.pair()
    server.sendall(b"before ")
    assert client.recv(100) == b"before "
    made.proxy.switch(Fault(blackhole=True))
    impatient = made.client()
    impatient.sendall(b"given up")
    impatient.close()
    late = made.client()
    late.sendall(ASKED)
    client.sendall(ASKED)
    server.sendall(b"after")
    server.close()
    assert reads_nothing(client)
    assert reads_nothing(late)
    made.listener.settimeout(0.1)
    with pytest.raises(TimeoutError):
        made.listener.accept()
    made.listener.settimeout(10)
    made.proxy.switch()
    assert read(client) == b"after"
    assert made.accept().recv(100) == ASKED


def test_a_delay_lets_nothing_come_before_its_time_and_all_in_order(bench: Make) -> None:
    client, server = bench(Fault(delay=0.2)).pair()
    began = time.monotonic()
    client.sendall(b"ask")
    assert server.recv(10) == b"ask"
    assert time.monotonic() - began >= 0.2
    began = time.monotonic()
    server.sendall(ANSWER)
    server.close()
    assert read(client) == ANSWER
    assert time.monotonic() - began >= 0.2


def test_a_slow_line_is_as_slow_as_said_and_the_server_has_to_wait(bench: Make) -> None:
    made = bench(Fault(rate=20_000))
    client, server = made.pair()
    server.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    server.setblocking(False)
    taken = 0
    began = time.monotonic()
    with contextlib.suppress(BlockingIOError):
        while True:
            taken += server.send(b"x" * 4096)
    assert taken < 120_000
    server.setblocking(True)
    server.close()
    assert len(read(client)) == taken
    passed = made.proxy.bytes_answered
    assert passed == taken
    assert time.monotonic() - began >= (taken - 40_000) / 20_000


def answer(*lines: str, body: bytes = b"") -> bytes:
    return "\r\n".join(["HTTP/1.1 200 OK", *lines, "", ""]).encode() + body


@pytest.mark.parametrize(
    "whole",
    [
        answer("Content-Length: 5", body=b"hello"),
        answer("content-length:0"),
        answer("Transfer-Encoding: chunked", body=b"5\r\nhello\r\n0\r\n\r\n"),
        answer("Transfer-Encoding: chunked", body=b"0\r\n\r\n"),
        b"HTTP/1.1 204 No Content\r\nX: y\r\n\r\n",
    ],
)
def test_a_proxy_that_buffers_passes_an_answer_on_when_it_is_whole(bench: Make, whole: bytes) -> None:
    client, server = bench(Fault(hold=True)).pair()
    for _ in range(2):
        server.sendall(whole[:-1])
        assert reads_nothing(client, 0.05)
        server.sendall(whole[-1:])
        got = b""
        while len(got) < len(whole):
            got += client.recv(65536)
        assert got == whole


def test_a_proxy_that_buffers_passes_a_stream_on_when_it_has_ended(bench: Make) -> None:
    made = bench(Fault(hold=True))
    client, server = made.pair()
    stream = answer("Content-Type: text/event-stream", body=b"event: hello\n\n")
    server.sendall(stream)
    assert reads_nothing(client)
    other, others = made.pair()
    others.sendall(stream)
    server.close()
    assert read(client) == stream
    made.proxy.switch()  # or when it buffers no more
    others.sendall(b"more")
    others.close()
    assert read(other) == stream + b"more"


def test_a_status_is_said_to_new_requests_and_the_server_hears_nothing(bench: Make) -> None:
    made = bench()
    client, server = made.pair()
    made.proxy.switch(Fault(status=502))
    turned_away = made.client()
    turned_away.sendall(ASKED[:10])
    assert reads_nothing(turned_away, 0.05)
    turned_away.sendall(ASKED[10:])
    said = read(turned_away)
    assert said.startswith(b"HTTP/1.1 502 Bad Gateway\r\n")
    assert b"\r\nContent-Length: 16\r\n" in said
    assert said.endswith(b"\r\n\r\n502 Bad Gateway\n")
    server.sendall(b"goes on")
    assert client.recv(100) == b"goes on"
    made.proxy.switch()
    again = made.client()
    again.sendall(ASKED)
    assert made.accept().recv(100) == ASKED


def test_refused_connections_are_refused_and_the_port_stays(bench: Make) -> None:
    made = bench()
    client, server = made.pair()
    for _ in range(3):
        made.proxy.refusing = True
        made.proxy.refusing = True
        assert made.proxy.refusing
        with pytest.raises(ConnectionRefusedError):
            made.client()
        with socket.socket() as other, pytest.raises(OSError, match="in use"):
            other.bind(("127.0.0.1", made.proxy.port))
        server.sendall(b"x")
        assert client.recv(1) == b"x"
        made.proxy.refusing = False
        made.pair()
    assert made.proxy.connections == 4


@pytest.mark.parametrize("reset", [False, True])
def test_all_lines_are_cut_at_once_and_new_ones_pass(bench: Make, reset: bool) -> None:
    made = bench()
    pairs = [made.pair() for _ in range(3)]
    for client, server in pairs:
        server.sendall(b"a")
        assert client.recv(1) == b"a"
    assert made.proxy.open == 3
    assert made.proxy.cut(reset=reset) == 3
    for client, server in pairs:
        assert (read_to_reset if reset else read)(client) == b""
        assert (read_to_reset if reset else read)(server) == b""
    assert (made.proxy.open, made.proxy.cuts, made.proxy.cut()) == (0, 3, 0)
    client, server = made.pair()
    server.sendall(b"b")
    assert client.recv(1) == b"b"


def test_a_line_that_has_its_time_is_cut_and_the_next_one_too(bench: Make) -> None:
    made = bench(Fault(cut_after=2.0))
    for _ in range(2):
        began = time.monotonic()
        client, server = made.pair()
        server.sendall(b"x")
        assert read(client) == b"x"
        assert time.monotonic() - began >= 2.0
    client, _ = made.pair()
    made.proxy.switch(Fault(cut_after=0))
    assert read(client) == b""
    assert made.proxy.cuts == 3


def test_a_line_in_a_black_hole_can_be_cut(bench: Make) -> None:
    made = bench()
    client, server = made.pair()
    server.sendall(b"x")
    assert client.recv(1) == b"x"
    made.proxy.switch(Fault(blackhole=True))
    server.sendall(b"y")
    assert made.proxy.cut() == 1
    assert read(client) == read(server) == b""


def test_the_plan_is_a_list_or_a_function_of_the_number(bench: Make) -> None:
    made = bench([Fault(cut=1), None, Fault(cut=2)])
    for expected in (ANSWER[:1], ANSWER, ANSWER[:2], ANSWER):
        client, server = made.pair()
        server.sendall(ANSWER)
        server.shutdown(socket.SHUT_WR)
        assert read(client) == expected
        for sock in (client, server):
            sock.close()
    made.proxy.plan = lambda number: Fault(cut=number)
    client, server = made.pair()
    server.sendall(ANSWER)
    assert read(client) == ANSWER[:4]


def test_a_server_that_is_not_there_is_a_connection_that_ends() -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    with FaultProxy(port) as proxy, socket.create_connection(("127.0.0.1", proxy.port), timeout=10) as client:
        client.sendall(ASKED)
        assert client.recv(1) == b""
        assert proxy.cuts == 0


def fails(number: int) -> Fault:
    raise ZeroDivisionError("in the plan")


@pytest.mark.parametrize(
    ("plan", "error", "said"),
    [
        (fails, ZeroDivisionError, "in the plan"),
        (lambda number: "no", SettingError, "a plan returned no Fault and not None, but 'no'"),
    ],
)
def test_what_is_wrong_with_a_plan_is_raised_at_the_end(plan: Any, error: type[Exception], said: str) -> None:
    proxy = FaultProxy(1, plan)
    socket.create_connection(("127.0.0.1", proxy.port), timeout=10).close()
    wait_until(lambda: proxy.connections, 10, "the connection")
    with pytest.raises(error, match=said):
        proxy.close()
    proxy.close()


def test_nothing_is_left_when_it_is_closed() -> None:
    before = set(threading.enumerate())
    made = Bench()
    client, _ = made.pair()
    made.proxy.close()
    made.proxy.close()
    assert set(threading.enumerate()) <= before
    client.settimeout(10)
    assert read(client) == b""
    with pytest.raises(ConnectionRefusedError):
        made.client()
    with pytest.raises(LoopError, match="closed"):
        made.proxy.cut()
    made.close()


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"cut": -1}, "cut of a fault is a number of bytes from 0, or None, not -1"),
        ({"cut_request": 1.5}, "cut_request of a fault is a number of bytes from 0, or None, not 1.5"),
        ({"stall": True}, "stall of a fault is a number of bytes from 0, or None, not True"),
        ({"cut_after": -0.1}, "cut_after of a fault is seconds from 0, or None, not -0.1"),
        ({"rate": 0}, "rate of a fault is a number above 0, or None, not 0"),
        ({"rate": float("inf")}, "rate of a fault is a number above 0, or None, not inf"),
        ({"delay": float("nan")}, "delay of a fault is seconds from 0, not nan"),
        ({"delay": None}, "delay of a fault is seconds from 0, not None"),
        ({"status": 99}, "status of a fault is a status of HTTP from 200, or None, not 99"),
        ({"hold": 1}, "hold of a fault is True or False, not 1"),
    ],
)
def test_a_fault_that_cannot_be_is_refused_by_name(values: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingError) as caught:
        Fault(**values)
    assert str(caught.value) == said


def test_a_plan_or_a_server_that_cannot_be_is_refused(bench: Make) -> None:
    for plan in (7, "x", [Fault(), 1]):
        with pytest.raises(SettingError, match="a plan is a Fault, a list of them"):
            FaultProxy(80, plan)  # type: ignore[arg-type]
    with pytest.raises(SettingError, match="from 1 to 65535, not 0"):
        FaultProxy(0)
    with pytest.raises(SettingError, match="its port, or its host and port, not 'x'"):
        FaultProxy("x")  # type: ignore[arg-type]
    made = bench()
    with pytest.raises(SettingError, match="a fault is a Fault or None, not 3"):
        made.proxy.switch(3)  # type: ignore[arg-type]
    with pytest.raises(SettingError, match="refusing is True or False, not 1"):
        made.proxy.refusing = 1  # type: ignore[assignment]
    with pytest.raises(SettingError, match="a plan is"):
        made.proxy.plan = 3  # type: ignore[assignment]
