"""The loops of a process: which run writes which channel, when one is started, and when nobody needs it any more.

What a run is, and how one ends, is said in `afterload.runs`.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from .errors import LoopError
from .hub.hub import Hub
from .log import Log
from .pipe import Pipe
from .runs import PRIVATE, Run, Source, StepContext, TaskRun, TextRun, ThreadRun
from .settings import Settings

logger = logging.getLogger("afterload.loops")

_FIRST = 5.0  # seconds that the first viewer of a run has to come, if the linger is less
_REMEMBERED = 10_000  # ends of private loops, so that a browser's EventSource is told to stop


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
        self._step_context = step_context
        self.handlers: list[Callable[[str, BaseException], None]] = []
        self._lock = threading.RLock()
        self._shared: dict[str, Run] = {}
        self._private: dict[str, Run] = {}
        self._running: set[Run] = set()
        self._ends: OrderedDict[str, int] = OrderedDict()
        self._event_loop: asyncio.AbstractEventLoop | None = None

    def step_context(self) -> AbstractContextManager[Any]:
        """The context that each step of a run is in."""
        return self._step_context()

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

        Args:
            source: the generator.
            label: the loop's name.
            away: see `afterload.flask.Live.page`.

        Raises:
            LoopError: `max_loops` are running, or the system gives no more threads.
        """
        run = self.private(source, label, self.settings.linger, away)
        run.begun = True
        try:
            self._start(run)
        except LoopError:
            self._forget_private(run)
            raise
        return run.log

    def private(self, source: Source, label: str, linger: float, away: str = "pause") -> Run:
        """A viewer's own loop that has yet to `begin`.

        Args:
            source: the generator.
            label: the loop's name.
            linger: seconds that it is kept after its viewer.
            away: see `afterload.flask.Live.page`.

        Raises:
            LoopError: `max_loops` are running.
        """
        log = self.hub.new_log(secrets.token_urlsafe(16))
        run = self._run(source, log, PRIVATE, label)
        self._add_private(run, linger, away)
        return run

    def begin(self, run: Run) -> None:
        """Starts a run that was made for a viewer, once; where it cannot be, its page is told that it has failed."""
        with self._lock:
            if run.begun:
                return
            run.begun = True
        try:
            self._start(run)
        except LoopError as error:
            run.over(error)

    def text(self, source: Iterator[str], label: str) -> tuple[Run, bytes]:
        """What writes the text of one response, piece by piece, and ends with its viewer; and its first piece.

        It makes its own context when it begins, and leaves it when it ends. The first piece is had at once, in the
        thread that asks, and the rest when it has begun.

        Raises:
            LoopError: `max_loops` are running.
        """
        pipe = Pipe(secrets.token_urlsafe(16))
        run = TextRun(self, source, pipe, PRIVATE, label, nullcontext)
        self._add_private(run, 0.0)
        try:
            return run, run.first()
        except BaseException:
            self.ended(run)
            self._forget_private(run)
            raise

    def _add_private(self, run: Run, linger: float, away: str = "pause") -> None:
        log = run.log
        log.begin(PRIVATE)
        with self._lock:
            if self.full():
                raise LoopError(f"{len(self._running)} loops are running, and max_loops is no more")
            run.runs_on = away == "run"
            self._running.add(run)
            self._private[log.epoch] = run
        self.hub.track(log, run.served)
        self.hub.watch(log, PRIVATE, lambda count: self._private_viewers(run, count, linger))
        self.hub.later(max(_FIRST, linger), lambda: self._close_if_away(run, linger))

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

    def _private_viewers(self, run: Run, count: int, linger: float) -> None:
        run.viewer(away=not count)
        if not count:
            self.hub.later(linger, lambda: self._close_if_away(run, linger))

    def _close_if_away(self, run: Run, linger: float) -> None:
        # Timers of earlier absences end here too; a viewer who left less than a linger ago has one of its own.
        if self.hub.viewers(PRIVATE, run.log):
            return
        if self.hub.clock() - self.hub.left_at(run.log, PRIVATE) < linger * 0.999:
            return
        run.stop()
        self.begin(run)  # if it has not: what there is to be closed is closed in a thread of its own
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
        self._running.add(run)
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
        self.hub.later(max(_FIRST, linger), stop_if_unwatched)
        try:
            self._start(run)
        except LoopError:
            del self._shared[loop.name]
            raise

    # All of them

    def _run(
        self, source: Source, log: Log, channel: str, label: str, step_context: StepContext | None = None
    ) -> Run:
        kind = TaskRun if inspect.isasyncgen(source) else ThreadRun
        return kind(self, source, log, channel, label, step_context)

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
