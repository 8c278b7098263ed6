"""What a process asks a hub elsewhere: each question has one answer, in order (`calls` of `afterload.hub.control`).

Any thread may ask. The first that comes takes what all others have queued along with its own, sends it in one go, and
reads the answers; so many publishers cost few system calls, and no thread of ours stands between them and the hub.
"""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections import deque
from contextlib import suppress
from typing import Any

from ..errors import HubError
from . import rendezvous
from .frames import FrameError, Frames, Message, frame

_STEP = 262_144
_BATCH = 1_000_000  # bytes of calls that are sent in one go
SILENT = 1.0  # seconds until a call is given up, where the one before was


class Gone(HubError):  # noqa: N818 - what has happened, and no mistake
    """The hub has ended, or the connection to it, and it has heard nothing of what was to be said: say it again."""


class Refusal(HubError):  # noqa: N818 - the hub's word
    """The hub has heard it, and does not do it."""


class Ended(HubError):  # noqa: N818 - what has happened, and no mistake
    """The hub has ended, and may have heard the last that was said."""


class _Call:
    __slots__ = ("answer", "data", "deadline", "error")

    def __init__(self, data: bytes, deadline: float) -> None:
        self.data = data
        self.deadline = deadline
        self.answer: Message | None = None
        self.error: HubError | None = None

    @property
    def over(self) -> bool:
        return self.answer is not None or self.error is not None


class Calls:
    """A connection of calls; opened by the first.

    Args:
        namespace: whose hub.
        timeout: seconds until a call is given up.
        epoch: of the life of the hub that is meant; "" for any.
    """

    def __init__(self, namespace: str, timeout: float, epoch: str = "") -> None:
        self.namespace = namespace
        self._timeout = timeout
        self._epoch = epoch
        self._sock: socket.socket | None = None
        self._frames = Frames()
        self._answers: deque[Message] = deque()
        self._changed = threading.Condition()
        self._queue: deque[_Call] = deque()
        self._led = False
        self._ended = False
        self._is_silent = False

    def call(self, what: str, **said: Any) -> Any:
        """Calls the hub, in any thread.

        Raises:
            Gone: the hub had ended before it could hear of it, or was never there.
            HubError: it has ended with it, does not answer in time, or refuses this process, or what it says.
            FrameError: there is too much to say.
        """
        # Who has waited for it in vain once is not held up as long again.
        deadline = time.monotonic() + (min(self._timeout, SILENT) if self._is_silent else self._timeout)
        if what in ("publish", "hold"):
            # Who has been told that it is not answered must not see it come later, behind what is newer.
            said["until"] = deadline
        mine = _Call(frame({"call": what, **said}), deadline)
        with self._changed:
            if self._ended:
                raise self.gone("the connection has ended")
            self._queue.append(mine)
        while True:
            with self._changed:
                while self._led and not mine.over:
                    if not self._changed.wait(max(0.0, deadline - time.monotonic())) and not mine.over:
                        if mine in self._queue:
                            self._queue.remove(mine)
                        raise self.silent()
                if mine.over:
                    break
                self._led = True
                batch = self._batch()
            try:
                self._exchange(batch)
            finally:
                self._follow()
        if isinstance(mine.error, Ended) and what != "publish":
            raise self.gone("it ended while it was asked") from mine.error  # which may be done again
        if mine.error is not None:
            raise mine.error
        assert mine.answer is not None
        if "error" in mine.answer:
            raise Refusal(
                f"the hub of namespace {self.namespace!r} refuses: {mine.answer['error']}",
                namespace=self.namespace,
            )
        return mine.answer["value"]

    def _follow(self) -> None:
        with self._changed:
            self._led = False
            if self._ended:
                self.close()
            self._changed.notify_all()

    def end(self) -> None:
        """Closes the connection for good; in any thread."""
        with self._changed:
            self._ended = True
            if not self._led:
                self.close()
            elif self._sock is not None:
                with suppress(OSError):
                    self._sock.shutdown(socket.SHUT_RDWR)  # who reads it closes it

    def close(self) -> None:
        """Closes the connection; the next call opens another."""
        sock, self._sock = self._sock, None
        if sock is not None:
            sock.close()
        self._frames = Frames()
        self._answers.clear()

    def _batch(self) -> list[_Call]:
        batch, size = [self._queue.popleft()], 0
        while self._queue and size < _BATCH:
            batch.append(self._queue.popleft())
            size += len(batch[-1].data)
        return batch

    def _exchange(self, batch: list[_Call]) -> None:
        error: HubError | None = None
        data = b"".join([call.data for call in batch])
        unheard = True
        try:
            sock = self._sock or self._open()
            self._wait_until(sock, max(call.deadline for call in batch))
            sent = sock.send(data)
            unheard = False
            if sent < len(data):
                sock.sendall(data[sent:])
            for call in batch:
                answer = self._next(sock)
                if "gone" in answer:  # the first of a connection: nothing was heard
                    raise self.gone(answer["gone"])
                call.answer = answer
            self._is_silent = False
        except (BlockingIOError, TimeoutError):  # the first is of SO_RCVTIMEO and SO_SNDTIMEO
            self._is_silent = True
            error = self.silent()
        except HubError as e:
            error = e
        except FrameError as e:
            error = misunderstood(self.namespace, e)
        except OSError as e:
            error = self.gone(e) if unheard else self._gone_with(e)
        finally:
            left = [call for call in batch if not call.over]
            for call in left:
                call.error = error or self._gone_with("the call was interrupted")
            if left:
                self.close()  # what it would say next is not for who would read it

    def _open(self) -> socket.socket:
        sock = rendezvous.connect(self.namespace, self._timeout)
        if sock is None:
            raise self.gone("nobody is there")
        sock.settimeout(None)
        self._sock = sock
        sock.sendall(frame({"hello": "calls", "epoch": self._epoch}))
        return sock

    @staticmethod
    def _wait_until(sock: socket.socket, deadline: float) -> None:
        # A socket with a timeout of Python's would cost two more system calls for each of these.
        left = max(0.001, deadline - time.monotonic())
        if type(sock).__module__ != "socket":  # gevent's, which never waits in the kernel
            sock.settimeout(left)
            return
        patience = struct.pack("@ll", int(left), int(left % 1 * 1e6))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, patience)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, patience)

    def _next(self, sock: socket.socket) -> Message:
        while not self._answers:
            data = sock.recv(_STEP)
            if not data:
                raise ConnectionResetError("it has closed the connection")
            self._answers.extend(message for message, _ in self._frames.feed(data))
        return self._answers.popleft()

    def gone(self, why: object) -> Gone:
        """What is raised where it has ended."""
        return Gone(f"the hub of namespace {self.namespace!r} is gone: {why}", namespace=self.namespace)

    def _gone_with(self, why: object) -> Ended:
        return Ended(
            f"the hub of namespace {self.namespace!r} has ended: {why}; what was said may have reached it, or not",
            namespace=self.namespace,
        )

    def silent(self) -> HubError:
        """What is raised where it does not answer in time."""
        return HubError(
            f"the hub of namespace {self.namespace!r} does not answer (publish_timeout is {self._timeout:g} s); what "
            "was said may have reached it, or not",
            namespace=self.namespace,
        )


def misunderstood(namespace: str, error: FrameError) -> HubError:
    """What is raised where a hub says something that is not understood."""
    return HubError(
        f"the hub of namespace {namespace!r} is of another version of afterload, or none: {error}; end it, and one of "
        "this version is started",
        namespace=namespace,
    )
