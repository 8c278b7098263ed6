"""A held connection, and the groups that share their bytes.

A viewer that has taken everything is nothing but an entry in its group's `current`: the group's cursor is its
position. Only one that could not take a whole block owns anything: a view on the unsent rest of that shared
block, and the position it will be at when the rest is sent.
"""

from __future__ import annotations

import math
import socket
from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from typing import Protocol

from ..blocks import Hello
from ..log import Log, Step
from ..noscript import Shown
from ..position import Position
from ..wire import sse
from ..wire.websocket import Inbound

_UNSENT = 16_384  # bytes that the system may keep back for a viewer that is slow


class Wire(Hashable, Protocol):
    """How blocks are written (`afterload.wire`). Viewers of equal wires share the bytes.

    Attributes:
        NAME: the same in all processes.
        HEARTBEAT: seconds between two `ping` at most, whatever the settings say.
        LASTS: a page that is sent away comes back, and goes on where it was.
        ONCE: a viewer is answered once, when there is something new.
        ENDING: what it gets after the end of its channels.
    """

    @property
    def NAME(self) -> str: ...  # noqa: D102, N802
    @property
    def HEARTBEAT(self) -> float: ...  # noqa: D102, N802
    @property
    def LASTS(self) -> bool: ...  # noqa: D102, N802
    @property
    def ONCE(self) -> bool: ...  # noqa: D102, N802
    @property
    def ENDING(self) -> bytes: ...  # noqa: D102, N802

    def hello(self, hello: Hello) -> bytes:
        """The first block."""

    def step(self, step: Step, epoch: str) -> bytes:
        """A step of a log's answer."""

    def ping(self, id: str) -> bytes:
        """A heartbeat, with the position of the head."""

    def bye(self, retry: int) -> bytes:
        """The last block before the server goes away, or of a short stream."""


@dataclass(frozen=True, slots=True)
class Follow:
    """What a connecting viewer asks for.

    Attributes:
        log: the log its channels stand in; None for the shared one, of whichever hub it comes to.
        names: the channels.
        at: its position there, or None. For the shared log it is found by the hub, as what `rendered` says.
        rendered: its page was served at that position and has had nothing since.
        painted: the channels that the page, as it was served there, shows everything of.
        foreign: it sent a position, but of another log.
        position: what it sent, repeated by `hello` ("0" if nothing).
        into: the page's target for plain strings.
        hold: False for a short stream: what is new, then `bye`.
        head: bytes sent first (the HTTP response head).
        address: the client's address, for the log and the limits.
        wire: how blocks are written.
        opening: bytes sent after the head, before the first block.
        ending: bytes sent after the last block, once every channel is over.
        shown: what its page shows where scripts do not run; None if that is no matter.
        begin: to be called when the first bytes are on their way; starts what is not to hold them up.
        sent: bytes of the head and the opening that are on their way already, and not there any more.
        wait: seconds until a viewer that is answered once is told that there is nothing new; None if it is answered at
            once, with `hello` if there is nothing else.
        owner: whom the page belongs to, for `revoke`.
        asked: clock time at which its request came, before its view had its say. Who was revoked since is sent away.
    """

    log: Log | None
    names: tuple[str, ...]
    at: int | None = None
    rendered: bool = False
    foreign: bool = False
    position: str = "0"
    into: str | None = None
    hold: bool = True
    head: bytes = b""
    address: str = ""
    wire: Wire = sse
    opening: bytes = b""
    ending: bytes = b""
    shown: Shown | None = None
    begin: Callable[[], None] | None = None
    sent: int = 0
    wait: float | None = None
    owner: str = ""
    asked: float = math.inf
    painted: frozenset[str] = frozenset()

    @property
    def key(self) -> GroupKey:
        """That of its group."""
        assert self.log is not None
        return self.log.epoch, self.names, self.wire, self.shown

    def within(self, shared: Log) -> Follow:
        """The same, with its place in the shared log, if that is the one it follows."""
        if self.log is not None:
            return self
        position = Position.parse(self.position)
        known = position is not None and position.epoch == shared.epoch
        return replace(
            self,
            log=shared,
            at=position.offset if known and position else None,
            rendered=known and position is not None and position.rendered,
            painted=position.painted_of(self.names) if known and position else frozenset(),
            # a document cannot fetch itself, and shows what it was served with
            foreign=self.foreign or (position is not None and not known and self.shown is None),
        )


