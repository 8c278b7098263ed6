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
from typing import Any, TypeVar, overload

from . import handover
from .errors import HubError, JobError, LoopError, PatchError
from .hub.client import Client
from .hub.held import PREFIX, Held
from .hub.hub import Hub, Shared
from .hub.leases import GONE
from .hub.meeting import Meeting, new_member
from .hub.messages import of_follow
from .hub.thread import HubThread
from .hub.viewer import Follow, Wire
from .jobs import Gone, Job, name_of, source_of
from .log import PRIVATE, Present, wrong_name
from .loops import Loops, SharedLoop
from .negotiate import Request
from .noscript import Shown
from .page import Page, followed, page_of
from .paint import Paint
from .patch import patches
from .position import Position
from .runs import Source, Stopped, current, sleep
from .seldom import Seldom
from .settings import Settings, checked
from .snapshot import SnapshotSource
from .values import short
from .wire import document, poll, sse, websocket
from .wire import text as plain

T = TypeVar("T")

logger = logging.getLogger("afterload")

_LOADED = 60.0  # seconds that a forked process may take to become a worker
_LOOKS = 0.05  # seconds between two looks at whether the server has loaded the app
_LOOK = 0.5  # seconds between two looks at whether the server is ending
_WIRES: dict[str, Wire] = {"sse": sse, "websocket": websocket, "poll": poll}
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
        self._sources: dict[str, SnapshotSource] = {}
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
        loops.whereabouts = meeting
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
        hub, loops, meeting = self.hub, self.loops, self.meeting

        def look() -> None:
            if handover.stopping():
                loops.lose_jobs()
                hub.poller.call(hub.say_bye)  # behind the ends of the jobs
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
        if name in self._sources:
            raise LoopError(
                f"{name!r} has a @live.snapshot: what a loop writes is known from its beginning; name the loop "
                "otherwise, @live.loop(name=...)"
            )
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

    def start(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Job:
        """Starts a **job**: a loop that runs at once, in this process, whether anybody watches or not.

        For work that a request starts, and that takes longer than a request may: an import, a report, a training run.
        In a thread of its own, or a task, it runs to its end; its pages, found by its id, follow it, in whichever
        process of the app they come to. It is one of `max_loops`, and is never started again by itself. It ends with
        the process: what must survive that belongs in a queue.

        Args:
            function: a generator function or async generator function, of which what it yields is shown by the job's
                pages; or a function or coroutine function, which changes them by `Job.publish` and `Job.track`. For
                what it may use see `afterload.flask.Live.page`, of what a loop may.
            *args: for the function.
            **kwargs: for the function.

        Returns:
            The job, when the hub has its channel: a redirect to a page that follows it may be answered by another
            process.

        Raises:
            LoopError: function is none, or does not take these arguments; or there is no room: `max_loops` are
                running, the system gives no more threads, or the process is about to end.
            HubError: as of `publish`. Then nothing was started.

        Example:
            >>> live = Live()
            >>> def count(n):
            ...     for i in live.job().track(range(n), "#bar"):
            ...         yield {"#last": i}
            >>> job = live.start(count, 3)
            >>> job.wait(5)
            'done'
        """
        source = source_of(function, args, kwargs)
        loops, meeting = self.loops, self.meeting

        def hold(held: Held) -> None:
            meeting.with_hub(lambda shared: held.hold(loops, shared.outlet))

        run = loops.job(source, name_of(function), hold)
        return Job(run.channel.removeprefix(PREFIX), self, run)

    def job(self, id: str | None = None) -> Job:
        """A job, of whichever process of the app; or without an id, the job that this is called in.

        Args:
            id: as of `Job.id`; one that a request has brought need not be checked before.

        Raises:
            JobError: there is no such job, or it has ended longer ago than `loop_retention`.
            LoopError: no id is given, and this is no job, or a thread that a job has started.
            HubError: the hub cannot be asked.

        Example:
            >>> live = Live()
            >>> live.job("of-old")
            Traceback (most recent call last):
            afterload.errors.JobError: there is no job 'of-old', or it is not remembered any more (loop_retention)
        """
        if id is None:
            run = current()
            if run is None or run.held is None:
                raise LoopError("live.job() without an id is for the function of a job; elsewhere say which")
            return Job(run.held.id, self, run)
        run = self.loops.find_job(PREFIX + str(id))
        if run is None:
            self.standing(str(id))
        return Job(str(id), self, run)

    def standing(self, id: str) -> tuple[str, str]:
        """See `jobs.Owner`; where the hub is new, waits a moment for the process that runs it."""
        while (found := self._standing(id)) == ("", ""):
            time.sleep(_LOOKS)
        if found is None:
            raise JobError(id)
        return found

    def _standing(self, id: str) -> tuple[str, str] | None:
        return self.meeting.with_hub(lambda shared: shared.outlet.standing(PREFIX + id))

    def find_gone(self, id: str) -> Job:
        """For a page that is open, and so has known the job: also one that is unknown."""
        run = self.loops.find_job(PREFIX + id)
        if run is not None:
            return Job(id, self, run)
        match self._standing(id):
            case None:
                return Job(id, self, gone=Gone.LOST)
            case ("", ""):
                return Job(id, self, gone=Gone.EARLY)
        return Job(id, self)

    def cancel_job(self, id: str) -> bool:
        """See `jobs.Owner`."""
        return self.meeting.with_hub(lambda shared: shared.outlet.cancel(PREFIX + id))

    def snapshot(self, channel: str) -> Callable[[Callable[[], T]], Callable[[], T]]:
        """Makes a function the **snapshot source** of a published channel: it says what the channel shows at present.

        It is asked where the hub does not know: a page comes back and the hub has lost its memory, or the page was away
        for longer than is remembered. Then pages are brought to that in place, and need not fetch themselves; once it
        was asked, the hub knows, for all of them.

        It returns what `publish` takes, without effects: what brings a page *as it was served* to what it is to show
        now. So it sets all that may have changed since: the content of a list with ``html``, not its rows with
        ``append``. What is published while it runs is applied behind that, so it may come twice: give rows an id, and
        commit before you publish. It has no request, and in Flask an app context of its own, as the steps of a loop;
        it may be called in any thread, by one at a time.

        Args:
            channel: its name.

        Returns:
            A decorator, which returns the function as it is.

        Raises:
            LoopError: a loop writes the channel, it has a snapshot source already, or its name is none; or the function
                needs arguments, is a generator function, or is async.

        Example:
            >>> from afterload import html
            >>> live = Live()
            >>> orders = ["tea", "<milk>"]
            >>> @live.snapshot("orders")
            ... def present():
            ...     return {"#count": len(orders)}, html("#last", orders[-1])
        """
        if wrong := wrong_name(channel):
            raise LoopError(wrong)
        if channel in self._definitions:
            raise LoopError(
                f"the loop {channel!r} writes that channel, so its state is known from the beginning of each run"
            )
        if channel in self._sources:
            raise LoopError(f"{channel!r} has a @live.snapshot already: {self._sources[channel].function!r}")

        def decorate(function: Callable[[], T]) -> Callable[[], T]:
            self._sources[channel] = SnapshotSource(channel, function)
            return function

        return decorate

    def state(self, channel: str | SharedLoop | Job) -> Paint:
        """What a channel shows at present: a mapping of targets to what is in them.

        Where the channel has a snapshot source and the hub does not know its state, the source is asked. A channel that
        a loop writes shows nothing as long as nobody has it run.

        Args:
            channel: a shared loop, a job, or a channel's name.

        Raises:
            LoopError: it is nothing that can be followed; or the channel has been patched with ``select=``, or an id
                was changed, of which no content tells.
            HubError: as of `publish`.
            Exception: what the snapshot source raises.

        Example:
            >>> live = Live()
            >>> _ = live.publish("orders", {"#count": 12})
            >>> live.state("orders")["#count"]
            '12'
        """
        name = followed(channel)
        _, present = self._present(name, None)
        return self._showable(Paint(name, present.parts, None))

    @staticmethod
    def _showable(paint: Paint) -> Paint:
        """The same, if it can be shown.

        Raises:
            LoopError: it cannot.
        """
        if paint.looks:
            raise LoopError(
                f"{paint.channel!r} was patched with select=, or an id was changed: what that has done is known to "
                "pages only, so its state cannot be shown; let the view render it"
            )
        return paint

    def _present(self, name: str, head: Position | None) -> tuple[int | None, Present]:
        """What a channel shows, and where a page's position is in that log; None if it is of another."""

        def look(shared: Shared) -> tuple[int | None, Present]:
            at = head.offset if head is not None and head.epoch == shared.epoch else None
            present = shared.present(name)
            if name in self._sources and not present.complete:
                self._sources[name].give(shared, self.step_context, at)
                present = shared.present(name)
            return at, present

        return self.meeting.with_hub(look)

    def on_error(self, handler: Callable[[str, BaseException], None]) -> Callable[[str, BaseException], None]:
        """Registers a function that is told of every loop that failed: its name and the exception.

        Of a snapshot source that failed as well, by its channel's name.

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

    def viewers(self, channel: str | SharedLoop | Job) -> int:
        """How many pages follow a channel now.

        Raises:
            LoopError: it is nothing that can be followed.
            HubError: as of `publish`.
        """
        name = followed(channel)
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

    def revoke(self, *channels: str | SharedLoop | Job, owner: str | None = None) -> None:
        """Has viewers ask their views again whether they may follow: after a logout, or when rights have changed.

        Their streams are ended with a `bye`, and their pages come back within about a second (many of them over some
        more), with their position, so whoever still may misses nothing. Whom the view then refuses shows `denied`. Who
        has been let in by a view that is still at work is sent away as well. All processes of the app are told; it
        returns when the hub has heard.

        Args:
            *channels: all who follow one of them.
            owner: all whose view said ``live.page(..., owner=owner)``.

        Raises:
            LoopError: neither is given, a channel's name is none, or the owner is nothing that a view can have said.
            HubError: as of `publish`.

        Example:
            >>> live = Live()
            >>> live.revoke("orders", owner="user-7")
        """
        if owner is not None and (type(owner) is not str or not owner):
            raise LoopError(
                f"owner is the str that a view has given to page(), and {short(owner)} would be that of nobody"
            )
        if not channels and owner is None:
            raise LoopError("revoke() needs names of channels, or owner=")
        names = [followed(channel) for channel in channels]
        self.meeting.with_hub(lambda shared: shared.revoke(names, owner))
        if owner is not None and self.is_elsewhere:
            self.hub.revoke((), owner)  # also where the hub does not know this process (any more)

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
        said = {"key": self.log.epoch, "label": self.label, "at": self.at, "follow": of_follow(self)}
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
        for source in live._sources.values():
            source.renew()
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
