"""A hub in another process, as this one sees it: what `Shared` says, over two connections to `afterload.hub.control`.

`calls` (`afterload.hub.calls`) is used by any thread. `events` is read by the poller of this process's own hub, and
written by whoever has something to say.

A client is one life of that hub. When a connection ends it is `gone` for good, and another one is made
(`afterload.hub.meeting`).
"""

from __future__ import annotations

import errno
import logging
import os
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import Any, Protocol

from ..errors import HubError, LoopError, PatchError
from ..log import Present, Step
from ..patch import Patch
from ..settings import Settings
from . import rendezvous
from .calls import SILENT, Calls, misunderstood
from .frames import FrameError, Frames, Message, frame, receive, rights, title
from .head import SharedHead
from .messages import entry, of_follow, present, steps
from .poller import Poller
from .viewer import Follow

logger = logging.getLogger("afterload.hub")

_HANDSHAKE = 5.0  # seconds
_SOON = 0.01  # seconds between two tries to pass on a socket when too many are on their way
_RECORDS = ("afterload.hub", "afterload.viewer")  # the loggers whose records a hub passes on
_REMEMBERED = 1000  # answers of other processes
_HURRY = 0.2  # seconds that the poller may wait to say something


class Owner(Protocol):
    """What a hub asks of a process; called in the poller's thread."""

    def start(self, name: str, number: int, outlet: Client) -> None:
        """See `leases.Runner`."""

    def stop(self, name: str, number: int, outlet: Client) -> None:
        """See `leases.Runner`."""

    def cancel(self, name: str, number: int) -> None:
        """See `leases.Runner`."""

    def take(self, sock: socket.socket, viewer: dict[str, Any]) -> None:
        """The viewer of a private loop has come to another process."""

    def ask(self, key: str, label: str, at: int) -> int | None:
        """How a private loop stands for a page at `at`: None if it is unknown, its end if it has ended, else 0."""

    def leave(self, key: str) -> None:
        """The page of a private loop will not come back."""

    def revoke(self, owner: str) -> None:
        """The views of an owner's pages are to be asked again."""


