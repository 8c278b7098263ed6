"""Many sends by one system call, on real sockets."""

from __future__ import annotations

import errno
import gc
import os
import random
import signal
import socket
import threading
import time
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from afterload.hub import uring
from afterload.hub.sending import Sender
from afterload.hub.uring import Ring
from tests.servers.process import wait_until

Pairs = Callable[[int], list[tuple[socket.socket, socket.socket]]]


@pytest.fixture
def ring(io_uring: None) -> Iterator[Ring]:
    """A small one, so that its queues begin anew again and again."""
    made = Ring(8)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        while made._tail[0] % made.entries:  # its first try ends somewhere
            made.send([ours.fileno()], b"x")
    yield made
    made.close()


@pytest.fixture
def pairs() -> Iterator[Pairs]:
    """Makes connections; the first of each is ours."""
    made: list[tuple[socket.socket, socket.socket]] = []

    def make(count: int) -> list[tuple[socket.socket, socket.socket]]:
        new = [socket.socketpair() for _ in range(count)]
        for pair in new:
            for sock in pair:
                sock.setblocking(False)
        made.extend(new)
        return new

    yield make
    for pair in made:
        for sock in pair:
            sock.close()


def read(sock: socket.socket) -> bytes:
    found = b""
    while True:
        try:
            more = sock.recv(1 << 20)
        except BlockingIOError:
            return found
        if not more:
            return found
        found += more


def test_any_number_of_connections_get_the_same_bytes(ring: Ring, pairs: Pairs) -> None:
    them = pairs(21)
    for count in [1, 3, 8, 21, 20, 7, 9, 16, 0] * 5:
        data = os.urandom(1 + count)
        assert ring.send([ours.fileno() for ours, _ in them[:count]], data) == [1 + count] * count
        assert [read(theirs) for _, theirs in them] == [data] * count + [b""] * (21 - count)


def test_each_result_is_that_of_its_own_connection(ring: Ring, pairs: Pairs) -> None:
    """As `send(2)` would say it, whichever of them are full, nearly full, gone, or no sockets at all."""
    them = pairs(40)
    chance = random.Random(7)
    said, sent = [b""] * len(them), [b""] * len(them)
    gone = set()
    for _ in range(200):
        i = chance.randrange(len(them))
        if chance.random() < 0.05 and len(gone) < 10:
            gone.add(i)
            them[i][1].close()
        elif i not in gone:
            said[i] += read(them[i][1])
        data = os.urandom(chance.choice([1, 50, 20_000, 70_000]))
        order = chance.sample(range(len(them)), chance.randrange(len(them)))
        for i, taken in zip(order, ring.send([them[i][0].fileno() for i in order], data), strict=True):
            assert -1 <= taken <= len(data)
            assert (taken == -1) if i in gone else taken != 0
            sent[i] += data[: max(taken, 0)]
    for i, (_, theirs) in enumerate(them):
        if i not in gone:
            assert said[i] + read(theirs) == sent[i]
    assert ring.error is None


def test_a_part_is_what_a_connection_has_taken(ring: Ring, pairs: Pairs) -> None:
    ours, theirs = tcp(socket.AF_INET, "127.0.0.1")
    with theirs, ours:
        ours.setblocking(False)
        [(quick, reads)] = pairs(1)
        taken = []
        while not taken or taken[-1] == 100_000:
            taken += ring.send([ours.fileno(), quick.fileno()], b"x" * 100_000)[:1]
            assert len(read(reads)) == 100_000
        sent = sum(max(n, 0) for n in taken)
        ours.shutdown(socket.SHUT_WR)
        assert (
            sum(len(theirs.recv(1 << 20)) for _ in iter(lambda: theirs.recv(1, socket.MSG_PEEK), b"")) == sent
        )


def test_a_descriptor_that_is_none_costs_nobody_else_anything(ring: Ring, pairs: Pairs) -> None:
    a, b = pairs(2)
    pipe, _ = ends = os.pipe()
    assert ring.send([a[0].fileno(), 1_000_000, pipe, b[0].fileno()], b"ab") == [2, -1, -1, 2]
    assert (read(a[1]), read(b[1])) == (b"ab", b"ab")
    for end in ends:
        os.close(end)


