"""One connection of another process to a hub: what comes by it, and what is sent, also to one that reads slowly."""

from __future__ import annotations

import errno
import os
import socket
from collections import deque
from typing import TYPE_CHECKING

from .frames import FrameError, Frames, Message, frame, receive, rights
from .poller import READ, WRITE

if TYPE_CHECKING:
    from .control import Control

_UNSENT_MOST = 16 * 1024 * 1024  # bytes that a process which does not read may have waiting
PAUSE = 0.2  # seconds that nobody is let in, or passed on, when the system had no room for it


class Connection:
    """One connection of a process.

    Attributes:
        sock: the socket.
        pid: of the process.
        kind: "events", "calls", or "" until it has said which.
        member: the name that the process has made up for itself, unique in its namespace.
        title: what the process is, for people.
        levels: of its loggers whose records it is told.
        viewers: those that it holds itself.
        loops: how many run in it.
        since: clock time at which it came.
    """

    def __init__(self, control: Control, sock: socket.socket, pid: int) -> None:
        self.sock = sock
        self.pid = pid
        self.kind = ""
        self.member = ""
        self.title = ""
        self.levels: dict[str, int] = {}
        self.viewers = 0
        self.loops = 0
        self.since = control.hub.clock()
        self._control = control
        self._frames = Frames()
        self._descriptors: deque[int] = deque()
        self._unsent: deque[tuple[bytes, int | None]] = deque()
        self._unsent_bytes = 0
        self.closed = False
        self.is_deaf = False
        self.paused = False

    @property
    def unsent(self) -> int:
        """Bytes that wait to be read by the process."""
        return self._unsent_bytes

    # As a `leases.Runner`

    def start(self, name: str, number: int) -> None:
        """See `leases.Runner`."""
        self.send({"say": "start", "loop": name, "lease": number})

    def stop(self, name: str, number: int) -> None:
        """See `leases.Runner`."""
        self.send({"say": "stop", "loop": name, "lease": number})

    def cancel(self, name: str, number: int) -> None:
        """See `leases.Runner`."""
        self.send({"say": "cancel", "loop": name, "lease": number})

    # Sending

    def send(self, message: Message, descriptor: int | None = None) -> None:
        """Sends a message, in any thread; a descriptor is closed once it is sent."""
        self._control.hub.poller.call(lambda: self.say(message, descriptor))

    def say(self, message: Message, descriptor: int | None = None) -> None:
        """The same, in the poller's thread."""
        if self.closed or self.is_deaf:
            if descriptor is not None:
                os.close(descriptor)
            return
        data = frame(message, int(descriptor is not None))
        self._unsent.append((data, descriptor))
        self._unsent_bytes += len(data)
        if len(self._unsent) == 1:
            self._push()
        elif self._unsent_bytes > _UNSENT_MOST:
            self._control.end(self, "it does not read what it is told")

    def _push(self) -> None:
        while self._unsent:
            data, descriptor = self._unsent[0]
            try:
                sent = self.sock.sendmsg([data], rights(descriptor))
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno == errno.ETOOMANYREFS:  # more are on their way than may be; waited out
                    self.pause()
                    return
                # It ends, and may have sent viewers before: what it has said is read to its end.
                self._forget_unsent()
                self.is_deaf = True
                self._control.hub.leases.withdraw(self)
                break
            if descriptor is not None:
                os.close(descriptor)
            self._unsent_bytes -= sent
            if sent == len(data):
                self._unsent.popleft()
            else:
                self._unsent[0] = data[sent:], None
        self._await()

    def _await(self) -> None:
        if not self.closed and not self.paused:
            self._control.hub.poller.want(self.sock, READ | WRITE if self._unsent else READ)

    def pause(self) -> None:
        """Leaves what it says unread for a moment."""
        if self.paused:
            return
        poller = self._control.hub.poller
        poller.unregister(self.sock)
        self.paused = True

        def resume() -> None:
            if not self.closed:
                self.paused = False
                poller.register(self.sock, self.ready)
                self._await()

        poller.at(poller.clock() + PAUSE, resume)

    # Receiving

    def ready(self, mask: int) -> None:
        """The socket is."""
        if mask & WRITE and self._unsent:
            self._push()
        if mask & READ and not self.closed:
            self._read()

    def _read(self) -> None:
        if self.kind == "events" and self._control.hub.fanout.is_full:
            self.pause()  # it may send a viewer's socket, for which there is no room
            return
        try:
            data = receive(self.sock, self._descriptors)
        except BlockingIOError:
            return
        except FrameError as error:
            self._control.end(self, str(error))
        except OSError:
            self._control.end(self, "")
        else:
            if data:
                self._control.received(self, data, self._frames, self._descriptors)
            else:
                self._control.end(self, "")

    def close(self) -> None:
        """Closes it, and what it has sent and nobody took."""
        self.closed = True
        for descriptor in self._descriptors:
            os.close(descriptor)
        self._descriptors.clear()
        self._forget_unsent()
        self.sock.close()

    def _forget_unsent(self) -> None:
        for _, waiting in self._unsent:
            if waiting is not None:
                os.close(waiting)
        self._unsent.clear()
        self._unsent_bytes = 0
