"""Many sends in one system call, by Linux's io_uring: about a fifth less work than a call for each of them.

A `Ring` is memory shared with the kernel: a queue of sends to make, and a queue of what has become of them. None of
the sends waits (`MSG_DONTWAIT`), so all have been made when the call returns, and what a socket did not take is told
just as `send(2)` would::

    fds, data ──▶ entries (one for each fd, all with the same bytes) ──io_uring_enter──▶ results

The call lets go of the GIL, once for them all, unless they are so few that it does not pay. Nothing is left with the
kernel when it has returned, so it matters to nobody that descriptors are closed and used again. A forked child has the
queues in common with its parent, and must only close its ring.

Layouts are those of ``linux/io_uring.h``. It is not there in older kernels (before 5.6), where the administrator has
forbidden it, and in most containers; who asks is told so by an OSError, and sends one by one.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import socket
import struct
from array import array
from collections.abc import Sequence
from typing import Any

ENTRIES = 1024  # which are 128 KB
FLAGS = 0x4040  # MSG_DONTWAIT | MSG_NOSIGNAL
# So many sends of so many bytes keep the GIL, for 0.7 ms: to get it back beside one computing thread takes up to 5 ms.
QUICK = 128
QUICK_BYTES = 131_072

# The numbers of system calls are the same on all of these.
_MACHINES = {"x86_64", "aarch64", "ppc64le", "riscv64", "s390x", "loongarch64"}
_SETUP, _ENTER = 425, 426
_GETEVENTS = 1
_OP_SEND = 26
_OFF_ENTRIES = 0x1000_0000
_FEATURE_SINGLE_MAP = 1
_PARAMS = struct.Struct("=2I 3I I 4I 10I 10I")  # sizes, flags, features, reserved, offsets of both queues
_ENTRY, _RESULT = 64, 16  # bytes
_NONE = memoryview(b"")
_CUT_OFF = OSError("a call was cut off in the middle")


class Ring:
    """Sends of the same bytes over many connections.

    Args:
        entries: sends in one system call at most; a power of two.

    Attributes:
        error: why it does not send any more.

    Raises:
        OSError: this system has no io_uring, or does not allow it.
    """

    def __init__(self, entries: int = ENTRIES) -> None:
        self.error: OSError | None = None
        self._fd = -1
        if os.uname().machine not in _MACHINES:
            raise OSError("io_uring is not known on this machine")
        try:
            self._call = _typed(ctypes.CDLL(None, use_errno=True).syscall)
            self._quick_call = _typed(ctypes.PyDLL(None, use_errno=True).syscall)
        except AttributeError as error:
            raise OSError("this C library has no syscall()") from error
        params = ctypes.create_string_buffer(_PARAMS.size)
        self._fd = _system(self._call, _SETUP, entries, ctypes.addressof(params))
        try:
            self._map(_PARAMS.unpack(params))
            self._try()
        except BaseException:
            self.close()
            raise

    def _map(self, params: tuple[int, ...]) -> None:
        self.entries, results, *_ = params
        if not params[5] & _FEATURE_SINGLE_MAP:
            raise OSError("io_uring is too old")
        _, tail, _, _, _, _, numbers, _, _, _ = params[10:20]
        head, ready, _, _, _, first, _, _, _, _ = params[20:30]
        size = max(numbers + 4 * self.entries, first + _RESULT * results)
        queues = self._mapped(size, 0)
        words = queues.cast("I")
        self._tail = words[tail // 4 :][:1]
        self._head = words[head // 4 :][:1]
        self._ready = words[ready // 4 :][:1]
        found = queues[first : first + _RESULT * results]
        self._which = found.cast("Q")[::2]
        self._results = found.cast("i")[2::4]
        entries = self._mapped(_ENTRY * self.entries, _OFF_ENTRIES)
        ints, longs = entries.cast("i"), entries.cast("Q")
        self._fds, self._sizes = ints[1::16], ints[6::16]
        self._addresses = longs[2::8]
        for i in range(self.entries):
            words[numbers // 4 + i] = i
            entries[_ENTRY * i] = _OP_SEND
            ints[16 * i + 7] = FLAGS
            longs[8 * i + 4] = i
        self._mask = results - 1

    def _mapped(self, size: int, offset: int) -> memoryview:
        return memoryview(mmap.mmap(self._fd, size, offset=offset))

    def _try(self) -> None:
        """Kernels, and what takes itself for one, differ: it is used where it has been seen to work."""
        ends = socket.socketpair()
        try:
            for sock in ends:
                sock.setblocking(False)
            fds = [sock.fileno() for sock in ends]
            if self.send(fds, b"io") != [2, 2] or [sock.recv(9) for sock in ends] != [b"io", b"io"]:
                raise self.error or OSError("io_uring does not send")
            ends[0].shutdown(socket.SHUT_WR)
            if self.send(fds, b"io") != [-1, 2]:
                raise self.error or OSError("io_uring does not tell what was not sent")
            much = bytes(65_536)
            if not any(self.send(fds[1:], much) == [-1] for _ in range(1000)):
                raise self.error or OSError("io_uring does not tell that there is no room")
        finally:
            for sock in ends:
                sock.close()

    def send(self, fds: Sequence[int], data: bytes) -> list[int]:
        """Sends all of them the same bytes.

        Args:
            fds: connections; any number.
            data: the bytes.

        Returns:
            For each how many bytes it has taken, or -1. Fewer than there are connections if the system call fails (then
            `error` says why): the others were sent nothing.

        Raises:
            BaseException: something else is wrong, and nobody knows what was sent. There is an `error` then, too.
        """
        if self.error is not None:
            return []
        self.error = _CUT_OFF
        taken = self._send(fds, data)
        if self.error is _CUT_OFF:
            self.error = None
        return taken

    def _send(self, fds: Sequence[int], data: bytes) -> list[int]:
        address = ctypes.cast(ctypes.c_char_p(data), ctypes.c_void_p).value or 0
        taken: list[int] = []
        while (done := len(taken)) < len(fds) and self.error is _CUT_OFF:
            tail, head = self._tail[0], self._head[0]
            at = tail % self.entries
            count = min(len(fds) - done, self.entries - at)  # so that neither queue begins anew in the middle
            chunk = slice(at, at + count)
            self._fds[chunk] = array("i", fds[done : done + count])
            self._addresses[chunk] = array("Q", [address]) * count
            self._sizes[chunk] = array("i", [len(data)]) * count
            self._tail[0] = (tail + count) % 2**32
            is_quick = count <= QUICK and count * len(data) <= QUICK_BYTES
            count = self._submit(self._quick_call if is_quick else self._call, head, count)
            here = slice(head & self._mask, (head & self._mask) + count)
            results = self._results[here].tolist()
            if results.count(len(data)) != count:
                which = self._which[here].tolist()
                results = [max(result, -1) for _, result in sorted(zip(which, results, strict=True))]
            self._head[0] = (head + count) % 2**32
            taken += results
        return taken

    def _submit(self, call: Any, head: int, count: int) -> int:
        """Has the kernel make so many sends; how many it has made."""
        left = count
        while left or (self._ready[0] - head) % 2**32 < count:
            try:
                made = _system(call, _ENTER, self._fd, left, count, _GETEVENTS)
                if left and not made:
                    raise OSError("io_uring takes nothing")
                left -= made
            except InterruptedError:
                pass
            except OSError as error:  # it has taken none, this time
                self.error = error.with_traceback(None)
                break
        return min(count - left, (self._ready[0] - head) % 2**32)

    def close(self) -> None:
        """Gives it back to the kernel, and the memory; it is not used any more."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
        self._tail = self._head = self._ready = self._which = self._results = _NONE
        self._fds = self._sizes = self._addresses = _NONE


def _typed(function: Any) -> Any:
    function.argtypes = [ctypes.c_long] * 7
    function.restype = ctypes.c_long
    return function


def _system(call: Any, *arguments: int) -> int:
    result: int = call(*arguments, *[0] * (7 - len(arguments)))
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
