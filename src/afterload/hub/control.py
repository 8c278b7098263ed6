"""The door of a hub: other processes of the namespace come by it, hand over viewers, publish, and offer to run loops.

Runs in the hub's poller. A process comes by two kinds of connection, each beginning with a `hello`:

``events``  what it says needs no answer (viewers with their sockets, offers), and the hub tells it what to do (loops to
            start and stop, a private loop's viewer that came to another process, records for its log). It is the
            process's **lease on life**: when it ends, all that the process ran is free for others.
``calls``   each message has one answer, in order.

What one connection says wrong ends that connection, with one message that says why, and disturbs nobody else. Only
processes of the same user are listened to. docs/decisions/0004 says why there are two.
"""

from __future__ import annotations

import itertools
import logging
import math
import os
import socket
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ..errors import AfterloadError, PatchError
from ..log import wrong_name
from ..patch import Patch
from ..seldom import Seldom
from ..settings import checked
from . import rendezvous
from .connection import PAUSE, Connection
from .frames import VERSION, FrameError, Frames, Message, frame, title
from .leases import STOPPED
from .messages import REFUSED, follow, of_present, of_steps, patches

if TYPE_CHECKING:
    from .hub import Hub

logger = logging.getLogger("afterload.hub")

_REASONS_MOST = 100  # of processes that were sent away, each told of once a minute
_ASKED_MOST = 5.0  # seconds that a process has to answer for another
_YOUNG = 5.0  # seconds that the processes of a hub which has ended take to come to the next