def entering(monkeypatch: pytest.MonkeyPatch, answers: list[BaseException | int | None]) -> list[int]:
    """Each call of io_uring_enter fails so, takes no more than so many, or does what it should."""
    real, counts = uring._system, []

    def system(call: Any, number: int, ring: int, count: int, *rest: int) -> int:
        answer = answers.pop(0) if answers else None
        if isinstance(answer, BaseException):
            raise answer
        counts.append(count if answer is None else min(count, answer))
        return real(call, number, ring, counts[-1], counts[-1], *rest[1:])

    monkeypatch.setattr(uring, "_system", system)
    return counts


def test_a_call_that_was_interrupted_or_took_some_is_made_again(
    ring: Ring, pairs: Pairs, monkeypatch: pytest.MonkeyPatch
) -> None:
    them = pairs(8)
    counts = entering(monkeypatch, [InterruptedError(), 3, InterruptedError(), 1, None])
    assert ring.send([ours.fileno() for ours, _ in them], b"once") == [4] * 8
    assert counts == [3, 1, 4]
    assert [read(theirs) for _, theirs in them] == [b"once"] * 8
    assert ring.error is None


def test_a_call_that_fails_says_who_was_sent_something_and_is_the_last(
    ring: Ring, pairs: Pairs, monkeypatch: pytest.MonkeyPatch
) -> None:
    them = pairs(20)
    fds = [ours.fileno() for ours, _ in them]
    entering(monkeypatch, [None, 2, OSError(errno.EBUSY, "busy")])
    assert ring.send(fds, b"once") == [4] * 10
    assert isinstance(ring.error, OSError)
    assert ring.send(fds, b"again") == []
    assert [read(theirs) for _, theirs in them] == [b"once"] * 10 + [b""] * 10


