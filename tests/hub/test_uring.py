"""Many sends by one system call, on real sockets."""

from __future__ import annotations

import errno
import os
import random
import socket
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from afterload.hub import uring
from afterload.hub.uring import Ring
from tests.hub.door import descriptors

Pairs = Callable[[int], list[tuple[socket.socket, socket.socket]]]


@pytest.fixture
def ring() -> Iterator[Ring]:
    """A small one, so that its queues begin anew again and again."""
    try:
        made = Ring(8)
    except OSError as error:
        pytest.skip(f"there is no io_uring here: {error}")
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
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as theirs,
    ):
        ours, _ = server.accept()
        with ours:
            ours.setblocking(False)
            [(quick, reads)] = pairs(1)
            taken = []
            while not taken or taken[-1] == 100_000:
                taken += ring.send([ours.fileno(), quick.fileno()], b"x" * 100_000)[:1]
                assert len(read(reads)) == 100_000
            sent = sum(max(n, 0) for n in taken)
            ours.shutdown(socket.SHUT_WR)
            assert (
                sum(len(theirs.recv(1 << 20)) for _ in iter(lambda: theirs.recv(1, socket.MSG_PEEK), b""))
                == sent
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
    assert ring.send(fds, b"once") == [4] * 6  # the queue begins anew after four: its first try was four
    assert isinstance(ring.error, OSError)
    assert ring.send(fds, b"again") == []
    assert [read(theirs) for _, theirs in them] == [b"once"] * 6 + [b""] * 14


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


def test_a_child_gives_back_its_copy_and_its_parent_goes_on(ring: Ring, pairs: Pairs) -> None:
    [(ours, theirs)] = pairs(1)
    for _ in range(3):
        child = os.fork()
        if child == 0:
            try:
                ring.close()
                del ring
            finally:
                os._exit(0)
        assert ring.send([ours.fileno()] * 5, b"x") == [1] * 5
        assert os.waitpid(child, 0)[1] == 0
        assert ring.send([ours.fileno()] * 5, b"x") == [1] * 5
    assert read(theirs) == b"x" * 30


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
    assert wrong == []


def refuse(number: int) -> Callable[..., int]:
    def system(call: Any, which: int, *rest: int) -> int:
        raise OSError(number, os.strerror(number))

    return system


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"os": SimpleNamespace(uname=lambda: SimpleNamespace(machine="mips"))},
            "is not known on this machine",
        ),
        ({"_system": refuse(errno.ENOSYS)}, "Function not implemented"),
        ({"_system": refuse(errno.EPERM)}, "Operation not permitted"),
        ({"_FEATURE_SINGLE_MAP": 1 << 31}, "too old"),
        ({"_OP_SEND": 255}, "does not send"),
        ({"FLAGS": socket.MSG_OOB | socket.MSG_DONTWAIT}, "does not send"),
    ],
)
def test_where_it_cannot_be_had_an_error_says_why_and_nothing_is_left(
    ring: Ring, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], said: str
) -> None:
    before = descriptors()
    with monkeypatch.context() as patched:
        for name, value in changes.items():
            patched.setattr(uring, name, value)
        with pytest.raises(OSError, match=said):
            Ring()
    assert descriptors() == before
