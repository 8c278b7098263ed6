"""How pages connect: what a stream request, or a document, gets; as an adapter asks for it."""

from __future__ import annotations

import logging
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from .errors import HubError, LoopError
from .hub.client import Client
from .hub.leases import GONE
from .hub.messages import of_follow
from .hub.viewer import Follow, Wire
from .life import Life
from .log import PRIVATE
from .negotiate import Request
from .noscript import Shown
from .page import Page, page_of
from .position import Position
from .runs import Source
from .snapshot import SnapshotSource
from .wire import document, poll, sse, websocket
from .wire import text as plain

logger = logging.getLogger("afterload")

_WIRES: dict[str, Wire] = {"sse": sse, "websocket": websocket, "poll": poll}
# Begins the epoch of a position that says: this page knows that its loop is lost. No key of a loop begins so.
_LOST = "~lost-"


class NoRoom(Exception):  # noqa: N818 - no mistake of a program's, and never seen by one
    """There is no room for what a viewer asks for, and nothing it could be given instead."""


class Connecting(Life):
    """An app's pages as they connect, each with what its view said it follows (`afterload.page`)."""

    def follow(
        self,
        sources: tuple[Any, ...],
        into: str | None = None,
        restart: bool = True,
        away: str = "pause",
        owner: str = "",
    ) -> Page:
        """Checks what a view says its page follows.

        Raises:
            LoopError: it is nothing that can be followed.
        """
        return page_of(sources, into, restart, away, owner, self.settings.max_channels_per_viewer)

    def is_over(self, page: Page, position: Position | None) -> bool:
        """Whether a page at that position has all there will ever be (its stream gets a 204)."""
        if position is None or position.rendered:
            return False
        if page.source is not None:
            if position.epoch.startswith(_LOST):
                return not page.restart
            end = self._private_end(position, page.label)
            return end is not None and 0 < end <= position.offset
        if page.lost:
            return position.epoch.startswith(_LOST)
        shared = self.meeting.shared
        if position.epoch != shared.epoch:
            return False
        try:
            return shared.at_end(page.channels, position.offset)
        except HubError:
            return False  # the hub will say so, when there is one

    def leave(self, position: Position | None) -> None:
        """A page says that it will not come back: its own loop, if it has one, is ended."""
        if position is None:
            return
        self.loops.leave(position.epoch)
        elsewhere = self._elsewhere(position.epoch)
        if elsewhere is not None:
            try:
                elsewhere.forward(_member_of(position.epoch), position.epoch)
            except HubError:
                pass  # it ends when its viewer does not come back

    def _elsewhere(self, key: str) -> Client | None:
        """The hub that knows the process of a private loop, if that is not this one."""
        member = _member_of(key)
        shared = self.meeting.shared
        if not member or member == self.meeting.member or not isinstance(shared, Client) or shared.is_gone:
            return None
        return shared

    def _private_end(self, position: Position, label: str) -> int | None:
        """Where a private loop ends, of whichever process: 0 while it goes on, None if nobody has it for this page."""
        key = position.epoch
        elsewhere = self._elsewhere(key)
        if elsewhere is None:
            return self.loops.private_end(key, position.offset)
        try:
            return elsewhere.ask(_member_of(key), key, label, position.offset)
        except HubError:
            return None

    def connect(self, page: Page, request: Request) -> Follow:
        """Starts what the page follows, and says how its viewer is to be served."""
        wait = None
        if request.wire == "poll" and request.position is not None:
            most = self.settings.poll_wait
            wait = most if request.wait is None else min(request.wait, most)
        return replace(self._connect(page, request), wire=_WIRES[request.wire], wait=wait, owner=page.owner)

    def _connect(self, page: Page, request: Request) -> Follow:
        if page.source is not None:
            return self._connect_private(page, page.source, request)
        if page.lost:
            return self._lost(page, request.position, page.lost)
        if page.is_early:
            return self._again(page, request.position)
        self._give_snapshots(page.channels, request)
        return Follow(
            None,
            page.channels,
            position=str(request.position or "0"),
            foreign=request.bad_position,
            into=page.into,
            hold=self._ensure(page.channels),
        )

    def _give_snapshots(self, names: tuple[str, ...], request: Request) -> None:
        """Has the app say what the hub does not know, and this viewer has to be given."""
        names = tuple([name for name in names if name in self._sources])
        if not names:
            return
        position = str(request.position or "0")
        try:
            lacking = self.meeting.with_hub(lambda hub: hub.lacks(names, position, request.bad_position))
        except HubError:
            return  # who adopts the viewer will say so
        for name in lacking:
            self._give_snapshot(self._sources[name])

    def _give_snapshot(self, source: SnapshotSource) -> None:
        try:
            self.meeting.with_hub(lambda hub: source.give(hub, self.step_context, None, anyway=False))
        except HubError:
            return
        except Exception as error:  # the app's own: its pages fetch themselves, as without it
            if count := source.failures():
                logger.error(
                    "afterload: the snapshot of %r failed, and its pages fetch themselves (failures since the last "
                    "such record: %d)",
                    source.name,
                    count,
                    exc_info=error,
                )
            self.loops.tell(source.name, error)

    def connect_document(
        self, page: Page, head: Position, opening: bytes, ending: bytes, shown: Shown
    ) -> Follow:
        """The same for a page that is a document which goes on.

        Args:
            page: what it follows.
            head: the position at which its request came in.
            opening: what the document begins with.
            ending: what it ends with.
            shown: what is to be seen of it where scripts do not run.

        Raises:
            NoRoom: its own loop was not started.
        """
        if page.source is not None:
            with self._started(page.label):
                # A document cannot come back, so nothing is kept for it.
                run = self.loops.private(page.source, page.label, linger=0.0)
            follow = Follow(run.log, (PRIVATE,), at=0, shown=shown, begin=partial(self.loops.begin, run))
        else:
            hold = self._ensure(page.channels)
            follow = Follow(None, page.channels, position=str(head), hold=hold, shown=shown.shared())
            opening += self._first_part(page, head, shown)
            if not page.jobs and not any(name in self._definitions for name in page.channels):
                opening += shown.again()  # such a page has no end
        return replace(
            follow, into=page.into, wire=document, opening=opening, ending=ending, owner=page.owner
        )

    def _first_part(self, page: Page, head: Position, shown: Shown) -> bytes:
        """What a page that connects now shows without scripts."""
        shared = self.meeting.shared
        known = head.epoch == shared.epoch  # else the hub has ended meanwhile
        try:
            steps = shared.answer(
                page.channels,
                head.offset if known else None,
                rendered=known,
                painted=head.painted_of(page.channels) if known else (),
            )
        except HubError:
            return b""
        return self.hub.fanout.guarded(lambda: shown.part(steps, now=True))

    def adopt(self, sock: socket.socket, follow: Follow) -> None:
        """Gives a connected socket to the hub that is to serve it, for good.

        Raises:
            HubError: there is none that takes it; then it is the caller's as before.
        """
        if isinstance(follow, Elsewhere):
            follow.relay(sock)
        elif follow.log is None and self.is_elsewhere:
            self.meeting.with_hub(lambda shared: shared.adopt(sock, follow))
        else:
            self.hub.adopt(sock, follow)

    def connect_text(self, source: Iterator[str], label: str) -> Follow:
        """The same for a response whose text a generator writes.

        Raises:
            NoRoom: the generator was not started.
        """
        with self._started(label):
            run, opening = self.loops.text(source, label)
        begin = partial(self.loops.begin, run)
        return Follow(run.log, (PRIVATE,), at=0, wire=plain, opening=opening, begin=begin)

    @contextmanager
    def _started(self, label: str) -> Iterator[None]:
        try:
            yield
        except LoopError as error:
            self._full(label, error)
            raise NoRoom from error

    def _ensure(self, names: tuple[str, ...]) -> bool:
        """Starts those of the channels that a shared loop writes; whether all of them run.

        Where another process is the hub, it sees to that when the viewer is there.
        """
        if self.is_elsewhere:
            return True
        running = True
        for name in names:
            if name in self._definitions:
                try:
                    self.loops.ensure(name)
                except LoopError:
                    running = False  # said already
        return running

    def _connect_private(self, page: Page, source: Source, request: Request) -> Follow:
        position, channels = request.position, (PRIVATE,)
        if position is not None:
            log = self.loops.find_private(position.epoch, page.label, position.offset)
            if log is not None:
                page.close()
                return Follow(log, channels, at=position.offset, position=str(position), into=page.into)
            elsewhere = self._elsewhere(position.epoch)
            if elsewhere is not None and self._private_end(position, page.label) is not None:
                page.close()
                log = self.hub.new_log(position.epoch)
                return Elsewhere(
                    log, channels, at=position.offset, position=str(position), into=page.into, client=elsewhere,
                    label=page.label,
                )  # fmt: skip
        foreign = position is not None or request.bad_position
        if foreign and not page.restart:
            page.close()
            return self._lost(page, position)
        try:
            log = self.loops.start_private(source, page.label, page.away)
        except LoopError as error:
            page.close()
            self._full(page.label, error)
            return self._again(page, position)
        return Follow(
            log,
            channels,
            at=None if foreign else 0,
            foreign=foreign,
            position=f"{log.epoch}.0",
            into=page.into,
        )

    def _again(self, page: Page, position: Position | None) -> Follow:
        """The page is to come again in a moment."""
        # Its position is repeated: what the page shows is still of the loop that it says.
        log = self.hub.new_log(_unique())
        return Follow(log, (PRIVATE,), position=str(position or "0"), into=page.into, hold=False)

    def _lost(self, page: Page, position: Position | None, channel: str = PRIVATE) -> Follow:
        log = self.hub.new_log(_LOST + _unique())
        log.begin(channel)
        log.finish(channel, "lost", GONE)
        return Follow(log, (channel,), at=0, position=str(position or "0"), into=page.into)


@dataclass(frozen=True, slots=True)
class Elsewhere(Follow):
    """What the viewer of a private loop asks for that another process runs.

    Attributes:
        client: the hub that knows that process.
        label: the loop's name.
    """

    client: Client | None = None
    label: str = ""

    def relay(self, sock: socket.socket) -> None:
        """Passes the viewer on.

        Raises:
            HubError: it could not be.
        """
        assert self.client is not None
        assert self.log is not None
        said = {"key": self.log.epoch, "label": self.label, "at": self.at, "follow": of_follow(self)}
        self.client.relay(sock, _member_of(self.log.epoch), said)


def _member_of(key: str) -> str:
    """The process that runs the private loop of that key."""
    return key.partition("~")[2]


def _unique() -> str:
    return secrets.token_urlsafe(6)
