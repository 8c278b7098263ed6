"""The extension without a framework: channels, loops, and what a stream request gets.

`Live` owns a process's hub and loops, and knows which hub has the shared channels (`afterload.hub.meeting`). An adapter
(`afterload.flask`) has `follow` check what a view's page follows, turns the request into a `negotiate.Request`, and for
a stream asks `is_over`, and then `connect`.
"""

from __future__ import annotations

import atexit
import logging
import os
import secrets
import socket
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, overload

from . import handover
from .errors import HubError, LoopError, PatchError
from .hub.client import Client
from .hub.hub import Hub
from .hub.meeting import Meeting, new_member
from .hub.thread import HubThread
from .hub.viewer import Follow
from .log import PRIVATE, wrong_name
from .loops import Loops, SharedLoop
from .negotiate import Request
from .noscript import Shown
from .page import Page, page_of
from .patch import patches
from .position import Position
from .runs import Source, Stopped, sleep
from .seldom import Seldom
from .settings import Settings, checked
from .values import short
from .wire import document
from .wire import text as plain

logger = logging.getLogger("afterload")

_LOADED = 60.0  # seconds that a forked process may take to become a worker
_LOOKS = 0.05  # seconds between two looks at whether the server has loaded the app
_LOOK = 0.5  # seconds between two looks at whether the server is ending
# Begins the epoch of a position that says: this page knows that its loop is lost. No key of a loop begins so.
_LOST = "~lost-"


class NoRoom(Exception):  # noqa: N818 - no mistake of a program's, and never seen by one
    """There is no room for what a viewer asks for, and nothing it could be given instead."""