class Control:
    """The door of a hub.

    Args:
        hub: the hub.
        listener: bound at the rendezvous (`rendezvous.bind`).
        namespace: its.
        kind: what the hub is, for people: "thread" or "process".

    Attributes:
        make_way: called when another hub is to have the place; says whether it may.
        emptied: called when the last process that has viewers or loops has gone.
        entered: called when a process comes.
    """

    def __init__(self, hub: Hub, listener: socket.socket, namespace: str, kind: str) -> None:
        self.hub = hub
        self.namespace = namespace
        self.kind = kind
        self.title = title() if kind == "thread" else f"afterload-hub {namespace}"
        self.make_way: Callable[[], bool] = lambda: False
        self.emptied: Callable[[], None] = lambda: None
        self.entered: Callable[[], None] = lambda: None
        self.connections: set[Connection] = set()
        self.members: dict[str, Connection] = {}
        self._listener = listener
        self._asked: dict[int, tuple[Connection, Connection, float]] = {}
        self._numbers = itertools.count(1)
        self._sent_away: dict[str, Seldom] = {}
        self._closed = False
        self._opened = hub.clock()
        hub.door = self
        if hub.closed:  # meanwhile: whichever of the two comes second sees the other
            self.close()
            return
        hub.shared_head()  # where it cannot be had, that is known now
        hub.poller.call(lambda: hub.poller.register(listener, self._accept))

    @property
    def is_young(self) -> bool:
        """See `hub.Door`."""
        return self.hub.clock() - self._opened < _YOUNG

    def say_that_it_ends(self) -> None:
        """Those who came need not wonder why their connections end."""
        for connection in list(self.members.values()):
            connection.say({"say": "ending"})

    def close(self) -> None:
        """Nobody comes by it any more, and those who came are told by the end of their connections."""
        self._closed = True
        self._listener.close()
        for connection in list(self.connections):
            connection.close()
        self.connections.clear()
        self.members.clear()

    def leave(self) -> None:
        """The same, where the hub goes on to serve its viewers for a moment: who comes now finds another hub."""
        self.hub.poller.call(self._leave)

    def _leave(self) -> None:
        if self._closed:
            return
        self.say_that_it_ends()
        self.hub.poller.unregister(self._listener)
        for connection in list(self.connections):
            self.end(connection, "")
        self.close()

    # Connections

    def _accept(self, mask: int) -> None:
        for _ in range(64):
            try:
                sock, _ = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                self._pause(str(error))
                return
            try:
                sock.setblocking(False)
                pid, uid = rendezvous.peer(sock)
            except OSError:
                sock.close()
                continue
            connection = Connection(self, sock, pid)
            self.connections.add(connection)
            self.hub.fanout.processes = len(self.connections)
            self.hub.poller.register(sock, connection.ready)
            if uid != os.geteuid():
                self.end(
                    connection,
                    f"the hub of namespace {self.namespace!r} is of user {os.geteuid()}, and this process is of "
                    f"user {uid}: run it as the same user",
                )

    def _pause(self, why: str) -> None:
        """No descriptor is left: who waits to be let in waits a moment, or the poller would do nothing else."""
        self.hub.count("paused")
        logger.warning("afterload: a process could not be let in: %s", why)
        self.hub.poller.unregister(self._listener)
        self.hub.poller.at(self.hub.clock() + PAUSE, self._resume)

    def _resume(self) -> None:
        if not self._closed:
            self.hub.poller.register(self._listener, self._accept)

    def end(self, connection: Connection, why: str) -> None:
        """Ends a connection; what is wrong is said to it, if anything is."""
        if connection.closed:
            return
        if why:
            self.hub.count("refused_processes")
            if len(self._sent_away) >= _REASONS_MOST:
                self._sent_away.clear()
            if count := self._sent_away.setdefault(why[:100], Seldom()).count():
                logger.warning(
                    "afterload: process %d is sent away (so many since the last such record: %d): %s",
                    connection.pid,
                    count,
                    why,
                )
            try:
                connection.sock.send(frame({"error": why, "version": VERSION}))
            except OSError:
                pass
        if not connection.paused:
            self.hub.poller.unregister(connection.sock)
        self.connections.discard(connection)
        self.hub.fanout.processes = len(self.connections)
        connection.close()
        if self.members.get(connection.member) is connection and connection.kind == "events":
            del self.members[connection.member]
            for number, (caller, member, _) in list(self._asked.items()):
                if member is connection:
                    del self._asked[number]
                    caller.say({"value": None})
            self.hub.leases.withdraw(connection)
            if not self.members:
                self.emptied()

    def received(self, connection: Connection, data: bytes, frames: Frames, descriptors: deque[int]) -> None:
        """Bytes have come by a connection."""
        try:
            for message, wants in frames.feed(data):
                descriptor = None
                if wants:
                    if wants > 1 or not descriptors:
                        raise FrameError("a message has not the descriptor that it speaks of")
                    descriptor = descriptors.popleft()
                try:
                    self._take(connection, message, descriptor)
                except BaseException:
                    if descriptor is not None:
                        os.close(descriptor)
                    raise
                if connection.closed:
                    return
        except AfterloadError as error:
            self.end(connection, str(error))
        except REFUSED as error:
            self.end(connection, f"a message is none that is known here: {error!r}")

    def _take(self, connection: Connection, message: Message, descriptor: int | None) -> None:
        """A message; its descriptor is taken by this, or something is raised."""
        if connection.kind == "calls":
            self._call(connection, message)
        elif not connection.kind:
            self._hello(connection, message)
        elif message["say"] in _WITH_SOCKET:
            if descriptor is None:
                raise FrameError("a viewer comes with its socket")
            _WITH_SOCKET[message["say"]](self, connection, message, descriptor)
            return
        else:
            _SAYS[message["say"]](self, connection, message)
        if descriptor is not None:
            raise FrameError("a descriptor came with a message that has no use for one")

    def _call(self, connection: Connection, message: Message) -> None:
        try:
            value = _CALLS[message["call"]](self, connection, message)
        except (*REFUSED, AfterloadError) as error:
            connection.say({"error": f"{type(error).__name__}: {error}"})
            return
        if value is not _LATER:
            connection.say({"value": value})

    def _hello(self, connection: Connection, message: Message) -> None:
        kind = message["hello"]
        if kind == "calls":
            connection.kind = kind
            if message["epoch"] not in ("", self.hub.epoch):
                connection.say({"gone": "another one is there now"})
                self.end(connection, "")
            return
        if kind != "events":
            raise FrameError(f"there are connections of events and of calls, not of {kind!r}")
        member = str(message["member"])
        if member in self.members:
            raise FrameError(f"a process of the name {member!r} is here already")
        if message["settings"]:
            self._settle(message["settings"])
        connection.title = str(message["title"])[:200]
        connection.levels = {str(name): int(level) for name, level in message["levels"].items()}
        try:
            head = os.dup(self.hub.shared_head().descriptor)
        except OSError as error:
            raise FrameError(f"there is no room for one more process: {error}") from error
        connection.member, connection.kind = member, kind
        self.members[member] = connection
        connection.say({"welcome": self.hub.epoch, "pid": os.getpid(), "kind": self.kind}, head)
        self.entered()

    def _settle(self, said: Any) -> None:
        """The hub's bounds and durations are those of the app; after a deploy, of the new one."""
        known = asdict(self.hub.settings)  # a later version may have more
        settings = self.hub.settings.updated({name: value for name, value in said.items() if name in known})
        if settings != self.hub.settings:
            self.hub.settle(settings)

    # What is said

    def _offer(self, connection: Connection, message: Message) -> None:
        for name, linger in message["loops"]:
            if wrong := wrong_name(name):
                raise FrameError(wrong)
            self.hub.leases.offer(connection, name, checked("linger", linger, float))

    def _refuse(self, connection: Connection, message: Message) -> None:
        self.hub.leases.refuse(str(message["loop"]), int(message["lease"]))

    def _give_back(self, connection: Connection, message: Message) -> None:
        self.hub.leases.give_back(str(message["loop"]), int(message["lease"]))

    def _report(self, connection: Connection, message: Message) -> None:
        connection.viewers, connection.loops = int(message["viewers"]), int(message["loops"])

    def _withdraw(self, connection: Connection, message: Message) -> None:
        self.hub.leases.withdraw(connection, STOPPED)

    def _adopt(self, connection: Connection, message: Message, descriptor: int) -> None:
        wanted = follow(message["follow"], self.hub.clock, self.hub.settings.max_channels_per_viewer)
        try:
            sock = socket.socket(fileno=descriptor)
        except OSError as error:
            raise FrameError(f"what came as a viewer's socket is none: {error}") from error
        self.hub.poller.safely(self.hub.fanout.adopt, sock, wanted)

    def _relay(self, connection: Connection, message: Message, descriptor: int) -> None:
        """The viewer of a private loop that another process runs."""
        member = self.members.get(str(message["member"]))
        if member is None:
            os.close(descriptor)  # gone meanwhile: its page comes again
            return
        member.say({"say": "take", "viewer": message["viewer"]}, descriptor)

    def _forward(self, connection: Connection, message: Message) -> None:
        """The page of a private loop that another process runs says that it will not come back."""
        member = self.members.get(str(message["member"]))
        if member is not None:
            member.say({"say": "leave", "key": str(message["key"])})

    def _answered(self, connection: Connection, message: Message) -> None:
        asked = self._asked.pop(int(message["number"]), None)
        if asked is not None:
            asked[0].say({"value": message["value"]})

    # What is called

    def _publish(self, connection: Connection, message: Message) -> int:
        name = message["name"]
        if wrong := wrong_name(name):
            raise PatchError(wrong, value=name)
        self._in_time(message)
        return self.hub.publish(name, patches(message["entry"]))

    def _in_time(self, message: Message) -> None:
        if self.hub.clock() > float(message.get("until", math.inf)):
            raise ValueError("it comes too late: who has published it was told that there is no answer")

    def _publish_run(self, connection: Connection, message: Message) -> int | None:
        number, count = int(message["lease"]), int(message["count"])
        return self.hub.leases.publish_run(str(message["name"]), number, count, patches(message["entry"]))

    def _finish(self, connection: Connection, message: Message) -> None:
        status = message["status"]
        if status not in ("done", "failed", "cancelled", "lost"):
            raise ValueError(f"a loop ends done, failed, cancelled or lost, not {status!r}")
        self.hub.leases.finish(message["name"], int(message["lease"]), status, str(message["message"]))

    def _hold(self, connection: Connection, message: Message) -> int | None:
        """A process runs a job; None if it is not here, or not any more."""
        name = message["name"]
        if wrong := wrong_name(name):
            raise PatchError(wrong, value=name)
        self._in_time(message)
        member = self.members.get(str(message["member"]))
        if member is None:
            return None
        entry = patches(message["entry"]) if message["entry"] else ()
        return self.hub.leases.hold(member, name, entry, bool(message["whole"]))

    def _standing(self, connection: Connection, message: Message) -> tuple[str, str] | None:
        return self.hub.leases.standing(str(message["name"]))

    def _cancel(self, connection: Connection, message: Message) -> bool:
        return self.hub.leases.cancel(str(message["name"]))

    def _restart(self, connection: Connection, message: Message) -> None:
        self.hub.restart(str(message["name"]))

    def _revoke(self, connection: Connection, message: Message) -> None:
        owner = message["owner"]
        self.hub.revoke([str(name) for name in message["names"]], None if owner is None else str(owner))

    def revoke(self, names: Sequence[str], owner: str | None) -> None:
        """See `hub.Door`: viewers that other processes hold follow private loops."""
        if owner is not None:
            for member in list(self.members.values()):
                member.say({"say": "revoke", "owner": owner})

    def _viewers(self, connection: Connection, message: Message) -> int:
        return self.hub.viewers(str(message["name"]))

    def _at_end(self, connection: Connection, message: Message) -> bool:
        return self.hub.at_end([str(name) for name in message["names"]], int(message["at"]))

    def _answer(self, connection: Connection, message: Message) -> list[Any]:
        names = [str(name) for name in message["names"]]
        at = None if message["at"] is None else int(message["at"])
        painted = [str(name) for name in message["painted"]]
        return of_steps(self.hub.answer(names, at, rendered=bool(message["rendered"]), painted=painted))

    def _present(self, connection: Connection, message: Message) -> list[Any]:
        return of_present(self.hub.present(str(message["name"])))

    def _lacks(self, connection: Connection, message: Message) -> list[str]:
        names = [str(name) for name in message["names"]]
        return self.hub.lacks(names, str(message["position"]), bool(message["foreign"]))

    def _restore(self, connection: Connection, message: Message) -> bool | str:
        name = str(message["name"])
        if wrong := wrong_name(name):
            raise PatchError(wrong, value=name)
        base = tuple([Patch(*patch) for patch in message["base"]])
        try:
            return self.hub.restore(name, int(message["at"]), base)
        except PatchError as error:
            return str(error)  # for the app

    def _ask(self, connection: Connection, message: Message) -> object:
        """How a private loop of another process stands; it says so itself, and who asks waits for it."""
        member = self.members.get(str(message["member"]))
        if member is None:
            return None
        number = next(self._numbers)
        now = self.hub.clock()
        self._asked = {n: asked for n, asked in self._asked.items() if now - asked[2] < _ASKED_MOST}
        self._asked[number] = connection, member, now
        asked = {"key": str(message["key"]), "label": str(message["label"]), "at": int(message["at"])}
        member.say({"say": "ask", "number": number, **asked})
        return _LATER

    def _make_way(self, connection: Connection, message: Message) -> bool:
        """Another hub is to have the place; whether it may."""
        return self.make_way()

    def _epoch(self, connection: Connection, message: Message) -> str:
        return self.hub.epoch

    def _stats(self, connection: Connection, message: Message) -> dict[str, Any]:
        return self.hub.stats()

    def stats(self) -> dict[str, Any]:
        """See `hub.Door`."""
        now = self.hub.clock()
        return {
            "namespace": self.namespace,
            "hub": self.kind,
            "title": self.title,
            "processes": [
                {
                    "pid": c.pid,
                    "title": c.title,
                    "seconds": now - c.since,
                    "viewers": c.viewers,
                    "loops": c.loops,
                }
                for c in sorted(self.members.values(), key=lambda c: c.since)
            ],
        }


_LATER = object()
_SAYS: dict[str, Callable[[Control, Connection, Message], None]] = {
    "offer": Control._offer,
    "refuse": Control._refuse,
    "give back": Control._give_back,
    "report": Control._report,
    "withdraw": Control._withdraw,
    "forward": Control._forward,
    "answer": Control._answered,
}
_WITH_SOCKET: dict[str, Callable[[Control, Connection, Message, int], None]] = {
    "adopt": Control._adopt,
    "relay": Control._relay,
}
_CALLS: dict[str, Callable[[Control, Connection, Message], Any]] = {
    "publish": Control._publish,
    "publish run": Control._publish_run,
    "finish": Control._finish,
    "hold": Control._hold,
    "standing": Control._standing,
    "cancel": Control._cancel,
    "restart": Control._restart,
    "revoke": Control._revoke,
    "viewers": Control._viewers,
    "at end": Control._at_end,
    "answer": Control._answer,
    "present": Control._present,
    "lacks": Control._lacks,
    "restore": Control._restore,
    "ask": Control._ask,
    "stats": Control._stats,
    "epoch": Control._epoch,
    "make way": Control._make_way,
}
