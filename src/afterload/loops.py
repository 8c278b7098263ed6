"""Drives user loops onto channels.

A **run** is one generator being stepped, each step inside the app's step context (for Flask an app context,
so no database session outlives a step), what it yields published to its channel. A sync generator has a thread
of its own and is always resumed by it; async generators are tasks on one event loop thread of ours.

How a run ends, and who wins when several happen at once (the first that takes the run's lock)::

    returns            ──▶ channel `done`
    raises             ──▶ channel `failed`, log record, on_error
    told to stop       ──▶ nothing it yields afterwards is published; GeneratorExit at its next yield, or at
                           once inside `sleep`
    viewer away        ──▶ paused: not stepped again after its next yield; back within `linger`: goes on;
    (private loop)         not back, or the client's close(): told to stop
    no viewer (shared) ──▶ after `linger`: told to stop; the next viewer starts a new run

A private run is *pulled*: it waits while it is `ahead_entries` or `ahead_bytes` ahead of what its viewer's
socket has taken.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import logging
import secrets
import threading
import time
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeAlias

from .errors import LoopError
from .hub.hub import Hub
from .log import Log
from .patch import patches
from .settings import Settings

logger = logging.getLogger("afterload.loops")

PRIVATE = "~"
FAILED = "Something went wrong on the server. The page shows the last state."
_REMEMBERED = 10_000  # ends of private loops, so that a browser's EventSource is told to stop

Source: TypeAlias = Iterator[Any] | AsyncIterator[Any]
_current: contextvars.ContextVar[Run | None] = contextvars.ContextVar("afterload_run", default=None)


class Stopped(BaseException):
    """Raised inside a loop by `sleep` when the loop should end.

    Not an `Exception`, so that ``except Exception`` in a loop does not hold it up.
    """


def sleep(seconds: float) -> None:
    """Waits, in a loop; ends the loop at once when it should end.

    Outside a loop it is `time.sleep`. In an async generator use ``await asyncio.sleep(...)``, which is
    cancelled.

    Args:
        seconds: how long.

    Raises:
        LoopError: called in an async generator.
    """
    run = _current.get()
    if run is None:
        time.sleep(seconds)
    else:
        run.sleep(seconds)


class Run:
    """One generator being stepped onto one channel.

    Attributes:
        key: the private log's epoch, or the shared channel's name.
        label: its name in log records, and what a private loop has to match when its page comes back.
        finished: it has ended, one way or another.
    """

    def __init__(self, loops: Loops, source: Source, log: Log, channel: str, label: str) -> None:
        self.loops = loops
        self.source = source
        self.log = log
        self.channel = channel
        self.label = label
        self.private = log is not loops.hub.log
        self.finished = False
        self.status = ""
        self.ended_at = 0.0
        self.away = False  # its viewer is
        self.runs_on = False  # while its viewer is away
        self.lock = threading.Lock()
        self.stopped = False
        self._ahead: deque[tuple[int, int]] = deque()
        self._ahead_bytes = 0

    def start(self) -> None:
        """Begins to step."""
        raise NotImplementedError

    def wake(self) -> None:
        """Lets the run look again at whether it may be stepped."""
        raise NotImplementedError

    def sleep(self, seconds: float) -> None:
        """See the function `sleep`."""
        raise NotImplementedError

    def stop(self) -> None:
        """Tells it to end; nothing it yields from now on is published."""
        with self.lock:
            self.stopped = True
        self.wake()

    def viewer(self, away: bool) -> None:
        """Its viewer has gone, or is back."""
        self.away = away
        self.wake()

    def served(self, offset: int) -> None:
        """The viewer has got everything up to `offset`."""
        with self.lock:
            while self._ahead and self._ahead[0][0] <= offset:
                self._ahead_bytes -= self._ahead.popleft()[1]
        self.wake()

    def may_step(self) -> bool:
        """Whether the next step may be taken now."""
        if not self.private:
            return True
        if self.away:
            return self.runs_on
        s = self.loops.settings
        return len(self._ahead) < s.ahead_entries and self._ahead_bytes < s.ahead_bytes

    def publish(self, thing: Any) -> None:
        """Publishes what was yielded, unless it was told to stop.

        Raises:
            PatchError: it is nothing that can be published.
        """
        entry = patches(thing)
        if not entry:
            return
        with self.lock:
            if self.stopped:
                return
            offset = self.loops.hub.publish(self.channel, entry, self.log)
            if self.private:
                size = sum(len(p.content) if isinstance(p.content, str) else 8 for p in entry)
                self._ahead.append((offset, size))
                self._ahead_bytes += size
        if self.private and not self.may_step():
            self.loops.hub.hurry(self.log, self.channel)

    def over(self, error: BaseException | None) -> None:
        """The generator has ended: says so in its channel, unless the run was told to stop."""
        with self.lock:
            stopped, self.stopped = self.stopped, True
            self.ended_at = time.monotonic()
            if error is not None and not isinstance(error, Stopped | GeneratorExit | asyncio.CancelledError):
                self.status = "failed"
            else:
                self.status = "cancelled" if stopped or error is not None else "done"
            if not stopped:
                message = FAILED if self.status == "failed" else ""
                self.loops.hub.finish(self.channel, self.status, message, self.log)
        if self.status == "failed" and error is not None:
            self.loops.report(self.label, error)
        self.finished = True
        self.loops.ended(self)


class ThreadRun(Run):
    """A sync generator in a thread of its own."""

    def __init__(self, loops: Loops, source: Source, log: Log, channel: str, label: str) -> None:
        super().__init__(loops, source, log, channel, label)
        self._condition = threading.Condition()

    def start(self) -> None:
        """See `Run.start`; in a thread of its own."""
        threading.Thread(target=self._drive, name=f"afterload-loop {self.label}", daemon=True).start()

    def wake(self) -> None:
        """See `Run.wake`."""
        with self._condition:
            self._condition.notify_all()

    def sleep(self, seconds: float) -> None:
        """See the function `sleep`."""
        with self._condition:
            self._condition.wait_for(lambda: self.stopped, seconds)
        if self.stopped:
            raise Stopped

    def _drive(self) -> None:
        _current.set(self)
        source: Any = self.source
        error: BaseException | None = None
        try:
            while True:
                with self._condition:
                    self._condition.wait_for(lambda: self.stopped or self.may_step())
                if self.stopped:
                    break
                with self.loops.step_context():
                    try:
                        thing = next(source)
                    except StopIteration:
                        break
                self.publish(thing)
        except BaseException as e:  # noqa: BLE001 - whatever ends a loop ends its channel
            error = e
        try:
            with self.loops.step_context():
                source.close()
        except BaseException as e:  # noqa: BLE001 - whatever ends a loop ends its channel
            if error is None:
                error = e
        self.over(error)


class TaskRun(Run):
    """An async generator as a task on the loops' event loop."""

    def __init__(self, loops: Loops, source: Source, log: Log, channel: str, label: str) -> None:
        super().__init__(loops, source, log, channel, label)
        self._loop = loops.event_loop()
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """See `Run.start`; as a task."""

        def begin() -> None:
            self._task = self._loop.create_task(self._drive(), name=f"afterload-loop {self.label}")

        self._loop.call_soon_threadsafe(begin)

    def wake(self) -> None:
        """See `Run.wake`; a run that was stopped is cancelled."""

        def change() -> None:
            self._changed.set()
            if self.stopped and self._task is not None and not self.finished:
                self._task.cancel()

        try:
            self._loop.call_soon_threadsafe(change)
        except RuntimeError:
            pass  # the event loop is closed: the process ends

    def sleep(self, seconds: float) -> None:
        """Refuses: it would hold up all tasks."""
        raise LoopError("live.sleep() would block every async loop; use: await asyncio.sleep(...)")

    async def _drive(self) -> None:
        _current.set(self)
        source: Any = self.source
        error: BaseException | None = None
        try:
            while True:
                while not (self.stopped or self.may_step()):
                    self._changed.clear()
                    await self._changed.wait()
                if self.stopped:
                    break
                with self.loops.step_context():
                    try:
                        thing = await anext(source)
                    except StopAsyncIteration:
                        break
                self.publish(thing)
        except BaseException as e:  # noqa: BLE001 - whatever ends a loop ends its channel
            error = e
        try:
            with self.loops.step_context():
                await source.aclose()
        except BaseException as e:  # noqa: BLE001 - whatever ends a loop ends its channel
            if error is None:
                error = e
        self.over(error)