class Live:
    """Channels, loops and viewers of one app; see `afterload.flask.Live` for the Flask extension.

    Args:
        settings: see `afterload.settings.Settings`.
    """

    sleep = staticmethod(sleep)

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or Settings()
        self._definitions: dict[str, SharedLoop] = {}
        self._handlers: list[Callable[[str, BaseException], None]] = []
        self._turned_away = Seldom()
        self.sent_away = Seldom()
        self._lock = threading.Lock()
        self._thread: HubThread | None = None
        self._loops: Loops | None = None
        self._meeting: Meeting | None = None
        self._closing = False
        self._looked_after: HubThread | None = None
        self._finalizer: weakref.finalize[..., Any] | None = None
        _lives.add(self)

    @property
    def hub(self) -> Hub:
        """This process's hub; made when first needed, and again in a forked child and after `close`."""
        return self._alive().hub

    @property
    def loops(self) -> Loops:
        """This process's loops; made together with `hub`."""
        self._alive()
        assert self._loops is not None
        return self._loops

    @property
    def meeting(self) -> Meeting:
        """Where the shared channels are; made together with `hub`."""
        self._alive()
        assert self._meeting is not None
        return self._meeting

    @property
    def is_elsewhere(self) -> bool:
        """Whether the shared channels are another process's."""
        return self.meeting.is_elsewhere

    @property
    def namespace(self) -> str:
        """Whose channels these are; "" for nobody's but this process's."""
        return self.settings.namespace

    def _alive(self) -> HubThread:
        thread = self._thread
        if thread is None or not (thread.usable or self._closing):
            with self._lock:
                thread = self._thread
                if thread is None or not thread.usable:
                    thread = self._begin()
        return thread

    def _begin(self) -> HubThread:
        thread = HubThread(self.settings)
        # Weak: a running hub must not keep an app that is dropped, as by tests that make one each.
        step_context = weakref.WeakMethod(self.step_context)
        member = new_member()
        refused = weakref.WeakMethod(self._refused)
        loops = Loops(
            thread.hub,
            self.settings,
            lambda: _called(step_context),
            self._definitions,
            member,
            lambda name, error: _tell(refused, name, error),
        )
        loops.handlers = self._handlers
        for loop in self._definitions.values():
            loops.define(loop)
        meeting = Meeting(
            thread, self.settings, self.namespace, member, loops, lambda: bool(handover.stopping())
        )
        several = handover.worker()
        if several is not None:
            meeting.expect(several)
        if self._finalizer is not None:
            self._finalizer.detach()  # that life is over, and not to be remembered
        self._finalizer = weakref.finalize(self, _dropped, thread, loops, meeting)
        self._finalizer.atexit = False  # at exit the thread sees to itself
        # In this order: who sees the new hub must not be given the loops of the one before.
        self._loops = loops
        self._meeting = meeting
        self._thread = thread
        return thread

    def serve(self, several: bool) -> None:
        """This process answers requests, so it finds its hub; called for each request, before anything else.

        Args:
            several: the server runs several processes, or will end this one before long.
        """
        meeting = self.meeting
        if not meeting.is_serving:
            meeting.serve(several)
            self._look_after()

    def attend(self) -> None:
        """Finds the hub before the first request, where this process is known to be one that will answer some.

        Pages that are open send no requests when a server is started anew, and their loops are to run.
        """
        if handover.worker() is not None or handover.is_forking():
            threading.Thread(
                target=_attend, args=(weakref.ref(self),), name="afterload-attend", daemon=True
            ).start()

    def _is_ready(self) -> bool:
        """Whether there is an app."""
        return True

    def _look_after(self) -> None:
        """Looks, from now on, whether the server ends: what it would take along is said good-bye to in time.

        A gunicorn worker that was told to end answers what it has begun, for up to `graceful_timeout`. The next
        one works already, and what is published there would not reach viewers that stay here.
        """
        if handover.stopping() is None or self._looked_after is self._thread:
            return
        self._looked_after = self._thread
        hub, meeting = self.hub, self.meeting

        def look() -> None:
            if handover.stopping():
                hub.say_bye()
                # not here: it may have to wait, and the poller must not
                threading.Thread(target=meeting.leave, name="afterload-leave", daemon=True).start()
            else:
                hub.later(_LOOK, look)

        hub.later(_LOOK, look)

    def step_context(self) -> AbstractContextManager[Any]:
        """The context each step of a loop runs in; an adapter gives its own."""
        return nullcontext()

    def publish(self, channel: str | SharedLoop, *things: Any) -> str:
        """Publishes patches to a channel: every page that follows it shows them, in place.

        May be called from any thread, inside or outside a request. All that one call publishes is applied
        together.

        Args:
            channel: the channel's name, 1 to 200 characters; or a ``@live.loop``, for the channel it writes.
            *things: patches, dicts of target to new text, plain strings, or lists of these.

        Where another process is the hub, it returns when that one has the entry. A process that answers no
        requests (a cron job, a worker) reaches the pages of the app that runs. Where none has run since the process
        began, there is nobody to be told; where one has, and is gone, that is a HubError.

        Returns:
            The position of the new entry.

        Raises:
            PatchError: something is no patch (the error names it), there is nothing to publish, or the
                channel's name is none. Then nothing of it is published.
            HubError: the hub has not answered for `publish_timeout` seconds, or refuses this process.

        Example:
            >>> live = Live()
            >>> position = live.publish("orders", {"#count": 12})
        """
        name = channel.name if isinstance(channel, SharedLoop) else channel
        if wrong := wrong_name(name):
            raise PatchError(wrong, value=channel)
        entry = patches(*things)
        if not entry:
            raise PatchError(f"there is nothing to publish to {name!r}")
        return str(Position(*self.meeting.publish(name, entry)))

    @overload
    def loop(self, function: Callable[[], Source]) -> SharedLoop: ...
    @overload
    def loop(
        self, *, name: str | None = None, linger: float | None = None
    ) -> Callable[[Callable[[], Source]], SharedLoop]: ...

    def loop(
        self,
        function: Callable[[], Source] | None = None,
        *,
        name: str | None = None,
        linger: float | None = None,
    ) -> Any:
        """Makes a generator function a **shared loop**: it runs once for all its viewers.

        It starts with its first viewer and is stopped `linger` seconds after its last. It has no request; for
        what a loop may use see `afterload.flask.Live.page`.

        Args:
            function: a generator function or async generator function without arguments.
            name: of its channel; by default the function's.
            linger: seconds; by default the app's setting.

        Returns:
            The loop, for `page` to follow. Called, it is still the generator function.

        Raises:
            LoopError: it is no generator function, needs arguments, or the name is none or is taken.
            SettingError: linger is no number of seconds from 0 to 7 days.

        Example:
            >>> live = Live()
            >>> @live.loop(linger=5)
            ... def clock():
            ...     while True:
            ...         yield {"#time": time.strftime("%X")}
            ...         live.sleep(1)
        """
        if function is None:
            return lambda f: self._define(f, name, linger)
        return self._define(function, name, linger)

    def _define(self, function: Callable[[], Source], name: str | None, linger: float | None) -> SharedLoop:
        if name is None:
            name = getattr(function, "__name__", "")
        if wrong := wrong_name(name):
            raise LoopError(f"{short(function)} needs another name, @live.loop(name=...): {wrong}")
        if linger is not None:
            linger = checked("linger", linger, float)
        if name in self._definitions:
            raise LoopError(
                f"there is a shared loop {name!r} already: {self._definitions[name].function!r}; "
                "name this one: @live.loop(name=...)"
            )
        # What runs it must not keep this object, and whoever was given it must.
        loop = self._definitions[name] = SharedLoop(function, name, linger, weakref.proxy(self))
        if self._thread is not None and self._thread.usable:
            self.loops.define(loop)
            self.meeting.offer(*self.loops.offered()[-1])
        return SharedLoop(function, name, linger, self)

    def on_error(self, handler: Callable[[str, BaseException], None]) -> Callable[[str, BaseException], None]:
        """Registers a function that is told of every loop that failed: its name and the exception.

        It runs in the loop's thread, after the log record. What it raises is logged, and the other handlers
        are called all the same.

        Example:
            >>> live = Live()
            >>> @live.on_error
            ... def tell(loop, error):
            ...     print(f"{loop} failed: {error}")
        """
        self._handlers.append(handler)
        return handler

    def viewers(self, channel: str | SharedLoop) -> int:
        """How many pages follow a channel now.

        Raises:
            HubError: as of `publish`.
        """
        name = channel.name if isinstance(channel, SharedLoop) else channel
        return self.meeting.with_hub(lambda shared: shared.viewers(name))

    def stats(self) -> dict[str, Any]:
        """Numbers of the hub: viewers, channels, who runs which loop, and counters since its start.

        ``own`` has those of this process, where another one is the hub: its private loops' viewers, and what it has
        handed over. ``loops`` are those that run in this process.

        Raises:
            HubError: as of `publish`.
        """
        stats = self.meeting.with_hub(lambda shared: shared.stats())
        own = self.hub.stats()
        if own["epoch"] != stats["epoch"]:
            stats["own"] = own
        return {**stats, "loops": self.loops.running}

    def restart(self, loop: SharedLoop) -> None:
        """See `SharedLoop.restart`."""
        self.meeting.with_hub(lambda shared: shared.restart(loop.name))

    def close(self, timeout: float = 1.0) -> None:
        """Ends all loops and says `bye` to every viewer, as at the end of the process.

        What is asked for afterwards begins a new life: pages that come back heal as after a restart.

        Args:
            timeout: seconds at most.
        """
        thread, loops = self._thread, self._loops
        if thread is None or loops is None or not thread.usable:
            return
        deadline = time.monotonic() + timeout
        meeting = self._meeting
        self._closing = True  # a loop that publishes meanwhile must not begin a new life
        try:
            if meeting is not None:
                meeting.leave()
            thread.close(timeout / 2)
            loops.close(deadline - time.monotonic())
            if meeting is not None:
                meeting.close()  # last: a loop may publish while it cleans up
        finally:
            self._closing = False

    # What an adapter needs

    def follow(
        self, sources: tuple[Any, ...], into: str | None = None, restart: bool = True, away: str = "pause"
    ) -> Page:
        """Checks what a view says its page follows.

        Raises:
            LoopError: it is nothing that can be followed.
        """
        return page_of(sources, into, restart, away, self.settings.max_channels_per_viewer)

    def is_over(self, page: Page, position: Position | None) -> bool:
        """Whether a page at that position has all there will ever be (its stream gets a 204)."""
        if position is None or position.rendered:
            return False
        if page.source is not None:
            if position.epoch.startswith(_LOST):
                return not page.restart
            end = self._private_end(position.epoch, page.label)
            return end is not None and 0 < end <= position.offset
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

    def _private_end(self, key: str, label: str) -> int | None:
        """Where a private loop ends, of whichever process: 0 while it goes on, None if nobody knows it."""
        elsewhere = self._elsewhere(key)
        if elsewhere is None:
            return self.loops.private_end(key)
        try:
            return elsewhere.ask(_member_of(key), key, label)
        except HubError:
            return None

    def connect(self, page: Page, request: Request) -> Follow:
        """Starts what the page follows, and says how its viewer is to be served."""
        if page.source is not None:
            return self._connect_private(page, page.source, request)
        return Follow(
            None,
            page.channels,
            position=str(request.position or "0"),
            foreign=request.bad_position,
            into=page.into,
            hold=self._ensure(page.channels),
        )

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
            if not any(name in self._definitions for name in page.channels):
                opening += shown.again()  # such a page has no end
        return replace(follow, into=page.into, wire=document, opening=opening, ending=ending)

    def _first_part(self, page: Page, head: Position, shown: Shown) -> bytes:
        """What a page that connects now shows without scripts."""
        shared = self.meeting.shared
        known = head.epoch == shared.epoch  # else the hub has ended meanwhile
        try:
            steps = shared.answer(page.channels, head.offset if known else None, rendered=known)
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
            log = self.loops.find_private(position.epoch, page.label)
            if log is not None:
                page.close()
                return Follow(log, channels, at=position.offset, position=str(position), into=page.into)
            elsewhere = self._elsewhere(position.epoch)
            if elsewhere is not None and self._private_end(position.epoch, page.label) is not None:
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
            # Its position is repeated: what the page shows is still of the loop that it says.
            log = self.hub.new_log(_unique())
            return Follow(log, channels, position=str(position or "0"), into=page.into, hold=False)
        return Follow(
            log,
            channels,
            at=None if foreign else 0,
            foreign=foreign,
            position=f"{log.epoch}.0",
            into=page.into,
        )

    def _lost(self, page: Page, position: Position | None) -> Follow:
        log = self.hub.new_log(_LOST + _unique())
        log.begin(PRIVATE)
        log.finish(PRIVATE, "lost", "The server no longer has what this page was following.")
        return Follow(log, (PRIVATE,), at=0, position=str(position or "0"), into=page.into)

    def _refused(self, name: str, error: LoopError) -> None:
        """A shared loop was not started here."""
        if self.is_elsewhere:
            logger.info(
                "afterload: the loop %r was not started here, and another process is asked: %s", name, error
            )
        else:
            self._full(name, error)

    def _full(self, label: str, error: LoopError) -> None:
        """A loop was not started: its viewer gets what there is and `bye`, and asks again later."""
        self.hub.count("loops_refused")
        if count := self._turned_away.count():
            logger.warning(
                "afterload: the loop %r was not started: %s. Its pages ask again every %.1f s or so "
                "(refused since the last such record: %d)",
                label,
                error,
                self.settings.short_retry / 1000,
                count,
            )


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
        said = {
            "key": self.log.epoch,
            "label": self.label,
            "at": self.at,
            "position": self.position,
            "into": self.into,
            "hold": self.hold,
            "head": self.head.decode("latin-1"),
            "address": self.address,
        }
        self.client.relay(sock, _member_of(self.log.epoch), said)


