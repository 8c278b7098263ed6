"""Sends over many connections, by one system call or by one for each."""

from __future__ import annotations

import errno
import logging
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from afterload.hub import sending, uring
from afterload.hub.sending import MANY, SEND_FLAGS, Sender, gil_keeping_send
from afterload.hub.uring import Ring
from tests.hub.test_uring import tcp


class Them:
    """Connections, and whoever sends to them."""

    def __init__(self, count: int, may_ring: bool = True) -> None:
        self.pairs = [socket.socketpair() for _ in range(count)]
        for pair in self.pairs:
            for sock in pair:
                sock.setblocking(False)
        self.fds = {ours.fileno(): ours for ours, _ in self.pairs}
        self.calls = 0
        self.sender = Sender(self._send, lambda: may_ring, lambda: 0.0)

    def _send(self, fd: int, data: bytes, size: int, flags: int) -> int:
        assert (size, flags) == (len(data), SEND_FLAGS)
        self.calls += 1
        try:
            return self.fds[fd].send(data)
        except OSError:
            return -1

    def read(self) -> list[bytes]:
        found = []
        for _, theirs in self.pairs:
            try:
                found.append(theirs.recv(1 << 20))
            except BlockingIOError:
                found.append(b"")
        return found

    def close(self) -> None:
        self.sender.close()
        for pair in self.pairs:
            for sock in pair:
                sock.close()


@pytest.fixture
def make() -> Iterator[Any]:
    made = []

    def make(*how: Any) -> Them:
        made.append(Them(*how))
        return made[-1]

    yield make
    for them in made:
        them.close()


@pytest.mark.parametrize(
    ("count", "may_ring", "calls"),
    [(MANY - 1, True, MANY - 1), (MANY, True, 0), (MANY, False, MANY), (0, True, 0)],
)
def test_many_are_one_call_where_they_may_be(
    make: Any, io_uring: None, count: int, may_ring: bool, calls: int
) -> None:
    them = make(count, may_ring)
    assert them.sender.send_all(them.fds, b"x") == []
    assert them.read() == [b"x"] * count
    assert them.calls == calls
    assert them.sender.batched == count - calls


@pytest.mark.parametrize("may_ring", [True, False])
def test_who_has_not_taken_all_of_it_is_said(make: Any, may_ring: bool) -> None:
    them = make(100, may_ring)
    gone, full = list(them.fds)[7], list(them.fds)[50]
    them.pairs[7][1].close()
    while True:
        try:
            them.fds[full].send(b"x" * 1000)
        except BlockingIOError:
            break
    assert them.sender.send_all(them.fds, b"y" * 500) == [(gone, -1), (full, -1)]


@pytest.mark.parametrize("may_ring", [True, False])
def test_only_as_many_have_a_part_of_it_as_it_says(make: Any, may_ring: bool) -> None:
    """A Unix socket takes all or nothing; one of TCP, what there is room for."""
    them = make(MANY, may_ring)
    ours, theirs = tcp(socket.AF_INET, "127.0.0.1")
    with theirs, ours:
        ours.setblocking(False)
        them.fds[ours.fileno()] = ours
        data, sent = b"z" * 50_000, 0
        while not (late := them.sender.send_all(them.fds, data)):
            sent += len(data)
            them.read()
        [(fd, part)] = late
        assert fd == ours.fileno()
        ours.shutdown(socket.SHUT_WR)
        read = iter(lambda: theirs.recv(1 << 20), b"")
        assert sum(map(len, read)) == sent + max(part, 0)
        del them.fds[fd]


def test_what_a_call_that_fails_has_not_sent_is_sent_one_by_one_from_then_on(
    make: Any, io_uring: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    them = make(20)
    real = Ring.send

    def send(ring: Ring, fds: list[int], data: bytes) -> list[int]:
        ring.error = None
        taken = real(ring, fds[:13], data)
        ring.error = OSError(errno.EBUSY, "busy")
        return taken

    monkeypatch.setattr(Ring, "send", send)
    for calls, said in ((7, b"once"), (27, b"again")):
        assert them.sender.send_all(them.fds, said) == []
        assert them.read() == [said] * 20
        assert them.calls == calls
    assert them.sender.batched == 13
    [record] = caplog.records
    assert record.getMessage() == "afterload: io_uring is not used any more: [Errno 16] busy"


@pytest.mark.parametrize(
    "error", [OSError(errno.EPERM, "Operation not permitted"), ZeroDivisionError("what?")]
)
def test_where_there_is_no_io_uring_the_log_says_so_once(
    make: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    def refuse() -> Ring:
        raise error

    monkeypatch.setattr(sending, "Ring", refuse)
    caplog.set_level(logging.INFO)
    them = make(MANY)
    for _ in range(2):
        assert them.sender.send_all(them.fds, b"x") == []
        assert them.read() == [b"x"] * MANY
    assert [record.getMessage() for record in caplog.records] == [
        f"afterload: io_uring cannot be used, each send is a system call: {error}"
    ]


def test_where_there_is_little_memory_for_it_it_is_small(
    make: Any, io_uring: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def little(entries: int = 1024) -> Ring:
        asked.append(entries)
        if entries > 256:
            raise OSError(errno.ENOMEM, "Cannot allocate memory")
        return Ring(entries)

    monkeypatch.setattr(sending, "Ring", little)
    them = make(400)
    assert them.sender.send_all(them.fds, b"x") == []
    assert them.read() == [b"x"] * 400
    assert (asked, them.calls) == ([1024, 256], 0)


def test_whether_it_may_is_asked_each_time(make: Any, io_uring: None) -> None:
    them = make(20)
    for may, calls in ((False, 20), (True, 20), (False, 40)):
        them.sender._may_ring = lambda may=may: may
        assert them.sender.send_all(them.fds, b"x") == []
        assert them.calls == calls
    assert them.sender.batched == 20


def test_what_was_not_taken_is_no_batched_send(make: Any, io_uring: None) -> None:
    them = make(20)
    for _, theirs in them.pairs[:15]:
        theirs.close()
    assert len(them.sender.send_all(them.fds, b"x")) == 15
    assert them.sender.batched == 5


def test_an_error_of_another_kind_is_told_and_it_is_not_used_again(
    make: Any, io_uring: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    them = make(20)
    assert them.sender.send_all(them.fds, b"x") == []

    def system(*_: Any) -> int:
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr(uring, "_system", system)
        with pytest.raises(MemoryError):
            them.sender.send_all(them.fds, b"y")
    assert them.sender.send_all(them.fds, b"z") == []
    assert them.read() == [b"xz"] * 20
    assert them.calls == 20
    assert "io_uring is not used any more" in caplog.text


def test_the_gil_keeping_send_reports_what_was_taken() -> None:
    send = gil_keeping_send()
    if send is None:
        pytest.skip("Linux only")
    a, b = socket.socketpair()
    a.setblocking(False)
    assert send(a.fileno(), b"x" * 100, 100, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL) == 100
    assert b.recv(1000) == b"x" * 100
    b.close()
    assert send(a.fileno(), b"x", 1, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL) == -1
    a.close()
