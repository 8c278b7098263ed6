"""The loops and jobs of a process: which run writes which channel, when one is started, and when it is not needed.

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
from dataclasses import replace
from functools import cached_property
from typing import Any, Protocol

from .errors import HubError, LoopError
from .hub import messages
from .hub.held import Held
from .hub.hub import Hub, Outlet, Shared
from .hub.leases import FIRST, STOPPED
from .log import PRIVATE, Log
from .pipe import Pipe
from .runs import Lease, Run, Source, StepContext, Stopped, TaskRun, TextRun, ThreadRun, required
from .seldom import Seldom
from .settings import Settings

logger = logging.getLogger("afterload.loops")

_WAITING = 32  # async loops that wait for a hub elsewhere at the same time
_REMEMBERED = 10_000  # ends of private loops, so that a browser's EventSource is told to stop
_OVER_MOST = 100  # jobs that have ended, and are brought to the next hub if theirs ends
_RETURNS = 0.1  # seconds that tasks have for that when all loops are over
_AGAIN = 0.5  # seconds between two tries to bring the jobs to a hub


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
        if needed := required(function):
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


class Whereabouts(Protocol):
    """Where the hub is (`afterload.hub.meeting`)."""

    @property
    def looks(self) -> bool:
        """Whether there may yet be another one than the process has now."""

    def present(self) -> Shared | None:
        """It, if it is there; looks for it, if not."""


class Loops:
    """The loops and jobs of one process.

    Args:
        hub: where the private ones publish.
        settings: bounds and durations.
        step_context: makes the context that each step runs in.
        definitions: the shared loops, by name; more may come.
        member: what this process is called in its namespace.
        refused: told of a shared loop that was to be started, and why it was not.

    Attributes:
        whereabouts: of the hub that is to have the jobs' channels; None where that is `hub` for good.
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
        self._jobs: dict[str, Run] = {}  # by channel
        self._is_looking = False
        self._ends_now = False
        self.whereabouts: Whereabouts | None = None
        self._running: set[Run] = set()
        self._ends: OrderedDict[str, tuple[int, str, str]] = OrderedDict()  # offset, status and message
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

    def find_private(self, key: str, label: str, at: int) -> Log | None:
        """The log of a viewer's own loop, while it is remembered; later, for who has it all, one that has its end."""
        run = self._private.get(key)
        if run is not None:
            return run.log if run.label == label else None
        end, status, message = self._ends.get(key, (0, "", ""))
        if not 0 < end <= at:
            return None
        log = self.hub.new_log(key)
        log.head = end - 1
        log.finish(PRIVATE, status, message)
        return log

    def private_end(self, key: str, at: int) -> int | None:
        """The offset of that loop's end, 0 while it goes on; None if there is nothing for a page that is at `at`."""
        run = self._private.get(key)
        if run is not None:
            return run.log.channels[PRIVATE].ended
        end = self._ends[key][0] if key in self._ends else 0
        return end if 0 < end <= at else None

    def ask(self, key: str, label: str, at: int) -> int | None:
        """The same for another process; None as well if the loop has another name."""
        run = self._private.get(key)
        return None if run is not None and run.label != label else self.private_end(key, at)

    def take(self, sock: socket.socket, viewer: dict[str, Any]) -> None:
        """Serves the viewer of a private loop that has come to another process."""
        log = self.find_private(str(viewer["key"]), str(viewer["label"]), int(viewer["at"]))
        if log is None:
            sock.close()  # it has ended meanwhile: its page comes again, and is told so
            return
        asked = messages.follow(viewer["follow"], self.hub.clock, 1, private=True)
        self.hub.adopt(sock, replace(asked, log=log, at=int(viewer["at"])))

    def revoke(self, owner: str) -> None:
        """Has the views of an owner's pages asked again, of those with a loop of their own."""
        self.hub.revoke((), owner)

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
            channel = run.log.channels[PRIVATE]
            if channel.ended:
                self._ends[key] = channel.ended, channel.status, channel.message
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
        """Ends the runs of which the leases were somebody's who is gone. Jobs go on, and are for the next one."""
        for run in list(self._shared.values()):
            if run.lease is not None and run.lease.outlet is outlet:
                run.stop()
        self._look_on()

    # Jobs

    def job(self, source: Source, label: str, hold: Callable[[Held], None]) -> Run:
        """Starts a job.

        Args:
            source: the generator.
            label: its name in log records.
            hold: has a hub hold its channel.

        Raises:
            LoopError: as `start_private`; or the process ends.
            HubError: by `hold`.
        """
        held = Held(secrets.token_urlsafe(16), label, self.settings, self._look_on)
        run = self._run(source, held, held.channel, label)
        with self._lock:
            if self._ends_now:
                raise LoopError("this process is about to end, and its jobs would be lost")
            if self.full():
                raise LoopError(f"{len(self._running)} loops are running, and max_loops is no more")
            self._running.add(run)
            self._jobs[held.channel] = run  # now: should the hub end meanwhile, the next one is to have it
        try:
            hold(held)
        except BaseException:
            self._forget_job(held.channel)
            self.ended(run)
            raise
        try:
            self._start(run)
        except LoopError as error:
            run.over(error)
            raise
        self._look_on()
        return run

    def find_job(self, channel: str) -> Run | None:
        """The run of a job that this process runs, or has run not long ago."""
        return self._jobs.get(channel)

    def cancel(self, name: str, number: int) -> None:
        """Tells a job to end; see `leases.Runner`."""
        run = self._jobs.get(name)
        if run is not None:
            run.stop()

    def lose_jobs(self) -> None:
        """The process ends: jobs are told to, and are lost, and none is started any more. Waits for nothing."""
        with self._lock:
            self._ends_now = True
            jobs = list(self._jobs.values())
        for run in jobs:
            if run.held is not None:
                run.held.lose()
            run.stop()
        self.hub.leases.lose(self, STOPPED)

    def come(self, outlet: Outlet) -> None:
        """There is another hub: it is to have the channels of the jobs."""
        try:
            for held in self._held():
                held.hold(self, outlet)
        except HubError as error:
            logger.info("afterload: the jobs of this process are not with their hub yet: %s", error)
            self._look_on()

    def _held(self) -> list[Held]:
        with self._lock:
            return [run.held for run in self._jobs.values() if run.held is not None]

    def _is_to_look(self) -> bool:
        """Whether there is a job that may have to be brought to another hub than it is with."""
        where, jobs = self.whereabouts, self._held()
        if where is None or self._ends_now or not jobs:
            return False
        if where.looks:
            return True
        shared = where.present()
        return shared is not None and not all(held.is_with(shared.outlet) for held in jobs)

    def _look_on(self) -> None:
        """Goes on to bring the jobs to a hub, in a thread of its own, until they are with it."""
        with self._lock:
            if self._is_looking or self._ends_now or not self._jobs or self.whereabouts is None:
                return
            self._is_looking = True
        try:
            threading.Thread(target=self._look, name="afterload-jobs", daemon=True).start()
        except RuntimeError:  # the next one who sees that it is needed tries again
            self._is_looking = False

    def _look(self) -> None:
        while self._is_looking:
            while self._is_to_look():
                shared = self.whereabouts.present() if self.whereabouts is not None else None
                if shared is not None:
                    self.come(shared.outlet)
                time.sleep(_AGAIN)
            self._is_looking = False
            if self._is_to_look():  # since a moment ago, and who has seen it has seen this thread as well
                self._is_looking = True

    def _job_over(self, run: Run) -> None:
        """A job has ended, and is remembered for as long as its hub does so."""
        self.hub.later(self.settings.loop_retention, lambda: self._forget_job(run.channel))
        with self._lock:
            over = [job.channel for job in self._jobs.values() if job.finished.is_set()]
        for channel in over[:-_OVER_MOST]:
            self._forget_job(channel)

    def _forget_job(self, channel: str) -> None:
        with self._lock:
            self._jobs.pop(channel, None)

    # All of them

    def _run(
        self,
        source: Source,
        to: Log | Lease | Held,
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
        if run.channel in self._jobs:
            self._job_over(run)

    def record(self, label: str, error: BaseException) -> None:
        """Tells the log of a failed loop."""
        logger.error("afterload: the loop %r failed", label, exc_info=error)

    def tell(self, label: str, error: BaseException) -> None:
        """Tells the app's handlers of a failure."""
        for handler in self.handlers:
            try:
                handler(label, error)
            except (Exception, Stopped):  # it may publish to a job that was told to end
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
        self.lose_jobs()
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
    if left := asyncio.all_tasks(loop):  # which have said that they are over, and have yet to return
        loop.run_until_complete(asyncio.wait(left, timeout=_RETURNS))
    loop.close()
