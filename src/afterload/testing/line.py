"""One connection through the proxy: a client's, the one to the server behind it, and two ways between them.

What is read from one end is queued, and sent to the other as far as the line's fault lets it. Nothing is ever left out
or changed on a way: TCP never does that either, so a line that was stalled or in a black hole goes on where it was, and
one that was cut ends after exactly so many bytes.

*Resets overtake bytes*: a socket that is closed with bytes unread, or with a linger of 0, throws away what its peer has
yet to get. So a cut ends the ways first and reads on for a while; and one by RST waits until the kernels of both sides
have all that was passed on.
"""

from __future__ import annotations

import errno
import heapq
import math
import re
import selectors
import socket
import struct
import sys
import time
from collections import deque
from http import HTTPStatus
from typing import Any

from .fault import Fault

_CHUNK = 65_536
_DELAYED = 1_048_576  # bytes that may be on their way, where each takes its time
_SMALL = 4096  # of the sockets' buffers where a line is slow: else it takes megabytes before anybody notices
_TURN = 0.1  # seconds for which a slow line may save up
_LINGER = 1.0  # seconds that the ends of a cut line are read on
_LOOKS = 0.002  # seconds between two looks whether a peer has its bytes
_RESET = struct.pack("ii", 1, 0)
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]+)")
_CHUNKED = re.compile(rb"\r\ntransfer-encoding:[^\r]*chunked")


class Lines:
    """All lines of a proxy, and what they have in common.

    Args:
        family: of the server's address.
        address: of the server.

    Attributes:
        selector: waits for their sockets.
        there: the lines that have not been closed.
        cuts: how many were cut.
        asked: bytes of requests that were passed on.
        answered: the same of answers.
    """

    def __init__(self, family: int, address: Any) -> None:
        self.family = family
        self.address = address
        self.selector = selectors.DefaultSelector()
        self.there: set[Line] = set()
        self.cuts = 0
        self.asked = 0
        self.answered = 0
        self._due: list[tuple[float, int, Line]] = []
        self._number = 0

    def at(self, due: float, line: Line) -> None:
        """Has a line looked after at a time."""
        self._number += 1
        heapq.heappush(self._due, (due, self._number, line))

    def wait(self) -> float | None:
        """Seconds until a line has to be looked after."""
        return max(0.0, self._due[0][0] - time.monotonic()) if self._due else None

    def look_after(self) -> None:
        """Looks after those whose time has come."""
        while self._due and self._due[0][0] <= time.monotonic():
            heapq.heappop(self._due)[2].flow()


class _Way:
    """One direction of a line.

    Attributes:
        queue: what is to be sent, and not before which time; b"" is the end.
        size: bytes in it.
        held: what is kept back until it is whole.
        passed: bytes that were sent.
        read: the source has ended.
        shut: the sink was told so.
        blocked: the sink takes nothing at the moment.
        saved: bytes that a slow way may send at once.
    """

    __slots__ = (
        "at",
        "blocked",
        "held",
        "passed",
        "queue",
        "read",
        "saved",
        "shut",
        "sink",
        "size",
        "source",
    )  # fmt: skip

    def __init__(self, source: socket.socket | None, sink: socket.socket | None, now: float) -> None:
        self.source = source
        self.sink = sink
        self.queue: deque[tuple[float, memoryview]] = deque()
        self.size = 0
        self.held = bytearray()
        self.passed = 0
        self.read = False
        self.shut = False
        self.blocked = False
        self.saved = 0.0
        self.at = now

    def put(self, data: bytes | bytearray, due: float) -> None:
        self.queue.append((due, memoryview(bytes(data))))
        self.size += len(data)