class SharedLoop:
    """A loop that runs once for all viewers; made by ``@live.loop``.

    Called, it is the generator function it was made from.

    Attributes:
        name: its channel.
        function: the generator function.
        linger: seconds it goes on after its last viewer; None for the app's setting.
    """

    def __init__(self, function: Callable[[], Source], name: str, linger: float | None, owner: Any) -> None:
        if not (inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)):
            raise LoopError(
                f"@live.loop needs a generator function (one that yields), and {function!r} is none"
            )
        needed = [
            p.name
            for p in inspect.signature(function).parameters.values()
            if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
        ]
        if needed:
            raise LoopError(
                f"a shared loop is started without arguments, and {name!r} needs {', '.join(needed)}; "
                "for a loop of each viewer's own, pass the generator to live.page()"
            )
        self.function = function
        self.name = name
        self.linger = linger
        self._owner = owner
        self.__name__ = name
        self.__doc__ = function.__doc__

    def __call__(self) -> Source:
        """A generator of the viewer's own."""
        return self.function()

    def __repr__(self) -> str:
        return f"<shared loop {self.name!r}>"

    def restart(self) -> None:
        """Ends the present run, if there is one, and begins a new one if somebody watches.

        Pages that follow it start again from what they were served with. A loop that nobody watches starts
        with its next viewer.
        """
        self._owner.loops.restart(self)