class Client:
    """A hub in another process; see `hub.Shared`. Made by `Client.find`.

    Attributes:
        epoch: of this life of the hub.
        kind: what the hub is: "thread" or "process".
        pid: of its process.
        member: what this process is called there.
        is_gone: it has ended.
        is_ending: it has said that it will.
    """

    def __init__(
        self, namespace: str, settings: Settings, poller: Poller, owner: Owner, gone: Callable[[Client], None],
        sock: socket.socket, welcome: Message, head: SharedHead, member: str,
    ) -> None:  # fmt: skip
        self.namespace = namespace
        self.member = member
        self.epoch = str(welcome["welcome"])
        self.kind = str(welcome["kind"])
        self.pid = int(welcome["pid"])
        self.is_gone = False
        self.is_ending = False
        self._poller = poller
        self._owner = owner
        self._when_gone = gone
        self._timeout = settings.publish_timeout
        self._head = head
        self._calls = Calls(namespace, self._timeout, self.epoch)
        self._sock = sock
        self._frames = Frames()
        self._descriptors: deque[int] = deque()
        self._sending = threading.Lock()
        self._silent: dict[str, float] = {}
        self._answers: dict[tuple[str, str, str, int], tuple[float, int | None]] = {}

    @classmethod
    def find(
        cls, namespace: str, settings: Settings, member: str, poller: Poller, owner: Owner,
        gone: Callable[[Client], None],
    ) -> Client | None:  # fmt: skip
        """The hub that has the place of a namespace; None where nobody has it.

        Args:
            namespace: whose.
            settings: of the app; they are the hub's from now on.
            member: what this process is called there; nobody else may be called so.
            poller: reads what the hub says.
            owner: does what it says, in the poller's thread.
            gone: called there when the hub has ended.

        Raises:
            HubError: there is one, and it does not answer, or refuses this process.
        """
        sock = rendezvous.connect(namespace, _HANDSHAKE)
        if sock is None:
            return None
        try:
            found = _shake_hands(sock, settings, namespace, member)
            if found is None:
                sock.close()
                return None
            sock.setblocking(False)
            client = cls(namespace, settings, poller, owner, gone, sock, *found, member)
        except BaseException:
            sock.close()
            raise
        poller.call(lambda: poller.register(sock, client._ready))
        return client

    # As `hub.Shared`

    @property
    def outlet(self) -> Client:
        """See `hub.Shared`."""
        return self

    def head(self) -> int:
        """See `hub.Shared`."""
        return self._head.get()

    def publish(self, name: str, patches: tuple[Patch, ...]) -> int:
        """See `hub.Shared`.

        Raises:
            HubError: as of `Calls.call`.
            PatchError: it is too much for one message.
        """
        offset: int = self._publish("publish", name, patches)
        return offset

    def viewers(self, name: str) -> int:
        """See `hub.Shared`."""
        count: int = self._calls.call("viewers", name=name)
        return count

    def at_end(self, names: Sequence[str], at: int) -> bool:
        """See `hub.Shared`."""
        return bool(self._calls.call("at end", names=list(names), at=at))

    def answer(
        self, names: Sequence[str], at: int | None, *, rendered: bool, painted: Collection[str] = ()
    ) -> Sequence[Step]:
        """See `hub.Shared`."""
        said = {"names": list(names), "at": at, "rendered": rendered, "painted": list(painted)}
        return steps(self._calls.call("answer", **said))

    def present(self, name: str) -> Present:
        """See `hub.Shared`."""
        return present(self._calls.call("present", name=name))

    def lacks(self, names: Sequence[str], position: str, foreign: bool) -> list[str]:
        """See `hub.Shared`."""
        found: list[str] = self._calls.call("lacks", names=list(names), position=position, foreign=foreign)
        return found

    def restore(self, name: str, at: int, patches: tuple[Patch, ...]) -> bool:
        """See `hub.Shared`.

        Raises:
            HubError: as of `Calls.call`.
            PatchError: as of `Log.restore`; or it is too much for one message.
        """
        try:
            restored: bool | str = self._calls.call("restore", name=name, at=at, base=entry(patches))
        except FrameError as error:
            raise PatchError(f"the snapshot of {name!r} is too much: {error}") from error
        if isinstance(restored, str):
            raise PatchError(restored)
        return restored

    def adopt(self, sock: socket.socket, follow: Follow) -> None:
        """See `hub.Shared`; the socket is closed here when the hub has been sent it.

        Raises:
            HubError: it could not be sent; then it is the caller's as before.
        """
        self._say({"say": "adopt", "follow": of_follow(follow)}, sock.fileno())
        sock.close()

    def restart(self, name: str) -> None:
        """See `hub.Shared`."""
        self._calls.call("restart", name=name)

    def revoke(self, names: Sequence[str], owner: str | None) -> None:
        """See `hub.Shared`."""
        self._calls.call("revoke", names=list(names), owner=owner)

    def stats(self) -> dict[str, Any]:
        """See `hub.Shared`."""
        found: dict[str, Any] = self._calls.call("stats")
        return found

    # What else a process of a namespace says

    def offer(self, loops: Sequence[tuple[str, float]]) -> None:
        """Offers to run loops, each with how long it goes on after its last viewer."""
        if loops:
            self._say({"say": "offer", "loops": loops})

    def report(self, viewers: int, loops: int) -> None:
        """Says how many viewers and loops this process has of its own."""
        self._say({"say": "report", "viewers": viewers, "loops": loops}, patience=_HURRY)

    def withdraw(self) -> None:
        """Gives back all leases, and offers nothing any more."""
        self._say({"say": "withdraw"})

    def publish_run(self, name: str, number: int, count: int, patches: tuple[Patch, ...]) -> int | None:
        """See `leases.Leases.publish_run`."""
        offset: int | None = self._publish("publish run", name, patches, lease=number, count=count)
        return offset

    def _publish(self, what: str, name: str, patches: tuple[Patch, ...], **said: Any) -> Any:
        try:
            return self._calls.call(what, name=name, entry=entry(patches), **said)
        except FrameError as error:
            raise PatchError(f"there is too much to publish to {name!r}: {error}") from error

    def give_back(self, name: str, number: int) -> None:
        """See `leases.Leases.give_back`."""
        self._say({"say": "give back", "loop": name, "lease": number})

    def finish(self, name: str, number: int, status: str, message: str) -> None:
        """See `leases.Leases.finish`."""
        self._calls.call("finish", name=name, lease=number, status=status, message=message)

    def hold(self, runner: object, name: str, patches: tuple[Patch, ...], whole: bool) -> int:
        """See `leases.Leases.hold`; the runner is this process in any case.

        Raises:
            HubError: as of `Calls.call`.
            PatchError: it is too much for one message.
        """
        number: int | None = self._publish("hold", name, patches, member=self.member, whole=whole)
        if number is None:
            raise self._calls.gone("it knows nothing of this process")
        return number

    def standing(self, name: str) -> tuple[str, str] | None:
        """See `leases.Leases.standing`."""
        found = self._calls.call("standing", name=name)
        return None if found is None else (str(found[0]), str(found[1]))

    def cancel(self, name: str) -> bool:
        """See `leases.Leases.cancel`."""
        return bool(self._calls.call("cancel", name=name))

    def ask(self, member: str, key: str, label: str, at: int) -> int | None:
        """How a private loop of another process stands: see `Owner.ask`.

        Raises:
            HubError: as of `Calls.call`; or that process does not answer.
        """
        now = time.monotonic()
        if self._silent.get(member, 0.0) > now:
            raise self._calls.silent()
        when, end = self._answers.get((member, key, label, at), (0.0, None))
        if now - when < SILENT:
            return end  # a page asks twice: whether it is over, and whether it goes on
        # By a connection of its own: the answer is another process's, and nobody is to wait behind it.
        calls = Calls(self.namespace, min(SILENT, self._timeout), self.epoch)
        try:
            said: int | None = calls.call("ask", member=member, key=key, label=label, at=at)
        except HubError:
            self._silent[member] = now + self._timeout
            raise
        finally:
            calls.end()
        if len(self._answers) >= _REMEMBERED:
            self._answers.clear()
        self._answers[member, key, label, at] = now, said
        return said

    def relay(self, sock: socket.socket, member: str, viewer: dict[str, Any]) -> None:
        """Passes the viewer of a private loop on to the process that runs it; as `adopt`."""
        self._say({"say": "relay", "member": member, "viewer": viewer}, sock.fileno())
        sock.close()

    def forward(self, member: str, key: str) -> None:
        """Tells the process that runs a private loop that its page will not come back."""
        self._say({"say": "forward", "member": member, "key": key})

    def close(self) -> None:
        """Ends the connections; for the hub, this process is gone."""
        self.is_gone = True
        if self._poller.closed:
            self._end()
        else:
            self._poller.call(self._end)

    def release(self) -> None:
        """Closes everything without a word: what a forked child does with its copy."""
        self.is_gone = True
        self._sock.close()
        self._calls.close()
        self._head.close()

    # Events

    def _say(self, message: Message, descriptor: int | None = None, patience: float | None = None) -> None:
        data = frame(message, int(descriptor is not None))
        size = len(data)
        along = rights(descriptor)
        patience = self._timeout if patience is None else patience
        deadline = time.monotonic() + patience
        if not self._sending.acquire(timeout=patience):
            raise self._calls.silent()
        try:
            while data:
                if self.is_gone:
                    raise self._calls.gone("the connection has ended")
                try:
                    data = data[self._sock.sendmsg([data], along) :]
                    along = []
                    continue
                except BlockingIOError:
                    writable = select.poll()
                    writable.register(self._sock, select.POLLOUT)
                    writable.poll(1000 * max(0.0, deadline - time.monotonic()))
                except OSError as error:
                    if error.errno != errno.ETOOMANYREFS:
                        raise self._calls.gone(error) from error
                    # More sockets are on their way than may be (RLIMIT_NOFILE): the hub takes them in meanwhile.
                    time.sleep(_SOON)
                if time.monotonic() > deadline:
                    if len(data) < size:
                        self.close()  # it was half said, so nothing that comes behind would be understood
                    raise self._calls.silent()
        finally:
            self._sending.release()

    def _ready(self, mask: int) -> None:
        try:
            data = receive(self._sock, self._descriptors)
            if not data:
                self._end()
                return
            for message, wants in self._frames.feed(data):
                descriptors = [self._descriptors.popleft() for _ in range(wants)]
                self._poller.safely(self._hear, message, descriptors)
                for descriptor in descriptors:  # what was not taken
                    os.close(descriptor)
        except BlockingIOError:
            return
        except OSError:
            self._end()
        except (FrameError, IndexError):
            logger.exception("afterload: the hub of namespace %r says what is not understood", self.namespace)
            self._end()

    def _hear(self, message: Message, descriptors: list[int]) -> None:
        if "error" in message:
            logger.error("afterload: the hub of namespace %r refuses: %s", self.namespace, message["error"])
            self.is_ending = True
            return
        match message["say"]:
            case "start":
                try:
                    self._owner.start(message["loop"], message["lease"], self)
                except Exception as error:
                    said = {"say": "refuse", "loop": message["loop"], "lease": message["lease"]}
                    self._say(said, patience=_HURRY)
                    if not isinstance(error, LoopError):
                        raise
            case "stop":
                self._owner.stop(message["loop"], message["lease"], self)
            case "cancel":
                self._owner.cancel(message["loop"], message["lease"])
            case "take":
                self._owner.take(socket.socket(fileno=descriptors.pop()), message["viewer"])
            case "ask":
                end = self._owner.ask(message["key"], message["label"], message["at"])
                self._say({"say": "answer", "number": message["number"], "value": end}, patience=_HURRY)
            case "leave":
                self._owner.leave(message["key"])
            case "revoke":
                self._owner.revoke(message["owner"])
            case "ending":
                self.is_ending = True
            case "record":
                logging.getLogger(message["name"]).log(message["level"], "%s", message["text"])

    def _end(self) -> None:
        self.is_gone = True
        if self._sock.fileno() < 0:
            return
        if not self._poller.closed:
            self._poller.unregister(self._sock)
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)  # who waits to say something wakes up
        with self._sending:
            self._sock.close()
        self._calls.end()
        self._head.close()
        for descriptor in self._descriptors:
            os.close(descriptor)
        self._descriptors.clear()
        self._when_gone(self)


def _shake_hands(
    sock: socket.socket, settings: Settings, namespace: str, member: str
) -> tuple[Message, SharedHead] | None:
    """What the hub says when a process comes in; None if it is about to end."""
    said = {
        "hello": "events",
        "member": member,
        "title": title(),
        "settings": asdict(settings),
        "levels": {name: logging.getLogger(name).getEffectiveLevel() for name in _RECORDS},
    }
    frames = Frames()
    descriptors: deque[int] = deque()
    try:
        sock.sendall(frame(said))
        while True:
            data = receive(sock, descriptors)
            if not data:
                return None
            for message, _ in frames.feed(data):
                if "error" in message:
                    raise HubError(
                        f"the hub of namespace {namespace!r} refuses this process: {message['error']}",
                        namespace=namespace,
                    )
                return message, SharedHead(descriptors.popleft())
    except FrameError as error:
        raise misunderstood(namespace, error) from error
    except ConnectionError:
        return None
    except IndexError:
        raise HubError(
            f"the hub of namespace {namespace!r} has not sent its head", namespace=namespace
        ) from None
    except OSError as error:
        raise HubError(
            f"the hub of namespace {namespace!r} does not answer: {error}", namespace=namespace
        ) from error
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