@pytest.mark.parametrize(
    ("count", "size", "call"),
    [
        (uring.QUICK, 1, "_quick_call"),
        (uring.QUICK + 1, 1, "_call"),
        (2, uring.QUICK_BYTES // 2, "_quick_call"),
        (2, uring.QUICK_BYTES // 2 + 1, "_call"),
    ],
)
def test_the_gil_is_kept_for_few_sends_only(
    pairs: Pairs, ring: Ring, monkeypatch: pytest.MonkeyPatch, count: int, size: int, call: str
) -> None:
    fds = [ours.fileno() for ours, _ in pairs(1)] * count
    big = Ring()
    used = []

    def seen(name: str) -> Callable[..., int]:
        real = getattr(big, name)

        def enter(*given: int) -> int:
            used.append(name)
            result: int = real(*given)
            return result

        return enter

    for name in ("_call", "_quick_call"):
        monkeypatch.setattr(big, name, seen(name))
    assert len(big.send(fds, b"x" * size)) == count
    assert used == [call]
    big.close()


def in_a_child(check: Callable[[], object]) -> None:
    """What it raises there is what is wrong."""
    out, into = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(into, repr(check()).encode())
        except BaseException as error:
            os.write(into, repr(error).encode())
        finally:
            os._exit(0)
    os.close(into)
    said = b"".join(iter(lambda: os.read(out, 1000), b""))
    os.close(out)
    os.waitpid(child, 0)
    assert said == b"None"


def held() -> list[str]:
    """What this process has of rings."""
    fds = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
    links = [os.readlink(fd) for fd in fds if os.path.islink(fd)]
    maps = Path("/proc/self/maps").read_text().splitlines()
    return [line for line in links + maps if "io_uring" in line]


def test_what_is_closed_is_given_back_at_once_and_once(ring: Ring) -> None:
    before = held()
    gc.disable()
    try:
        new = Ring()
        assert len(held()) > len(before)
        new.close()
        assert held() == before
        with open(os.devnull) as other:  # which has its descriptor by now
            new.close()
            other.read()
    finally:
        gc.enable()


def test_one_that_has_failed_is_given_back_too(
    ring: Ring, pairs: Pairs, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = held()
    gc.disable()
    try:
        new = Ring()
        with monkeypatch.context() as patched:
            entering(patched, [OSError(errno.EBUSY, "busy")])
            assert new.send([pairs(1)[0][0].fileno()], b"x") == []
        new.close()
        assert held() == before
    finally:
        gc.enable()


def test_a_child_closes_its_copy_and_its_parent_goes_on(ring: Ring, pairs: Pairs) -> None:
    """Also while a thread of the parent sends."""
    them, stop, wrong = pairs(400), threading.Event(), []
    sender = Sender(lambda *_: -1, lambda: True, time.monotonic)
    fds = [ours.fileno() for ours, _ in them]

    def send() -> None:
        while not stop.is_set():
            wrong.extend(sender.send_all(fds, b"x" * 100))
            wrong.extend(i for i, (_, theirs) in enumerate(them) if read(theirs) != b"x" * 100)

    def check() -> None:
        ring.close()
        sender.close()
        if held():
            raise AssertionError(held())

    thread = threading.Thread(target=send)
    thread.start()
    try:
        wait_until(lambda: sender.batched, 20, "its ring to be made")  # one that is being made is not closed
        for _ in range(10):
            in_a_child(check)
    finally:
        stop.set()
        thread.join(30)
    assert not thread.is_alive()
    assert wrong == []
    sender.close()


@pytest.mark.parametrize("error", [MemoryError(), KeyboardInterrupt()])
def test_after_any_other_error_it_sends_no_more(
    ring: Ring, pairs: Pairs, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    """What stands in its queue then would be sent with what comes next, and its bytes are gone."""
    [(first, reads), (second, then_reads)] = pairs(2)
    with monkeypatch.context() as patched:
        entering(patched, [error])
        with pytest.raises(type(error)):
            ring.send([first.fileno()], b"once")
    assert ring.error is not None
    assert ring.send([second.fileno()], b"more") == []
    assert (read(reads), read(then_reads)) == (b"", b"")


def test_signals_in_between_cost_no_byte(ring: Ring) -> None:
    kinds = [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")]
    them = [socket.socketpair() for _ in range(40)] + [tcp(*kind) for kind in kinds for _ in range(40)]
    for pair in them:
        for sock in pair:
            sock.setblocking(False)
    said, sent, signals = [b""] * len(them), [b""] * len(them), 0

    def count(*_: object) -> None:
        nonlocal signals
        signals += 1

    before = signal.signal(signal.SIGALRM, count)
    big, chance = Ring(64), random.Random(1)
    signal.setitimer(signal.ITIMER_REAL, 0.0003, 0.0003)
    try:
        while signals < 500:
            data = os.urandom(chance.choice([10, 3000, 60_000]))
            taken = big.send([ours.fileno() for ours, _ in them], data)
            assert len(taken) == len(them)
            for i, size in enumerate(taken):
                sent[i] += data[: max(size, 0)]
                if chance.random() < 0.5:
                    said[i] += read(them[i][1])
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        big.close()
    for i, (ours, theirs) in enumerate(them):
        ours.close()
        theirs.setblocking(True)
        assert said[i] + b"".join(iter(lambda sock=theirs: sock.recv(1 << 20), b"")) == sent[i]
        theirs.close()


def tcp(family: int, address: str) -> tuple[socket.socket, socket.socket]:
    with socket.create_server((address, 0), family=family) as server:
        theirs = socket.create_connection(server.getsockname()[:2])
        return server.accept()[0], theirs


class Kernel:
    """What the kernel does with a ring, over as many entries as it takes to count past 2**32."""

    def __init__(self, ring: Ring, at: int) -> None:
        self.ring = ring
        self.at = at
        self.sent: list[int] = []
        self.chance = random.Random(3)
        for name in ("_tail", "_head", "_ready"):
            setattr(ring, name, array("I", [at]))
        results = 2 * ring.entries
        ring._which, ring._results = array("Q", [0]) * results, array("i", [0]) * results
        ring._fds, ring._sizes = array("i", [0]) * ring.entries, array("i", [0]) * ring.entries
        ring._addresses = array("Q", [0]) * ring.entries

    def enter(self, call: Any, number: int, fd: int, left: int, *rest: int) -> int:
        ring = self.ring
        count = min(left, (ring._tail[0] - self.at) % 2**32)
        if count > 1 and self.chance.random() < 0.3:
            count -= 1
        for _ in range(count):
            result = ring._ready[0] & ring._mask
            ring._which[result] = self.at % ring.entries
            self.sent.append(ring._fds[self.at % ring.entries])
            ring._results[result] = self.result(self.sent[-1])
            self.at = (self.at + 1) % 2**32
            ring._ready[0] = self.at
        return count

    @staticmethod
    def result(fd: int) -> int:
        return fd % 7 - 2


def test_the_counters_of_the_queues_go_past_their_end(ring: Ring, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = Kernel(ring, 2**32 - 13)
    monkeypatch.setattr(uring, "_system", kernel.enter)
    for _ in range(200):
        kernel.sent.clear()
        fds = [kernel.chance.randrange(1000) for _ in range(kernel.chance.randrange(30))]
        assert ring.send(fds, b"four") == [max(Kernel.result(fd), -1) for fd in fds]
        assert kernel.sent == fds
    assert kernel.at < 10_000


def test_a_kernel_that_takes_nothing_is_not_asked_for_ever(
    ring: Ring, pairs: Pairs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uring, "_system", lambda *_: 0)
    assert ring.send([pairs(1)[0][0].fileno()], b"x") == []
    assert "takes nothing" in str(ring.error)


def test_several_at_once_do_not_disturb_each_other(ring: Ring, pairs: Pairs) -> None:
    wrong = []

    def send(name: bytes) -> None:
        mine, them = Ring(16), pairs(50)
        for _ in range(100):
            if mine.send([ours.fileno() for ours, _ in them], name) != [1] * 50:
                wrong.append(name)
        wrong.extend(name for _, theirs in them if read(theirs) != name * 100)
        mine.close()

    threads = [threading.Thread(target=send, args=(bytes([65 + i]),)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    assert wrong == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"os": SimpleNamespace(uname=lambda: SimpleNamespace(machine="mips"))},
            "is not known on this machine",
        ),
        ({"ctypes": SimpleNamespace(CDLL=lambda *_, **__: None)}, "has no syscall"),
        ({"_SETUP": 1_000_000}, "Function not implemented"),
    ],
)
def test_where_there_is_none_an_error_says_why(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], said: str
) -> None:
    for name, value in changes.items():
        monkeypatch.setattr(uring, name, value)
    with pytest.raises(OSError, match=said):
        Ring()


def refuse(number: int, *ways: int) -> Callable[..., int]:
    """Some of the system calls are forbidden."""
    real = uring._system

    def system(call: Any, which: int, *rest: int) -> int:
        if which in ways:
            raise OSError(number, os.strerror(number))
        return real(call, which, *rest)

    return system


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"_system": refuse(errno.EPERM, uring._SETUP)}, "Operation not permitted"),
        ({"_system": refuse(errno.EPERM, uring._ENTER)}, "Operation not permitted"),
        ({"_FEATURE_SINGLE_MAP": 1 << 31}, "too old"),
        ({"_OP_SEND": 255}, "does not send"),
        ({"FLAGS": socket.MSG_OOB | socket.MSG_DONTWAIT}, "does not send"),
    ],
)
def test_where_it_cannot_be_used_an_error_says_why_and_nothing_is_left(
    ring: Ring, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], said: str
) -> None:
    before = held()
    with monkeypatch.context() as patched:
        for name, value in changes.items():
            patched.setattr(uring, name, value)
        with pytest.raises(OSError, match=said):
            Ring()
    assert held() == before