class Line:
    """A client's connection and the one to the server.

    Args:
        lines: all lines.
        client: the connection that has come.
        fault: what is wrong with it.
    """

    def __init__(self, lines: Lines, client: socket.socket, fault: Fault) -> None:
        now = time.monotonic()
        self._lines = lines
        self._client = client
        self._server: socket.socket | None = None
        self._connected = False
        self._fault = fault
        self._began = now
        self._request = _Way(client, None, now)
        self._answer = _Way(None, client, now)
        self._masks: dict[socket.socket, int] = {}
        self._cut_at: float | None = None  # since when it is being cut
        self._resets = False
        self._hung = False  # it was begun in a black hole
        self._refused = False  # it has been answered by the proxy itself
        self._wakes = math.inf  # when it is looked after next
        self._over = False
        client.setblocking(False)
        _no_delay(client)
        lines.there.add(self)
        if fault.cut_after is not None:
            self._wake(now + fault.cut_after)

    @property
    def is_open(self) -> bool:
        """Whether it is there, and not being cut."""
        return not self._over and self._cut_at is None

    def switch(self, fault: Fault) -> None:
        """Gives it another fault."""
        self._fault = fault
        if fault.cut_after is not None:
            self._wake(self._began + fault.cut_after)
        self.flow()

    def ready(self, sock: Any, mask: int) -> None:
        """One of its sockets is ready."""
        if self._over:
            return
        if self._cut_at is not None:
            self._discard(sock)
            return
        if mask & selectors.EVENT_WRITE:
            for way in (self._request, self._answer):
                if way.sink is sock:
                    way.blocked = False
            if sock is self._server and not self._connected:
                if self._server.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                    self._end(reset=False)
                    return
                self._connected = True
        if mask & selectors.EVENT_READ:
            way = self._request if sock is self._client else self._answer
            if way.source is not None and self._room(way):
                self._read(way)
        self.flow()

    def flow(self) -> None:
        """Goes on as far as its fault lets it."""
        if self._over:
            return
        now = time.monotonic()
        if self._wakes <= now:
            self._wakes = math.inf
            if self._fault.cut_after is not None and now < self._began + self._fault.cut_after:
                self._wake(self._began + self._fault.cut_after)
        if self._cut_at is not None:
            self._go_on_ending(now)
            return
        fault = self._fault
        if fault.cut_after is not None and now >= self._began + fault.cut_after:
            self.cut(fault.reset)
            return
        if fault.blackhole:
            self._hung = self._server is None
        else:
            if self._server is None and not self._refused:
                if self._hung and self._has_given_up():
                    self.close()
                    return
                if fault.status is not None:
                    self._refuse(fault.status, now)
                elif not self._connect():
                    return
            for way in (self._request, self._answer):
                if not self._pass_on(way, now):
                    return
            if self._request.shut and self._answer.shut:
                self.close()
                return
            if self._refused and self._answer.shut:
                self._end(reset=False)
                return
        self._wait()

    def cut(self, reset: bool) -> None:
        """Cuts it now."""
        self._lines.cuts += 1
        self._end(reset)

    def close(self) -> None:
        """Closes both ends."""
        self._over = True
        self._lines.there.discard(self)
        for sock in (self._client, self._server):
            if sock is None:
                continue
            if sock in self._masks:
                self._lines.selector.unregister(sock)
            sock.close()
        self._masks.clear()

    # The ways

    def _room(self, way: _Way) -> bool:
        if way.read:
            return False
        if self._fault.hold and way is self._answer:
            return True
        if self._fault.rate is not None and way is self._answer:
            return way.size < min(_CHUNK, max(1, int(self._fault.rate * _TURN)))
        return way.size < (_DELAYED if self._fault.delay else _CHUNK)

    def _read(self, way: _Way) -> None:
        assert way.source is not None
        most = _SMALL if self._fault.rate is not None and way is self._answer else _CHUNK
        try:
            data = way.source.recv(most)
        except BlockingIOError:
            return
        except OSError:
            self._end(reset=True)
            return
        due = time.monotonic() + self._fault.delay
        if data and way is self._answer and self._fault.hold:
            way.held += data
            while whole := _whole_answer(way.held):
                way.put(way.held[:whole], due)
                del way.held[:whole]
            return
        if way.held:
            way.put(way.held, due)
            way.held.clear()
        way.put(data, due)
        way.read = not data

    def _pass_on(self, way: _Way, now: float) -> bool:
        """Sends what may go now; whether the line is still open."""
        fault, answer = self._fault, way is self._answer
        if way.held and not fault.hold:
            way.put(way.held, now)
            way.held.clear()
        cut = fault.cut if answer else fault.cut_request
        stall = fault.stall if answer else None
        while way.queue:
            due, data = way.queue[0]
            if cut is not None and way.passed >= cut:
                self.cut(fault.reset)
                return False
            if due > now:
                self._wake(due)
                break
            if way.blocked or way.sink is None or (way is self._request and not self._connected):
                break
            if stall is not None and way.passed >= stall:
                break
            if not len(data):
                way.queue.popleft()
                way.shut = True
                if not self._shut(way.sink):
                    return False
                break
            most = min([len(data), *(n - way.passed for n in (cut, stall) if n is not None)])
            if fault.rate is not None and answer:
                most = min(most, self._earned(way, fault.rate, now))
            if not most:
                break
            if not self._send(way, data[:most]):
                return False
            if cut is not None and way.passed >= cut:
                self.cut(fault.reset)
                return False
        return True

    def _earned(self, way: _Way, rate: float, now: float) -> int:
        """How many bytes a slow way may send now; it is looked after again when there is one."""
        way.saved = min(max(1.0, rate * _TURN), way.saved + rate * (now - way.at))
        way.at = now
        if way.saved < 1.0:
            self._wake(now + max(_TURN / 2, 1 / rate))
        return int(way.saved)

    def _send(self, way: _Way, data: memoryview) -> bool:
        assert way.sink is not None
        try:
            sent = way.sink.send(data)
        except BlockingIOError:
            way.blocked = True
            return True
        except OSError:
            self._end(reset=True)
            return False
        due, whole = way.queue.popleft()
        if sent < len(whole):
            way.queue.appendleft((due, whole[sent:]))
        way.size -= sent
        way.passed += sent
        if way is self._answer:
            way.saved -= sent
            self._lines.answered += sent
        else:
            self._lines.asked += sent
        return True

    def _shut(self, sock: socket.socket) -> bool:
        try:
            sock.shutdown(socket.SHUT_WR)
        except OSError:
            self._end(reset=True)
            return False
        return True

    # The server

    def _connect(self) -> bool:
        server = socket.socket(self._lines.family, socket.SOCK_STREAM)
        server.setblocking(False)
        if self._fault.rate is not None:
            # before the connection is there: the size of the window is agreed upon then
            server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SMALL)
            self._client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SMALL)
        self._server = self._request.sink = self._answer.source = server
        status = server.connect_ex(self._lines.address)
        if status not in (0, errno.EINPROGRESS, errno.EWOULDBLOCK):
            self._end(reset=False)
            return False
        _no_delay(server)
        self._connected = status == 0
        return True

    def _has_given_up(self) -> bool:
        """Whether its client is gone, whom nobody had answered: then there never was a connection."""
        self._hung = False
        while self._room(self._request):
            try:
                data = self._client.recv(_CHUNK)
            except BlockingIOError:
                break
            except OSError:
                return True
            self._request.put(data, time.monotonic())
            self._request.read = not data
        return self._request.read

    def _refuse(self, status: int, now: float) -> None:
        """Answers in the server's place, once the head of the request is there."""
        asked = b"".join(data for _, data in self._request.queue)
        if b"\r\n\r\n" not in asked and not self._request.read:
            return
        self._refused = True
        phrase = HTTPStatus(status).phrase if status in set(HTTPStatus) else "Status"
        said = f"{status} {phrase}\n"
        head = f"HTTP/1.1 {status} {phrase}\r\nContent-Type: text/plain\r\nContent-Length: {len(said)}\r\n"
        self._answer.put(f"{head}Connection: close\r\n\r\n{said}".encode(), now)
        self._answer.put(b"", now)
        self._request.queue.clear()
        self._request.size = 0

    # The end

    def _end(self, reset: bool) -> None:
        """Ends both connections, so that what was passed on arrives."""
        self._cut_at = time.monotonic()
        self._resets = reset
        self._go_on_ending(self._cut_at)

    def _go_on_ending(self, now: float) -> None:
        assert self._cut_at is not None
        ends = [sock for sock in (self._client, self._server) if sock is not None]
        late = now >= self._cut_at + _LINGER
        if self._resets:
            if not late and any(_unacknowledged(sock) for sock in ends):
                self._listen_to({})
                self._wake(now + _LOOKS)
                return
            for sock in ends:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self.close()
        elif late:
            self.close()
        elif now == self._cut_at:
            waiting: dict[socket.socket, int] = {}
            for sock in ends:
                try:
                    sock.shutdown(socket.SHUT_WR)
                    waiting[sock] = selectors.EVENT_READ
                except OSError:
                    pass  # it went first
            self._listen_to(waiting)
            self._wake(now + _LINGER)
            if not waiting:
                self.close()

    def _discard(self, sock: socket.socket) -> None:
        try:
            gone = not sock.recv(_CHUNK)
        except BlockingIOError:
            return
        except OSError:
            gone = True
        if gone:
            self._listen_to({s: mask for s, mask in self._masks.items() if s is not sock})
            if not self._masks:
                self.close()

    # What is waited for

    def _wake(self, due: float) -> None:
        """Has it looked after at that time, or before."""
        if due < self._wakes:
            self._wakes = due
            self._lines.at(due, self)

    def _wait(self) -> None:
        """Has its sockets waited for, for what would bring it on."""
        masks: dict[socket.socket, int] = {}
        if not self._fault.blackhole:
            for way in (self._request, self._answer):
                if way.source is not None and self._room(way):
                    masks[way.source] = masks.get(way.source, 0) | selectors.EVENT_READ
                if way.sink is not None and way.blocked and way.queue:
                    masks[way.sink] = masks.get(way.sink, 0) | selectors.EVENT_WRITE
            if self._server is not None and not self._connected:
                masks[self._server] = selectors.EVENT_WRITE
        self._listen_to(masks)

    def _listen_to(self, masks: dict[socket.socket, int]) -> None:
        selector = self._lines.selector
        for sock in [*self._masks]:
            if sock not in masks:
                selector.unregister(sock)
        for sock, mask in masks.items():
            before = self._masks.get(sock)
            if before is None:
                selector.register(sock, mask, self)
            elif before != mask:
                selector.modify(sock, mask, self)
        self._masks = masks


def _no_delay(sock: socket.socket) -> None:
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except OSError:
        pass  # it is gone already


def _unacknowledged(sock: socket.socket) -> int:
    """Bytes that were sent and that the peer's kernel has yet to get; 0 where that cannot be known."""
    if sys.platform == "win32":
        return 0
    import fcntl
    import termios

    try:
        count: int = struct.unpack("i", fcntl.ioctl(sock, termios.TIOCOUTQ, b"\0" * 4))[0]
    except OSError:
        return 0
    return count


def _whole_answer(held: bytearray) -> int:
    """The length of the answer of HTTP that these bytes begin with; 0 while it has no end."""
    end = held.find(b"\r\n\r\n") + 4
    if end < 4:
        return 0
    head = bytes(held[:end]).lower()
    if head[9:12] in (b"204", b"304") or (head[9:10] == b"1" and head[9:12] != b"101"):
        return end
    if match := _LENGTH.search(head):
        end += int(match[1])
        return end if len(held) >= end else 0
    if _CHUNKED.search(head):
        last = held.find(b"\r\n0\r\n\r\n", end - 2)
        return last + 7 if last >= 0 else 0
    return 0