def _member_of(key: str) -> str:
    """The process that runs the private loop of that key."""
    return key.partition("~")[2]


def _unique() -> str:
    return secrets.token_urlsafe(6)


def _called(reference: weakref.WeakMethod[Callable[[], AbstractContextManager[Any]]]) -> Any:
    method = reference()
    if method is None:
        raise Stopped  # nobody is left to whom this loop could be of use
    return method()


def _tell(reference: weakref.WeakMethod[Any], name: str, error: LoopError) -> None:
    method = reference()
    if method is not None:
        method(name, error)


def _dropped(thread: HubThread, loops: Loops, meeting: Meeting) -> None:
    """A `Live` is gone without `close`; runs in the garbage collector, where nothing may be waited for."""
    meeting.close()
    if thread._thread is None:
        thread.close(0)
        return

    def end() -> None:
        thread.close()
        loops.close()

    if thread.usable:
        thread.hub.poller.call(end)


_lives: weakref.WeakSet[Live] = weakref.WeakSet()


def _in_child() -> None:
    # The parent's lock may have been held by a thread that the child does not have.
    for live in list(_lives):
        live._lock = threading.Lock()
        live._closing = False
        live._turned_away, live.sent_away = Seldom(), Seldom()
        if live._meeting is not None:
            live._meeting.release()
        if handover.is_forking() and live._is_ready():
            live.attend()


def _attend(reference: weakref.ref[Live]) -> None:
    """Has an app serve once its worker has loaded it: a loop must not run while its module does."""
    began = time.monotonic()
    while (live := reference()) is not None and (handover.worker() is None or not handover.is_loaded()):
        del live
        if handover.worker() is None and time.monotonic() - began > _LOADED:
            return  # it is no worker: the master forks others too
        time.sleep(_LOOKS)
    if live is not None:
        live.serve(bool(handover.worker()))


def _at_exit() -> None:
    deadline = time.monotonic() + 1.5
    for live in list(_lives):
        live.close(max(0.1, deadline - time.monotonic()))


# Behind that of `hub.thread`, so it runs before: loops clean up, and then the hub ends.
atexit.register(_at_exit)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
