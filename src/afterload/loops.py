"""The loops of a process: which run writes which channel, when one is started, and when nobody needs it any more.

What a run is, and how one ends, is said in `afterload.runs`.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import secrets
import socket
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from typing import Any

from .errors import LoopError
from .hub.hub import Hub
from .hub.leases import FIRST
from .hub.viewer import Follow
from .log import PRIVATE, Log
from .pipe import Pipe
from .runs import Lease, Outlet, Run, Source, StepContext, TaskRun, TextRun, ThreadRun
from .seldom import Seldom
from .settings import Settings

logger = logging.getLogger("afterload.loops")

_WAITING = 32  # async loops that wait for a hub elsewhere at the same time
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
        self._owner.restart(self)


class Loops:
    """The loops of one process.

    Args:
        hub: where the private ones publish.
        settings: bounds and durations.
        step_context: makes the context that each step runs in.
        definitions: the shared loops, by name; more may come.
        member: what this process is called in its namespace.
        refused: told of a shared loop that was to be started, and why it was not.
    """

    def __init__(
        self,
        hub: Hub,
        settings: Settings,
        step_context: Callable[[], AbstractContextManager[Any]] = nullcontext,
        definitions: Mapping[str, SharedLoop] | None = None,
        member: str = "",
        refused: Callable[[str, LoopError], None] = lambda name, error: None,
    ) -> None:
        self.hub = hub
        self.settings = settings
        self.refused = refused
        self._step_context = step_context
        self.waiting = Seldom()
        self._definitions = {} if definitions is None else definitions
        self._member = member
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

    @cached_property
    def executor(self) -> Executor:
        """Threads in which async loops wait for a hub elsewhere: the event loop's own are the app's."""
        return ThreadPoolExecutor(_WAITING, "afterload-publish")

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
        log = self.hub.new_log(self._key())
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
        pipe = Pipe(self._key())
        run = TextRun(self, source, pipe, PRIVATE, label, nullcontext)
        self._add_private(run, 0.0)
        try:
            return run, run.first()
        except BaseException:
            self.ended(run)
            self._forget_private(run)
            raise

    def _key(self) -> str:
        """128 random bits, and where the loop is to be found."""
        return f"{secrets.token_urlsafe(16)}~{self._member}"

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
        self.hub.later(max(FIRST, linger), lambda: self._close_if_away(run, linger))

    def find_private(self, key: str, label: str) -> Log | None:
        """The log of a viewer's own loop, while it is remembered."""
        run = self._private.get(key)
        return run.log if run is not None and run.label == label else None

    def private_end(self, key: str) -> int | None:
        """The offset of that loop's end, 0 while it goes on; None if it is unknown."""
        run = self._private.get(key)
        return self._ends.get(key) if run is None else run.log.channels[PRIVATE].ended

    def ask(self, key: str, label: str) -> int | None:
        """The same for another process; None as well if the loop has another name."""
        run = self._private.get(key)
        return None if run is not None and run.label != label else self.private_end(key)

    def take(self, sock: socket.socket, viewer: dict[str, Any]) -> None:
        """Serves the viewer of a private loop that has come to another process."""
        log = self.find_private(str(viewer["key"]), str(viewer["label"]))
        if log is None:
            sock.close()  # it has ended meanwhile: its page comes again, and is told so
            return
        follow = Follow(
            log,
            (PRIVATE,),
            at=int(viewer["at"]),
            position=str(viewer["position"]),
            into=viewer["into"],
            hold=bool(viewer["hold"]),
            head=str(viewer["head"]).encode("latin-1"),
            address=str(viewer["address"]),
        )
        self.hub.adopt(sock, follow)

    def leave(self, key: str) -> None:
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

    # Shared loops, as who offers to run them

    def define(self, loop: SharedLoop) -> None:
        """There is one more loop that this process can run."""
        self.hub.leases.offer(self, loop.name, self._linger(loop))

    def offered(self) -> list[tuple[str, float]]:
        """What it offers to run, and how long each goes on after its last viewer."""
        return [(loop.name, self._linger(loop)) for loop in self._definitions.values()]

    def _linger(self, loop: SharedLoop) -> float:
        return self.settings.linger if loop.linger is None else loop.linger

    def ensure(self, name: str) -> None:
        """Has a shared loop of this process run, unless it does, or its end is still remembered.

        Raises:
            LoopError: as `start_private`.
        """
        self.hub.leases.want(name, self)

    def start(self, name: str, number: int, outlet: Outlet | None = None) -> None:
        """Starts a run of a shared loop, under a lease (of this process's own hub, unless it is said whose).

        Raises:
            LoopError: as `start_private`.
        """
        loop = self._definitions.get(name)
        if loop is None:
            raise LoopError(f"there is no loop {name!r} in this process")
        lease = Lease(outlet or self.hub.leases, number)
        try:
            with self._lock:
                if self.full():
                    raise LoopError(f"{len(self._running)} loops are running, and max_loops is no more")
                run = self._run(loop.function(), lease, name, name)
                self._running.add(run)
                before = self._shared.get(name)
                self._shared[name] = run
            if before is not None:
                before.stop()
            self._start(run)
        except LoopError as error:
            self.refused(name, error)
            raise

    def stop(self, name: str, number: int, outlet: Outlet | None = None) -> None:
        """Ends the run of a shared loop, as its lease is over."""
        run = self._shared.get(name)
        if run is not None and run.lease == Lease(outlet or self.hub.leases, number):
            run.stop()

    def stop_all(self, outlet: object) -> None:
        """Ends the runs of which the leases were somebody's who is gone."""
        for run in list(self._shared.values()):
            if run.lease is not None and run.lease.outlet is outlet:
                run.stop()

    # All of them

    def _run(
        self,
        source: Source,
        to: Log | Lease,
        channel: str,
        label: str,
        step_context: StepContext | None = None,
    ) -> Run:
        kind = TaskRun if inspect.isasyncgen(source) else ThreadRun
        return kind(self, source, to, channel, label, step_context)

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
