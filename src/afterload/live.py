"""The extension without a framework: channels, loops and jobs, as a program has them.

What it runs on is `afterload.life`. An adapter (`afterload.flask`) has `follow` check what a view's page follows, turns
the request into a `negotiate.Request`, and for a stream asks `is_over`, and then `connect` (`afterload.connecting`).
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable
from typing import Any, TypeVar, overload

from .connecting import Connecting
from .errors import JobError, LoopError, PatchError
from .hub.held import PREFIX, Held
from .hub.hub import Shared
from .jobs import Gone, Job, name_of, source_of
from .log import Present, wrong_name
from .loops import SharedLoop
from .page import followed
from .paint import Paint
from .patch import patches
from .position import Position
from .runs import Source, current, sleep
from .settings import checked
from .snapshot import SnapshotSource
from .values import short

T = TypeVar("T")

_LOOKS = 0.05  # seconds between two looks at whether the process of a job has come


class Live(Connecting):
    """Channels, loops and viewers of one app; see `afterload.flask.Live` for the Flask extension.

    Args:
        settings: see `afterload.settings.Settings`.
    """

    sleep = staticmethod(sleep)

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

        It runs after the log record, and after the pages were told, in the loop's thread, or in one of its own for an
        async loop: it may take its time. What it raises is logged, and the other handlers are called all the same.

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