class Loops:
    """The loops of one process.

    Args:
        hub: where they publish.
        settings: bounds and durations.
        step_context: makes the context that each step runs in.
    """

    def __init__(
        self,
        hub: Hub,
        settings: Settings,
        step_context: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        self.hub = hub
        self.settings = settings
        self.step_context = step_context
        self.handlers: list[Callable[[str, BaseException], None]] = []
        self._lock = threading.RLock()
        self._shared: dict[str, Run] = {}
        self._private: dict[str, Run] = {}
        self._running: set[Run] = set()
        self._ends: OrderedDict[str, int] = OrderedDict()
        self._event_loop: asyncio.AbstractEventLoop | None = None

    @property
    def running(self) -> int:
        """How many loops are running."""
        return len(self._running)

    def full(self) -> bool:
        """Whether no further loop may start."""
        return len(self._running) >= self.settings.max_loops

    # Private loops

    def start_private(self, source: Source, label: str, away: str) -> Log:
        """Starts a viewer's own loop; returns its log.

        Raises:
            LoopError: `max_loops` are running, or the system gives no more threads.
        """
        key = secrets.token_urlsafe(16)
        log = self.hub.new_log(key)
        log.begin(PRIVATE)
        with self._lock:
            if self.full():
                raise LoopError(f"{len(self._running)} loops are running, and max_loops is no more")
            run = self._run(source, log, PRIVATE, label)
            run.runs_on = away == "run"
            self._private[key] = run
        self.hub.track(log, run.served)
        self.hub.watch(log, PRIVATE, lambda count: self._private_viewers(run, count))
        self.hub.later(self.settings.linger, lambda: self._close_if_away(run))
        try:
            self._start(run)
        except LoopError:
            self._forget_private(run)
            raise
        return log

    def find_private(self, key: str, label: str) -> Log | None:
        """The log of a viewer's own loop, while it is remembered."""
        run = self._private.get(key)
        return run.log if run is not None and run.label == label else None

    def private_at_end(self, key: str, offset: int) -> bool:
        """Whether that loop has ended and a page at `offset` has all of it."""
        run = self._private.get(key)
        if run is not None:
            return self.hub.at_end(run.log, [PRIVATE], offset)
        end = self._ends.get(key)
        return end is not None and offset >= end

    def close_private(self, key: str) -> None:
        """Ends a viewer's own loop; unknown keys are ignored."""
        run = self._private.get(key)
        if run is not None:
            run.stop()
            self._forget_private(run)

    def _private_viewers(self, run: Run, count: int) -> None:
        run.viewer(away=not count)
        if not count:
            self.hub.later(self.settings.linger, lambda: self._close_if_away(run))

    def _close_if_away(self, run: Run) -> None:
        # Timers of earlier absences end here too; a viewer who left less than a linger ago has one of its own.
        if self.hub.viewers(PRIVATE, run.log):
            return
        if self.hub.clock() - self.hub.left_at(run.log, PRIVATE) < self.settings.linger * 0.999:
            return
        run.stop()
        self._forget_private(run)

    def _forget_private(self, run: Run) -> None:
        key = run.log.epoch
        with self._lock:
            if self._private.pop(key, None) is None:
                return
            end = run.log.channels[PRIVATE].ended
            if end:
                self._ends[key] = end
                while len(self._ends) > _REMEMBERED:
                    self._ends.popitem(last=False)
        self.hub.unwatch(run.log, PRIVATE)
        self.hub.untrack(run.log)

    # Shared loops

    def ensure(self, loop: SharedLoop) -> None:
        """Starts a shared loop unless it runs, or has ended and its end is still remembered.

        Raises:
            LoopError: as `start_private`.
        """
        with self._lock:
            run = self._shared.get(loop.name)
            if run is None or not self._stands(run):
                self._start_shared(loop)

    def _stands(self, run: Run) -> bool:
        """Whether what the run shows is what a viewer is to see: it goes on, or has ended not long ago."""
        with run.lock:
            if not run.stopped:
                return True
            s = self.settings
            keep = {"done": s.loop_retention, "failed": s.failed_retention}.get(run.status, 0.0)
            return time.monotonic() - run.ended_at < keep

    def restart(self, loop: SharedLoop) -> None:
        """See `SharedLoop.restart`."""
        with self._lock:
            run = self._shared.pop(loop.name, None)
            if run is not None:
                run.stop()
            if self.hub.viewers(loop.name):
                self._start_shared(loop)
            elif run is not None:
                self.hub.begin(loop.name)

    def _start_shared(self, loop: SharedLoop) -> None:
        if self.full():
            raise LoopError(f"{len(self._running)} loops are running, and max_loops is no more")
        linger = self.settings.linger if loop.linger is None else loop.linger
        run = self._run(loop.function(), self.hub.log, loop.name, loop.name)
        self._shared[loop.name] = run
        self.hub.begin(loop.name)

        def stop_if_unwatched() -> None:
            with self._lock:
                unwatched = not self.hub.viewers(loop.name)
                since = self.hub.clock() - self.hub.left_at(self.hub.log, loop.name)
                if unwatched and since >= linger * 0.999:
                    run.stop()

        def viewers(count: int) -> None:
            if not count:
                self.hub.later(linger, stop_if_unwatched)

        self.hub.watch(self.hub.log, loop.name, viewers)
        self.hub.later(linger, stop_if_unwatched)
        try:
            self._start(run)
        except LoopError:
            del self._shared[loop.name]
            raise

    # All of them

    def _run(self, source: Source, log: Log, channel: str, label: str) -> Run:
        kind = TaskRun if inspect.isasyncgen(source) else ThreadRun
        run = kind(self, source, log, channel, label)
        self._running.add(run)
        return run

    def _start(self, run: Run) -> None:
        try:
            run.start()
        except RuntimeError as error:
            self.ended(run)
            raise _no_thread(error) from error

    def ended(self, run: Run) -> None:
        """A run is over (called by it)."""
        with self._lock:
            self._running.discard(run)

    def report(self, label: str, error: BaseException) -> None:
        """Tells the log and the app's handlers of a failed loop."""
        logger.error("afterload: the loop %r failed", label, exc_info=error)
        for handler in self.handlers:
            try:
                handler(label, error)
            except Exception:
                logger.exception("afterload: the on_error handler %r failed", handler)

    def event_loop(self) -> asyncio.AbstractEventLoop:
        """The event loop of the async loops, in a thread of its own, made when first needed."""
        with self._lock:
            if self._event_loop is None:
                loop = asyncio.new_event_loop()
                thread = threading.Thread(
                    target=_run_event_loop, args=(loop,), name="afterload-async", daemon=True
                )
                try:
                    thread.start()
                except RuntimeError as error:
                    loop.close()
                    raise _no_thread(error) from error
                self._event_loop = loop
            return self._event_loop

    def close(self, timeout: float = 0.5) -> None:
        """Tells all loops to end, and waits for their clean-up at most `timeout` seconds."""
        with self._lock:
            running = list(self._running)
        for run in running:
            run.stop()
        deadline = time.monotonic() + timeout
        while self._running and time.monotonic() < deadline:
            time.sleep(0.01)
        if self._event_loop is not None:
            self._event_loop.call_soon_threadsafe(self._event_loop.stop)


def _no_thread(error: RuntimeError) -> LoopError:
    return LoopError(f"the system gives no thread for a loop: {error}")


def _run_event_loop(loop: asyncio.AbstractEventLoop) -> None:
    loop.run_forever()
    loop.close()