class Viewer:
    """One held connection.

    Attributes:
        rest: what of a block is not sent yet, or None.
        at: its position once `rest` is sent; meaningful only while it is not in its group's `current`.
        base: the group's byte count when it became current.
        sent: bytes it got otherwise.
        stalled: clock time since when it has taken nothing, while there is a rest.
        closing: why it gets no more than its rest, and `ending`; "" while it goes on.
        ending: what it gets after the end of its channels.
        unsent: what an answer begins with that waits for news: the response's head, and `hello`, and until which clock
            time it does; else None.
        inbound: what it says on a WebSocket, when it has said something.
        owner: see `Follow.owner`.
    """

    __slots__ = (
        "address",
        "at",
        "base",
        "closing",
        "ending",
        "fd",
        "group",
        "inbound",
        "owner",
        "rest",
        "sent",
        "since",
        "sock",
        "stalled",
        "unsent",
    )

    def __init__(self, sock: socket.socket, group: Group, follow: Follow, now: float) -> None:
        self.sock = sock
        self.fd = sock.fileno()
        self.group = group
        self.address = follow.address
        self.owner = follow.owner
        self.since = now
        self.rest: memoryview | None = None
        self.at = 0
        self.base = 0
        self.sent = follow.sent
        self.stalled = 0.0
        self.closing = ""
        self.ending = follow.ending + follow.wire.ENDING
        self.unsent: tuple[bytes, bytes, float] | None = None
        self.inbound: Inbound | None = None

    def __call__(self, mask: int) -> None:
        """Its socket is ready. It is its own handler: a closure for each viewer would be a third of its memory."""
        self.group.ready(self, mask)


GroupKey = tuple[str, tuple[str, ...], Wire, Shown | None]


class Group:
    """The viewers that follow the same channels on the same wire, and so are sent the same bytes.

    Attributes:
        current: viewers that have everything up to `cursor`, by fd.
        behind: viewers with an unsent rest.
        waiting: viewers without a rest that join at the next flush, as they are at another position.
        dirty: there are entries after `cursor`, and a flush is on its way.
        sending: a flush is under way.
        next_flush: not before this clock time.
        progress: told how far the viewer has got (the group of a private loop).
        ready: told that a viewer's socket is.
        shown: see `Follow.shown`.
    """

    __slots__ = (
        "behind", "current", "cursor", "dirty", "last_sent", "log", "names", "next_flush", "progress", "ready",
        "sending", "sent", "shown", "waiting", "wire",
    )  # fmt: skip

    def __init__(
        self,
        log: Log,
        names: tuple[str, ...],
        wire: Wire,
        shown: Shown | None,
        progress: Callable[[int], None] | None,
        ready: Callable[[Viewer, int], None],
    ) -> None:
        self.log = log
        self.names = names
        self.wire = wire
        self.shown = shown
        self.current: dict[int, Viewer] = {}
        self.behind: set[Viewer] = set()
        self.waiting: set[Viewer] = set()
        self.cursor = log.head
        self.dirty = False
        self.sending = False
        self.next_flush = 0.0
        self.last_sent = 0.0
        self.sent = 0
        self.progress = progress
        self.ready = ready

    @property
    def key(self) -> GroupKey:
        """What tells it from other groups."""
        return self.log.epoch, self.names, self.wire, self.shown

    def viewers(self) -> list[Viewer]:
        """All of them, wherever they stand."""
        return [*self.current.values(), *self.behind, *self.waiting]

    def __len__(self) -> int:
        return len(self.current) + len(self.behind) + len(self.waiting)


def tune(sock: socket.socket, patience: float) -> None:
    """Options of a viewer's connection: small blocks go at once, a vanished peer is noticed, and little waits."""
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    expect(sock, patience)
    if hasattr(socket, "TCP_NOTSENT_LOWAT"):
        # What waits in the system to be sent grows old there, megabytes of it. What waits here is merged.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT)


def expect(sock: socket.socket, seconds: float) -> None:
    """Has the system break a connection whose peer acknowledges nothing for so long; 0: it is seen to otherwise.

    A peer that vanished without a FIN does not acknowledge the heartbeat. One that is there and does not read
    acknowledges nothing new either, once its buffer is full: how long that may go on is another matter.
    """
    if sock.family in (socket.AF_INET, socket.AF_INET6) and hasattr(socket, "TCP_USER_TIMEOUT"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(seconds * 1000))
