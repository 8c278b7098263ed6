"""How bytes that many connections are to get are sent to them: by one system call, or else by one for each.

Both keep the GIL for about a millisecond, as beside one computing thread it takes up to 5 ms (the switch interval) to
get it back, which `socket.send` would wait for at each connection.
"""

from __future__ import annotations

import ctypes
import errno
import logging
import socket
import sys
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import islice, repeat

from .uring import Ring

logger = logging.getLogger("afterload.hub")

MSG_DONTWAIT = getattr(socket, "MSG_DONTWAIT", 0)
MSG_NOSIGNAL = getattr(socket, "MSG_NOSIGNAL", 0)
SEND_FLAGS = MSG_DONTWAIT | MSG_NOSIGNAL
MANY = 8  # connections from which on one system call is less work than one for each
RUN = 32  # sends between two looks at the clock, or fewer of so many bytes
RUN_BYTES = 4_194_304
SMALL = 256  # entries of a ring where there is no memory for more: kernels before 5.12 count it as locked
HOLD_GIL = 0.001  # longest run of sends without giving up the GIL

Send = Callable[[int, bytes, int, int], int]


class Sender:
    """Sends over many connections.

    Args:
        send: ``send(fd, data, size, flags) -> sent``, negative on error: over one of them.
        may_ring: whether io_uring may be used; asked each time.
        clock: monotonic seconds.

    Attributes:
        batched: how many connections took all of it in a system call for many.
    """

    def __init__(self, send: Send, may_ring: Callable[[], bool], clock: Callable[[], float]) -> None:
        self.send = send
        self.batched = 0
        self._may_ring = may_ring
        self._clock = clock
        self._ring: Ring | None = None
        self._has_tried = False

    def send_all(self, fds: Collection[int], data: bytes) -> list[tuple[int, int]]:
        """Sends all of them the same bytes.

        Returns:
            Who has not taken all of it, and how many bytes each of these has; negative for none.
        """
        ring = self._ring_for(len(fds))
        if ring is None:
            return self._one_by_one(fds, data)
        them = list(fds)
        try:
            taken = ring.send(them, data)
        finally:
            if ring.error is not None:
                logger.warning("afterload: io_uring is not used any more: %s", ring.error)
                self.close()
        late = _late(them, taken, len(data))
        self.batched += len(taken) - len(late)
        if rest := them[len(taken) :]:
            late += self._one_by_one(rest, data)
        return late

    def _ring_for(self, count: int) -> Ring | None:
        if count < MANY or not self._may_ring():
            return None
        if not self._has_tried:
            self._has_tried = True
            try:
                self._ring = _new_ring()
            except Exception as error:  # noqa: BLE001 - what only takes itself for Linux may do anything
                logger.info("afterload: io_uring cannot be used, each send is a system call: %s", error)
        return self._ring

    def _one_by_one(self, fds: Iterable[int], data: bytes) -> list[tuple[int, int]]:
        send, size, clock = self.send, len(data), self._clock
        same = repeat(data), repeat(size), repeat(SEND_FLAGS)
        late: list[tuple[int, int]] = []
        count = min(RUN, max(1, RUN_BYTES // max(1, size)))
        start = clock()
        rest = iter(fds)
        # `map` and `count` loop in C: a `for` costs a few per cent of the whole delivery
        while run := tuple(islice(rest, count)):
            taken = list(map(send, run, *same))
            late += _late(run, taken, size)
            if clock() - start > HOLD_GIL:
                time.sleep(0)
                start = clock()
        return late

    def close(self) -> None:
        """Gives back what it has of the system's."""
        ring, self._ring = self._ring, None
        if ring is not None:
            ring.close()


def _new_ring() -> Ring:
    try:
        return Ring()
    except OSError as error:
        if error.errno != errno.ENOMEM:
            raise
        return Ring(SMALL)


def _late(fds: Sequence[int], taken: Sequence[int], size: int) -> list[tuple[int, int]]:
    if taken.count(size) == len(taken):
        return []
    return [(fd, part) for fd, part in zip(fds, taken, strict=False) if part != size]


def gil_keeping_send() -> Send | None:
    """`send(2)` that does not give up the GIL, or None where it cannot be had.

    A non-blocking send of a small block takes a few microseconds.
    """
    if not sys.platform.startswith("linux"):
        return None
    try:
        send = ctypes.PyDLL(None).send
    except (OSError, AttributeError):
        return None
    # No `argtypes`: an int and bytes are passed as they are, and the checks would cost a tenth of a send. An int is
    # passed as a C int, sign-extended to the register; no block is 2 GB.
    send.restype = ctypes.c_ssize_t
    return send
