"""A hub with its door open, in this process, and those who come by it: whole clients, and plain connections."""

from __future__ import annotations

import gc
import os
import secrets
import socket
import threading
from collections import deque
from collections.abc import Callable
from functools import cached_property
from typing import Any

from afterload.hub import rendezvous
from afterload.hub.calls import Calls
from afterload.hub.client import Client
from afterload.hub.control import Control
from afterload.hub.frames import VERSION, Frames, Message, frame, receive, rights
from afterload.hub.thread import HubThread
from afterload.settings import Settings
from tests.servers.process import wait_until

PATIENCE = 20.0


def descriptors() -> int:
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


class Owner:
    """A process as its hub sees it, that notes what it is told to do."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []
        self.taken: list[tuple[socket.socket, dict[str, Any]]] = []
        self.ends: dict[str, int | None] = {}
        self.refuses: type[Exception] | None = None

    def start(self, name: str, number: int, outlet: Client) -> None:
        if self.refuses:
            raise self.refuses("no room")
        self.told.append(("start", name, number))

    def stop(self, name: str, number: int, outlet: Client) -> None:
        self.told.append(("stop", name, number))

    def take(self, sock: socket.socket, viewer: dict[str, Any]) -> None:
        self.taken.append((sock, viewer))

    def ask(self, key: str, label: str, at: int) -> int | None:
        return self.ends.get(key)

    def leave(self, key: str) -> None:
        self.told.append(("leave", key))


class Plain:
    """A connection to the hub by which anything may be said."""

    def __init__(self, namespace: str) -> None:
        found = rendezvous.connect(namespace, PATIENCE)
        assert found is not None
        self.sock = found
        self._frames = Frames()
        self._descriptors: deque[int] = deque()
        self._heard: deque[Message] = deque()

    def say(self, message: Message, descriptor: int | None = None) -> None:
        self.raw(frame(message, int(descriptor is not None)), descriptor)

    def raw(self, data: bytes, descriptor: int | None = None) -> None:
        self.sock.sendmsg([data], rights(descriptor))

    def hear(self) -> Message | None:
        """What the hub says next; None at the end of the connection."""
        while not self._heard:
            try:
                data = receive(self.sock, self._descriptors)
            except ConnectionError:  # with something of ours unread
                return None
            if not data:
                return None
            self._heard.extend(message for message, _ in self._frames.feed(data))
        return self._heard.popleft()

    def sent_away(self) -> str:
        """Why it was: the last that the hub says."""
        message = self.hear()
        assert message is not None, "the hub has ended it without a word"
        assert message["version"] == VERSION
        assert self.hear() is None
        return str(message["error"])

    def close(self) -> None:
        self.sock.close()
        while self._descriptors:
            os.close(self._descriptors.popleft())


def hello(member: str) -> Message:
    return {"hello": "events", "member": member, "title": "a test", "settings": {}, "levels": {}}


class Door:
    """A hub in a thread at a place of its own.

    Attributes:
        own: the hub of the process that comes, whose poller the clients use.
        gone: the clients that were told that the hub is gone.
    """

    def __init__(self, **settings: Any) -> None:
        self.namespace = f"test-{secrets.token_hex(8)}"
        self.settings = Settings(**settings)
        self.thread = HubThread(self.settings)
        self.hub = self.thread.hub
        self.own = HubThread(self.settings)
        self.gone: list[Client] = []
        self._opened: list[Client | Plain] = []
        listener = rendezvous.bind(self.namespace)
        assert listener is not None
        self.control = Control(self.hub, listener, self.namespace, "thread")

    def client(self, member: str = "", owner: Owner | None = None) -> Client:
        """A whole one."""
        found = Client.find(
            self.namespace,
            self.settings,
            member or secrets.token_hex(4),
            self.own.hub.poller,
            owner or Owner(),
            self.gone.append,
        )
        assert found is not None
        self._opened.append(found)
        return found

    @cached_property
    def well_behaved(self) -> Client:
        """One that is there all the time."""
        return self.client()

    def plain(self, kind: str = "") -> Plain:
        """One that says what a test has it say; as a process that has come in, where a kind is given."""
        made = Plain(self.namespace)
        self._opened.append(made)
        if kind == "events":
            made.say(hello(secrets.token_hex(4)))
            welcome = made.hear()
            assert welcome is not None
            assert welcome["welcome"] == self.hub.epoch
        elif kind == "calls":
            made.say({"hello": "calls", "epoch": self.hub.epoch})
        return made

    def in_poller(self, action: Callable[[], Any]) -> Any:
        """What it returns there."""
        found: list[Any] = []
        self.hub.poller.call(lambda: found.append(action()))
        wait_until(lambda: found, PATIENCE, "the poller")
        return found[0]

    def busy(self) -> Callable[[], None]:
        """Keeps the hub busy; what is returned has it go on."""
        begun, end = threading.Event(), threading.Event()
        self.hub.poller.call(lambda: (begun.set(), end.wait(PATIENCE))[0])
        assert begun.wait(PATIENCE)
        return end.set

    def settled(self) -> None:
        """What was said is heard, and what was ended is closed."""
        for thread in (self.thread, self.own):
            for _ in range(2):
                done: list[bool] = []
                thread.hub.poller.call(lambda done=done: done.append(True))  # type: ignore[misc]
                wait_until(lambda done=done: done, PATIENCE, "a turn")  # type: ignore[misc]

    def close(self) -> None:
        for opened in self._opened:
            opened.close()
        self.own.close()
        self.thread.close()
        for opened in self._opened:
            if isinstance(opened, Client):
                opened.release()
        self._opened.clear()
        self.gone.clear()


def is_taken(namespace: str) -> bool:
    return (os.geteuid(), namespace) in rendezvous.present()


def status(namespace: str) -> Any:
    """What the hub says of itself to anybody who asks."""
    calls = Calls(namespace, 10)
    try:
        return calls.call("stats")
    finally:
        calls.close()
